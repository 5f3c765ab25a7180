//! Rates of data.

use std::fmt;
use std::ops::Div;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::{decimal, split_number, split_prefix};
use super::{Bytes, UnitError};

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
            _ => match split_prefix(quantity).ok_or_else(refuse)? {
                (prefix, "") => prefix.factor(),
                _ => return Err(refuse()),
            },
        };
        ByteRate::new(number * factor / if bits { 8.0 } else { 1.0 }).ok_or_else(refuse)
    }
}
