//! The policies there are to simulate: those of a real migration, and rules that QEMU no longer has.

use landfall_core::decision::Decision;
use landfall_core::policy::{self, Needs, Policy, UnknownPolicy};
use landfall_core::telemetry::view::View;
use landfall_core::units::Moment;

use crate::qemu::AutoConvergeVersion;

/// QEMU's auto-converge as it was from 2013 to 2015. No QEMU that landfall steers has it.
#[derive(Debug, Clone, Copy, Default)]
pub struct AutoConverge2013;

impl Policy for AutoConverge2013 {
    fn name(&self) -> &'static str {
        "auto-converge-2013"
    }

    fn needs(&self) -> Needs {
        Needs { auto_converge: true, ..Needs::default() }
    }

    fn decide(&mut self, _: &View) -> Decision {
        Decision::leave_alone("QEMU's auto-converge of 2013 has the guest")
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        Some(Moment::NEVER)
    }
}

/// How the name of a policy begins that is a script in a file.
pub const SCRIPT: &str = "script:";

/// A policy, and the QEMU it is for.
pub struct Choice {
    /// The policy.
    pub policy: Box<dyn Policy>,
    /// The auto-converge of the QEMU to simulate.
    pub auto_converge: AutoConvergeVersion,
}

impl Choice {
    /// A policy with the QEMU of today.
    pub fn of_today(policy: Box<dyn Policy>) -> Choice {
        Choice { policy, auto_converge: AutoConvergeVersion::Today }
    }
}

/// The auto-converge of 2013, with the QEMU that had it.
pub fn auto_converge_2013() -> Choice {
    Choice { policy: Box::new(AutoConverge2013), auto_converge: AutoConvergeVersion::Of2013 }
}

/// The names of all policies that can be simulated.
pub fn names() -> Vec<&'static str> {
    let mut names = policy::names();
    names.push(AutoConverge2013.name());
    names
}

/// The policy of a name.
///
/// # Errors
/// [`UnknownPolicy`], with the names of those that a real migration can have.
pub fn by_name(name: &str) -> Result<Choice, UnknownPolicy> {
    if name == AutoConverge2013.name() {
        return Ok(auto_converge_2013());
    }
    policy::by_name(name).map(Choice::of_today)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_policy() {
        for name in names() {
            assert_eq!(by_name(name).ok().unwrap().policy.name(), name);
        }
        assert!(by_name("magic").is_err());
    }
}
