//! Amounts of memory and of data.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::text::{decimal, round_to_whole, split_number, split_prefix};
use super::{ByteRate, UnitError};

/// Bytes in one page of guest memory on x86-64. QEMU counts dirty memory in these.
pub const PAGE: Bytes = Bytes(4096);

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
                let (prefix, rest) = split_prefix(unit).ok_or_else(refuse)?;
                match rest {
                    "B" => prefix.factor(),
                    "" => prefix.binary_factor(),
                    _ => return Err(refuse()),
                }
            }
        };
        round_to_whole(number * factor).map(Bytes).ok_or_else(refuse)
    }
}
