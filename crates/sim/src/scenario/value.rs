//! A value of a scenario: one, or a range to draw from.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use landfall_core::units::{ByteRate, Bytes, Share, UnitError, parse_duration};
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

use crate::rng::Draws;

/// Why a text is not a quantity of its kind.
#[derive(Debug, thiserror::Error)]
pub(super) enum QuantityError {
    /// It is not a size, rate, share or time.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// It is a number in quotes.
    #[error("{0:?} is in quotes; write a bare number, for example 1.5")]
    QuotedNumber(String),
}

/// A quantity that a scenario can have.
pub(super) trait Quantity: Copy + PartialOrd {
    /// What is expected, for an error.
    const EXPECTED: &'static str;
    /// Reads it as people write it.
    fn read(text: &str) -> Result<Self, QuantityError>;
    /// From a bare number, where one makes sense.
    fn from_number(_: f64) -> Option<Self> {
        None
    }
    /// So far on the way from `low` to `high`.
    fn between(low: Self, high: Self, part: f64) -> Self;
}

/// One value, or all between two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value<T> {
    pub(super) low: T,
    pub(super) high: T,
}

impl<T: Quantity> Value<T> {
    /// This value and no other.
    pub(super) fn only(value: T) -> Value<T> {
        Value { low: value, high: value }
    }

    /// Draws one. Draws as many numbers for a single value as for a range, so that a value made a
    /// range changes no other.
    pub(super) fn draw(self, draws: &mut Draws) -> T {
        T::between(self.low, self.high, draws.part())
    }
}

impl Quantity for Bytes {
    const EXPECTED: &'static str = "a size such as \"96MiB\" or \"1.5GB\", or a range of two";
    fn read(text: &str) -> Result<Bytes, QuantityError> {
        Ok(text.parse()?)
    }
    fn between(low: Bytes, high: Bytes, part: f64) -> Bytes {
        Bytes(low.0 + (high.saturating_sub(low).as_f64() * part) as u64)
    }
}

impl Quantity for ByteRate {
    const EXPECTED: &'static str = "a rate such as \"100MB/s\" or \"1Gbit/s\", or a range of two";
    fn read(text: &str) -> Result<ByteRate, QuantityError> {
        Ok(text.parse()?)
    }
    fn between(low: ByteRate, high: ByteRate, part: f64) -> ByteRate {
        ByteRate(low.0 + (high.0 - low.0) * part)
    }
}

impl Quantity for Share {
    const EXPECTED: &'static str = "a share such as \"20%\", or a range of two";
    fn read(text: &str) -> Result<Share, QuantityError> {
        Ok(text.parse()?)
    }
    fn between(low: Share, high: Share, part: f64) -> Share {
        Share::clamped(low.get() + (high.get() - low.get()) * part)
    }
}

impl Quantity for Duration {
    const EXPECTED: &'static str = "a time such as \"300ms\" or \"2min\", or a range of two";
    fn read(text: &str) -> Result<Duration, QuantityError> {
        Ok(parse_duration(text)?)
    }
    fn between(low: Duration, high: Duration, part: f64) -> Duration {
        low + high.saturating_sub(low).mul_f64(part)
    }
}

/// A plain number, such as how many CPUs a guest uses.
impl Quantity for f64 {
    const EXPECTED: &'static str = "a number such as 1.5, or a range of two";
    fn read(text: &str) -> Result<f64, QuantityError> {
        Err(QuantityError::QuotedNumber(text.to_owned()))
    }
    fn from_number(number: f64) -> Option<f64> {
        (number.is_finite() && number >= 0.0).then_some(number)
    }
    fn between(low: f64, high: f64, part: f64) -> f64 {
        low + (high - low) * part
    }
}

/// One end of a range.
struct One<T>(T);

struct OneVisitor<T>(PhantomData<T>);

struct ValueVisitor<T>(PhantomData<T>);

fn number<T: Quantity, E: Error>(number: f64) -> Result<T, E> {
    T::from_number(number).ok_or_else(|| {
        E::custom(format!("{number} has no unit, or none can be; write {}", T::EXPECTED))
    })
}

impl<'de, T: Quantity> Visitor<'de> for OneVisitor<T> {
    type Value = One<T>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<One<T>, E> {
        T::read(text).map(One).map_err(E::custom)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<One<T>, E> {
        number(value).map(One)
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<One<T>, E> {
        number(value as f64).map(One)
    }
}

impl<'de, T: Quantity> Deserialize<'de> for One<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<One<T>, D::Error> {
        from.deserialize_any(OneVisitor(PhantomData))
    }
}

impl<'de, T: Quantity> Visitor<'de> for ValueVisitor<T> {
    type Value = Value<T>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Value<T>, E> {
        T::read(text).map(Value::only).map_err(E::custom)
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value<T>, E> {
        number(value).map(Value::only)
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value<T>, E> {
        number(value as f64).map(Value::only)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut ends: A) -> Result<Value<T>, A::Error> {
        let wrong = || A::Error::custom("a range has two ends, the lower first: [low, high]");
        let One(low) = ends.next_element()?.ok_or_else(wrong)?;
        let One(high) = ends.next_element()?.ok_or_else(wrong)?;
        let more = ends.next_element::<One<T>>()?.is_some();
        if more || low > high { Err(wrong()) } else { Ok(Value { low, high }) }
    }
}

impl<'de, T: Quantity> Deserialize<'de> for Value<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Value<T>, D::Error> {
        from.deserialize_any(ValueVisitor(PhantomData))
    }
}
