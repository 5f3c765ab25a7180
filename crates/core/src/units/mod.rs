//! Quantities that carry their unit: [`Bytes`], [`ByteRate`], [`Share`] and [`Moment`].
//!
//! Each reads what people type and writes what people read. Decimal and binary prefixes differ
//! (`MB` is 10^6, `MiB` is 2^20), and bits and bytes differ (`Mbit/s`, `MB/s`): where a text leaves
//! that open, it is refused with the ways to say it, never guessed.

pub mod format;

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bytes in one page of guest memory on x86-64. QEMU counts dirty memory in these.
pub const PAGE: Bytes = Bytes(4096);

/// A text that is not a quantity: names the text and how to say it right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; {remedy}")]
pub struct UnitError {
    /// What was typed.
    pub text: String,
    /// The kind of quantity that was expected.
    pub what: &'static str,
    /// How to write one.
    pub remedy: &'static str,
}

/// An amount of memory or of data, in bytes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

impl Bytes {
    /// `n` MiB.
    pub const fn mib(n: u64) -> Self {
        Bytes(n << 20)
    }

    /// The number as a float, for arithmetic with rates.
    pub fn as_f64(self) -> f64 {
        self.0 as f64
    }

    /// `self - other`, or zero where `other` is the larger.
    pub fn saturating_sub(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_sub(other.0))
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(parts: I) -> Bytes {
        parts.fold(Bytes(0), Add::add)
    }
}

/// Time that `self` bytes take at a rate; `None` at a rate of zero.
impl Div<ByteRate> for Bytes {
    type Output = Option<Duration>;
    fn div(self, rate: ByteRate) -> Option<Duration> {
        (rate.0 > 0.0).then(|| Duration::try_from_secs_f64(self.as_f64() / rate.0).ok()).flatten()
    }
}

/// Rate at which `self` bytes went in a time; `None` for no time at all.
impl Div<Duration> for Bytes {
    type Output = Option<ByteRate>;
    fn div(self, time: Duration) -> Option<ByteRate> {
        (!time.is_zero()).then(|| ByteRate(self.as_f64() / time.as_secs_f64()))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&decimal(self.as_f64(), "B"))
    }
}

impl FromStr for Bytes {
    type Err = UnitError;
    /// Reads `4096`, `96MB`, `96 MiB`, `1.5GB`, and `256M` as QEMU reads it (a bare prefix is binary).
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            what: "size",
            remedy: "write a number with a unit, for example 96MB, 96MiB or 256M (= MiB)",
        };
        let (number, unit) = split_number(text).ok_or_else(refuse)?;
        let factor = match unit {
            "" | "B" => 1.0,
            _ => {
                let (prefix, rest) = prefix(unit).ok_or_else(refuse)?;
                match rest {
                    "B" => prefix.factor(),
                    "" => prefix.binary_factor(),
                    _ => return Err(refuse()),
                }
            }
        };
        whole(number * factor).map(Bytes).ok_or_else(refuse)
    }
}

/// A rate of data, in bytes per second; never negative, never NaN when built by [`ByteRate::new`].
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteRate(pub f64);

impl ByteRate {
    /// A rate, or `None` if it is negative or not finite.
    pub fn new(bytes_per_second: f64) -> Option<Self> {
        (bytes_per_second.is_finite() && bytes_per_second >= 0.0).then_some(Self(bytes_per_second))
    }

    /// `n` MB/s (10^6 bytes per second).
    pub const fn mb(n: u64) -> Self {
        Self((n * 1_000_000) as f64)
    }

    /// Whole bytes per second, as QEMU's parameters take them.
    pub fn per_second(self) -> u64 {
        self.0 as u64
    }

    /// Bytes that go at this rate in a time.
    pub fn over(self, time: Duration) -> Bytes {
        Bytes((self.0 * time.as_secs_f64()) as u64)
    }
}

/// How many times one rate is another; `None` where the other is zero.
impl Div for ByteRate {
    type Output = Option<f64>;
    fn div(self, other: ByteRate) -> Option<f64> {
        (other.0 > 0.0).then(|| self.0 / other.0)
    }
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&decimal(self.0, "B/s"))
    }
}

impl FromStr for ByteRate {
    type Err = UnitError;
    /// Reads `100MB/s`, `95.4 MiB/s`, `1Gbit/s`, `800Mbps`, `100MBps`, `12500000B/s`.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            what: "rate",
            remedy: "write a number with a unit, for example 100MB/s, 95MiB/s, 1Gbit/s or 800Mbps",
        };
        let (number, unit) = split_number(text).ok_or_else(refuse)?;
        let quantity = unit.strip_suffix("/s").or_else(|| unit.strip_suffix("ps"));
        let quantity = quantity.ok_or_else(refuse)?;
        let (quantity, bits) = match (quantity.strip_suffix("bit"), quantity.strip_suffix('B')) {
            (Some(prefix), _) => (prefix, true),
            (_, Some(prefix)) => (prefix, false),
            _ => (quantity.strip_suffix('b').ok_or_else(refuse)?, true),
        };
        let factor = match quantity {
            "" => 1.0,
            _ => match prefix(quantity).ok_or_else(refuse)? {
                (prefix, "") => prefix.factor(),
                _ => return Err(refuse()),
            },
        };
        ByteRate::new(number * factor / if bits { 8.0 } else { 1.0 }).ok_or_else(refuse)
    }
}

/// A share of one CPU, 0 (none) to 1 (all of it).
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Share(f64);

impl Share {
    /// No CPU at all.
    pub const NONE: Share = Share(0.0);
    /// A whole CPU.
    pub const FULL: Share = Share(1.0);

    /// The nearest share to a number; NaN counts as a full share, for what is not known is not held.
    pub fn clamped(value: f64) -> Self {
        if value.is_nan() { Self::FULL } else { Self(value.clamp(0.0, 1.0)) }
    }

    /// The share as a number, 0 to 1.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The smaller of two shares.
    pub fn min(self, other: Share) -> Share {
        Share(self.0.min(other.0))
    }

    /// The larger of two shares.
    pub fn max(self, other: Share) -> Share {
        Share(self.0.max(other.0))
    }
}

impl Mul<Duration> for Share {
    type Output = Duration;
    fn mul(self, time: Duration) -> Duration {
        time.mul_f64(self.0)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.0 * 100.0;
        let digits = usize::from(percent > 0.0 && percent < 9.95);
        match f.width() {
            None => write!(f, "{percent:.digits$} %"),
            Some(_) => f.pad(&format!("{percent:.digits$} %")),
        }
    }
}

impl FromStr for Share {
    type Err = UnitError;
    /// Reads a percentage: `20%`, `20 %`, `2.5%`. A bare number is refused: 0.2 could be either.
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = || UnitError {
            text: text.to_owned(),
            what: "share of a CPU",
            remedy: "write a percentage from 0% to 100%, for example 20%",
        };
        let (number, unit) = split_number(text).ok_or_else(refuse)?;
        let percent = (unit == "%" && (0.0..=100.0).contains(&number)).then_some(number);
        percent.map(|p| Share(p / 100.0)).ok_or_else(refuse)
    }
}

/// A point in time: how long after the start of the migration (or of the scenario) it is.
///
/// Nothing in this crate reads a clock; whoever calls says what time it is.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub Duration);

impl Moment {
    /// The start.
    pub const START: Moment = Moment(Duration::ZERO);

    /// Later than anything happens.
    pub const NEVER: Moment = Moment(Duration::MAX);

    /// The moment `ms` milliseconds after the start.
    pub const fn ms(ms: u64) -> Self {
        Moment(Duration::from_millis(ms))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Seconds after the start.
    pub fn as_secs_f64(self) -> f64 {
        self.0.as_secs_f64()
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(time))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(time))
    }
}

/// Reads a duration: `300ms`, `1.5s`, `2min`, `1h`, `1 min 30 s`. A bare number is refused.
///
/// # Errors
/// [`UnitError`] for anything else.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let refuse = || UnitError {
        text: text.to_owned(),
        what: "duration",
        remedy: "write a number with a unit, for example 300ms, 1.5s, 2min or 1h",
    };
    let mut rest = text.trim();
    let mut seconds = 0.0;
    loop {
        let (number, after) = split_number(rest).ok_or_else(refuse)?;
        let end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, others) = after.split_at(end);
        seconds += number * seconds_in(unit.trim_end()).ok_or_else(refuse)?;
        rest = others;
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).map_err(|_| refuse());
        }
    }
}

fn seconds_in(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return None,
    })
}

/// Writes a duration as people read it: `0 ms`, `85 ms`, `1.52 s`, `31.0 s`, `2 min 05 s`.
pub fn show_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s < 0.9995 => format!("{:.0} ms", s * 1000.0),
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 99.95 => format!("{s:.1} s"),
        s => {
            let whole = s.round() as u64;
            format!("{} min {:02} s", whole / 60, whole % 60)
        }
    }
}

/// A number in decimal units: three significant digits, the prefix that suits.
fn decimal(value: f64, unit: &str) -> String {
    let steps = ["", "k", "M", "G", "T", "P", "E"];
    let mut scaled = value;
    let mut step = 0;
    while scaled >= 999.5 && step + 1 < steps.len() {
        scaled /= 1000.0;
        step += 1;
    }
    let digits = match scaled {
        _ if step == 0 => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$} {}{unit}", steps[step])
}

/// The leading non-negative number of a text and its trimmed rest.
fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    number.is_finite().then(|| (number, unit.trim_start()))
}

/// A prefix of a unit: `k`/`M`/... with or without the `i` of the binary ones.
struct Prefix {
    power: i32,
    binary: bool,
}

impl Prefix {
    fn factor(&self) -> f64 {
        if self.binary { self.binary_factor() } else { 1000f64.powi(self.power) }
    }

    fn binary_factor(&self) -> f64 {
        1024f64.powi(self.power)
    }
}

fn prefix(unit: &str) -> Option<(Prefix, &str)> {
    let power = match unit.chars().next()? {
        'k' | 'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        _ => return None,
    };
    let rest = &unit[1..];
    Some(match rest.strip_prefix('i') {
        Some(rest) => (Prefix { power, binary: true }, rest),
        None => (Prefix { power, binary: false }, rest),
    })
}

fn whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..1.8e19).contains(&value)).then(|| value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_type_them() {
        let read = |text: &str| text.parse::<ByteRate>().map(|r| r.0);
        assert_eq!(read("100MB/s"), Ok(1e8));
        assert_eq!(read("100 MB/s"), Ok(1e8));
        assert_eq!(read("1Gbit/s"), Ok(1.25e8));
        assert_eq!(read("800Mbps"), Ok(1e8));
        assert_eq!(read("100MBps"), Ok(1e8));
        assert_eq!(read("8Mb/s"), Ok(1e6));
        assert_eq!(read("1MiB/s"), Ok(1048576.0));
        assert_eq!(read("1kB/s"), Ok(1000.0));
        assert_eq!(read("1KiB/s"), Ok(1024.0));
    }

    #[test]
    fn what_leaves_the_unit_open_is_refused_with_a_remedy() {
        for text in ["100", "100M", "100MB", "fast", "", "-1MB/s", "1e3MB/s", "MB/s", "1XB/s"] {
            let error = text.parse::<ByteRate>().unwrap_err();
            assert!(error.to_string().contains("100MB/s"), "{error}");
        }
        assert!("0.2".parse::<Share>().is_err());
        assert!("101%".parse::<Share>().is_err());
        assert!(parse_duration("300").is_err());
        assert!(parse_duration("1min 30").is_err());
        assert!(parse_duration("").is_err());
        assert!("96X".parse::<Bytes>().is_err());
    }

    #[test]
    fn durations_are_read_as_people_type_and_as_they_are_shown() {
        let read = |text: &str| parse_duration(text).map(|time| time.as_millis());
        assert_eq!(read("0s"), Ok(0));
        assert_eq!(read("1.5s"), Ok(1500));
        assert_eq!(read("1h30m"), Ok(5_400_000));
        assert_eq!(read(&show_duration(Duration::from_secs(125))), Ok(125_000));
    }

    #[test]
    fn sizes_follow_qemu_for_a_bare_prefix() {
        assert_eq!("256M".parse(), Ok(Bytes::mib(256)));
        assert_eq!("96MB".parse(), Ok(Bytes(96_000_000)));
        assert_eq!("96 MiB".parse(), Ok(Bytes::mib(96)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
    }

    #[test]
    fn quantities_are_written_with_three_digits() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(999_600).to_string(), "1.00 MB");
        assert_eq!(Bytes(100_663_296).to_string(), "101 MB");
        assert_eq!(ByteRate(12.34e6).to_string(), "12.3 MB/s");
        assert_eq!(Share::clamped(0.2).to_string(), "20 %");
        assert_eq!(Share::clamped(0.025).to_string(), "2.5 %");
        assert_eq!(Share::NONE.to_string(), "0 %");
        assert_eq!(show_duration(Duration::from_millis(85)), "85 ms");
        assert_eq!(show_duration(Duration::from_millis(1520)), "1.52 s");
        assert_eq!(show_duration(Duration::from_secs(125)), "2 min 05 s");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_or_give_a_value_out_of_range(text in "\\PC{0,16}") {
            if let Ok(rate) = text.parse::<ByteRate>() { prop_assert!(rate.0 >= 0.0) }
            if let Ok(share) = text.parse::<Share>() { prop_assert!((0.0..=1.0).contains(&share.get())) }
            let _ = text.parse::<Bytes>();
            let _ = parse_duration(&text);
        }

        #[test]
        fn a_rate_times_a_time_over_the_rate_is_the_time(mb in 1u64..100_000, ms in 1u64..1_000_000) {
            let time = Duration::from_millis(ms);
            let back = (ByteRate::mb(mb).over(time) / ByteRate::mb(mb)).unwrap();
            prop_assert!((back.as_secs_f64() - time.as_secs_f64()).abs() < 1e-6);
        }
    }
}
