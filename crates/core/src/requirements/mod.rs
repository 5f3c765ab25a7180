//! What the operator demands of a migration, which of it may give way, and whether it was kept.

pub mod changes;
pub mod settings;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{ByteRate, Share};

/// The stall allowed where the operator says nothing: QEMU's own default downtime limit.
pub const DEFAULT_MAX_STALL: Duration = Duration::from_millis(300);

/// The four requirements of the 2011 thread, and the order in which they may be broken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requirements {
    /// Most that pre-copy may put on the link; `None`: what the hypervisor is set to.
    pub max_bandwidth: Option<ByteRate>,
    /// Least share of a CPU each vCPU keeps while the guest runs.
    pub min_cpu: Share,
    /// Longest time the guest may stand still at a stretch, final blackout included.
    pub max_stall: Duration,
    /// Longest time for the whole migration.
    pub max_time: Option<Duration>,
    /// What may be broken when not all can be kept, first to last.
    pub give_way: Vec<Requirement>,
}

impl Default for Requirements {
    fn default() -> Self {
        Requirements {
            max_bandwidth: None,
            min_cpu: Share::NONE,
            max_stall: DEFAULT_MAX_STALL,
            max_time: None,
            give_way: Vec::new(),
        }
    }
}

impl Requirements {
    /// Whether the operator allows this requirement to be broken.
    pub fn may_break(&self, requirement: Requirement) -> bool {
        self.give_way.contains(&requirement)
    }

    /// Whether the first may be broken, and before the second is.
    pub fn gives_way_first(&self, first: Requirement, second: Requirement) -> bool {
        let place = |which| self.give_way.iter().position(|requirement| *requirement == which);
        match (place(first), place(second)) {
            (Some(first), Some(second)) => first < second,
            (first, None) => first.is_some(),
            (None, _) => false,
        }
    }
}

/// One of the requirements, by the name it has on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Requirement {
    /// `--max-bandwidth`
    MaxBandwidth,
    /// `--min-cpu`
    MinCpu,
    /// `--max-stall`
    MaxStall,
    /// `--max-time`
    MaxTime,
}

impl Requirement {
    /// All of them, in the order of the 2011 thread.
    pub const ALL: [Requirement; 4] =
        [Self::MaxBandwidth, Self::MinCpu, Self::MaxStall, Self::MaxTime];

    /// The name on the command line, without the dashes.
    pub fn name(self) -> &'static str {
        match self {
            Self::MaxBandwidth => "max-bandwidth",
            Self::MinCpu => "min-cpu",
            Self::MaxStall => "max-stall",
            Self::MaxTime => "max-time",
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of the requirements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a requirement; choose from max-bandwidth, min-cpu, max-stall, max-time")]
pub struct UnknownRequirement(pub String);

impl FromStr for Requirement {
    type Err = UnknownRequirement;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|requirement| requirement.name() == text.trim())
            .ok_or_else(|| UnknownRequirement(text.to_owned()))
    }
}

/// The second dial of 2011: 0 disturbs the guest least, 1 stalls it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Aggression(f64);

impl Aggression {
    /// Where the guest is disturbed least.
    pub const LEAST: Aggression = Aggression(0.0);

    /// The middle of the dial.
    pub const DEFAULT: Aggression = Aggression(0.5);

    /// An aggression, or `None` outside 0.0 to 1.0.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The setting, 0.0 to 1.0.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Aggression {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A text that is not an aggression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an aggression; write a number from 0.0 (disturb least) to 1.0 (stall the guest)"
)]
pub struct NotAnAggression(pub String);

impl FromStr for Aggression {
    type Err = NotAnAggression;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value = text.trim().parse().ok().and_then(Self::new);
        value.ok_or_else(|| NotAnAggression(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn give_way_names_are_those_of_the_options() {
        for requirement in Requirement::ALL {
            assert_eq!(requirement.name().parse(), Ok(requirement));
        }
        let error = "max-pain".parse::<Requirement>().unwrap_err();
        assert!(error.to_string().contains("max-stall"), "{error}");
    }

    #[test]
    fn aggression_outside_its_dial_is_refused() {
        for text in ["-0.1", "1.1", "NaN", "high", ""] {
            assert!(text.parse::<Aggression>().is_err(), "{text}");
        }
        assert_eq!("1".parse::<Aggression>().unwrap().get(), 1.0);
    }
}
