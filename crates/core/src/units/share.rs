//! Shares of a CPU.

use std::fmt;
use std::ops::Mul;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::UnitError;
use super::text::split_number;

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
