//! What the operator asks of a migration: the requirements, which of them may be broken first, and the
//! aggression.
//!
//! ```text
//! mod             Requirements and their names
//! aggression      the dial
//! settings        SETTINGS, the table of all of them by name and text, and their values
//! setting_text    how a setting is read and written as people type it
//! setting_file    the same as a map, in a file or in JSON
//! setting_change  what changed on the way
//! ```

mod aggression;
mod setting_change;
mod setting_file;
mod setting_text;
pub mod settings;

pub use aggression::{Aggression, InvalidAggression};
pub use setting_change::{SettingChange, changes_between, is_tighter};
pub use setting_text::SettingTextError;
pub use settings::{SETTINGS, Setting, SettingError, SettingSpec, Settings};

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{ByteRate, Share};

/// The longest stall allowed where the operator sets none: QEMU's own default downtime limit.
pub const DEFAULT_MAX_STALL: Duration = Duration::from_millis(300);

/// The four requirements of the 2011 thread, and the order in which they may be broken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Requirements {
    /// Most that pre-copy may put on the link; `None`: what the hypervisor is set to.
    pub max_bandwidth: Option<ByteRate>,
    /// Least share of a CPU each vCPU keeps while the guest runs.
    pub min_cpu: Share,
    /// Longest time that the guest may stand still at a stretch, final downtime included.
    pub max_stall: Duration,
    /// Longest time for the whole migration.
    pub max_time: Option<Duration>,
    /// The requirements that may be broken when not all can be kept, first to last.
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

    /// The name on the command line, without the dashes. The requirements are the first rows of
    /// [`SETTINGS`], in this order.
    pub fn name(self) -> &'static str {
        SETTINGS[self as usize].name
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that is none of the requirements.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a requirement; choose from {names}",
    names = Requirement::ALL.map(Requirement::name).join(", ")
)]
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
}
