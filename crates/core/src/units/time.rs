//! Points in time and durations.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::UnitError;
use super::text::split_number;

/// A point in time: how long after the start of the migration (or of the scenario) it is.
///
/// Nothing in this crate reads a clock; the caller gives the time.
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
