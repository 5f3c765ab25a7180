//! CPU time of a guest, and how much of it the guest takes per second.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// CPU time of a guest, in seconds, all its vCPUs together: half a second of two busy vCPUs is one.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuTime(pub f64);

impl CpuTime {
    /// The same as a duration; what is no time at all is none.
    pub fn duration(self) -> Duration {
        Duration::try_from_secs_f64(self.0.max(0.0)).unwrap_or(Duration::MAX)
    }
}

impl From<Duration> for CpuTime {
    fn from(time: Duration) -> CpuTime {
        CpuTime(time.as_secs_f64())
    }
}

impl Add for CpuTime {
    type Output = CpuTime;
    fn add(self, other: CpuTime) -> CpuTime {
        CpuTime(self.0 + other.0)
    }
}

impl AddAssign for CpuTime {
    fn add_assign(&mut self, other: CpuTime) {
        self.0 += other.0;
    }
}

impl Sub for CpuTime {
    type Output = CpuTime;
    fn sub(self, other: CpuTime) -> CpuTime {
        CpuTime(self.0 - other.0)
    }
}

impl Sum for CpuTime {
    fn sum<I: Iterator<Item = CpuTime>>(all: I) -> CpuTime {
        CpuTime(all.map(|time| time.0).sum())
    }
}

impl fmt::Display for CpuTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of CPU", crate::units::show_duration(self.duration()))
    }
}

/// CPU time that a guest takes in a second while no limit applies, in seconds, all vCPUs together:
/// 2.0 is two busy vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuDemand(pub f64);

impl fmt::Display for CpuDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} CPUs", self.0)
    }
}
