//! The policies, one file each, all through one interface: a [`View`] in, a [`Decision`] out.
//!
//! A policy is a value with a memory of its own and no other input: the time is in the view. It
//! decides; it never acts. What it asks for passes the [`crate::guard`], so that none of them has
//! to repeat the requirements' limits, only to be sensible about them.

mod auto_converge;
mod convergence;
mod pause_and_ship;
mod plain;
mod post_copy;
mod predictive;
mod progressive;
pub mod rfc2011;

use crate::decision::Decision;
use crate::planner::remedies::Conflict;
use crate::telemetry::view::View;
use crate::units::Moment;

pub use auto_converge::AutoConverge;
pub use pause_and_ship::PauseAndShip;
pub use plain::Plain;
pub use post_copy::PostCopy;
pub use predictive::{Predictive, Stage};
pub use progressive::Progressive;
pub use rfc2011::Rfc2011;

/// Why a policy would not start a migration. The text names what would resolve it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PreflightRefusal {
    /// By what is known of guest and link, the requirements cannot all be kept.
    #[error(transparent)]
    Conflict(#[from] Box<Conflict>),
    /// A script refuses, in its own words.
    #[error("{0}")]
    Script(String),
}

/// A rule for steering a migration.
pub trait Policy: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &str;

    /// What has to be set up before the migration starts.
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Whether to start at all, by what is known before. Called once, before the start.
    ///
    /// # Errors
    /// [`PreflightRefusal`], with what would resolve it.
    fn preflight(&mut self, _view: &View) -> Result<(), PreflightRefusal> {
        Ok(())
    }

    /// What there is to say in the report of how it decided.
    fn explanation(&self) -> Option<String> {
        None
    }

    /// How the policy failed and which one steers since, if it failed. Every report says it.
    fn fallback_reason(&self) -> Option<&str> {
        None
    }

    /// Decides what to do now. Called at every sample, with views in order of time.
    fn decide(&mut self, view: &View) -> Decision;

    /// What it is doing, in a word, where it has stages.
    fn stage(&self) -> Option<&'static str> {
        None
    }

    /// Until when the decision just made of this view stands, unless the hypervisor syncs its
    /// bitmap before; `None` where the next sample may change it.
    ///
    /// A hint for the simulator, which then need not take samples in vain. A real migration is looked at
    /// all the same.
    fn valid_until(&self, _view: &View) -> Option<Moment> {
        None
    }
}

/// A mutable reference to a policy is a policy.
impl<P: Policy + ?Sized> Policy for &mut P {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn needs(&self) -> Needs {
        (**self).needs()
    }

    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        (**self).preflight(view)
    }

    fn explanation(&self) -> Option<String> {
        (**self).explanation()
    }

    fn fallback_reason(&self) -> Option<&str> {
        (**self).fallback_reason()
    }

    fn stage(&self) -> Option<&'static str> {
        (**self).stage()
    }

    fn decide(&mut self, view: &View) -> Decision {
        (**self).decide(view)
    }

    fn valid_until(&self, view: &View) -> Option<Moment> {
        (**self).valid_until(view)
    }
}

/// The reason of a report, with how the policy broke, where it did and the reason does not say so.
pub fn with_fallback_reason(policy: &dyn Policy, reason: Option<String>) -> Option<String> {
    match (policy.fallback_reason(), reason) {
        (Some(how), Some(reason)) if !reason.contains(how) => Some(format!("{reason}. {how}")),
        (Some(how), None) => Some(how.to_owned()),
        (_, reason) => reason,
    }
}

/// What a policy needs to be set up before the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// The hypervisor's own auto-converge.
    pub auto_converge: bool,
    /// Post-copy, at both ends.
    pub post_copy: bool,
    /// Being able to hold the vCPUs by quota.
    pub quota: bool,
}

/// What there is to choose from: name, one line of help, how to make one.
#[derive(Debug, Clone, Copy)]
pub struct PolicyEntry {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// Makes one.
    pub make: fn() -> Box<dyn Policy>,
}

/// All policies, gentlest idea first.
pub const ALL: &[PolicyEntry] = &[
    PolicyEntry {
        name: "predictive",
        help: "plans by the guest's dirty curve: holds it hard but briefly, near the end, or pauses it if that costs less",
        make: || Box::<Predictive>::default(),
    },
    PolicyEntry { name: "plain", help: "no help at all", make: || Box::new(Plain) },
    PolicyEntry {
        name: "auto-converge",
        help: "QEMU's own throttle; landfall keeps its hands off",
        make: || Box::new(AutoConverge),
    },
    PolicyEntry {
        name: "rfc2011",
        help: "the law of the 2011 thread: the CPU follows link rate over dirty rate",
        make: || Box::<Rfc2011>::default(),
    },
    PolicyEntry {
        name: "progressive",
        help: "no grip on a guest that makes progress, then tighter, then pause and ship the rest",
        make: || Box::<Progressive>::default(),
    },
    PolicyEntry {
        name: "pause-and-ship",
        help: "one pass, then pause the guest and ship the rest",
        make: || Box::<PauseAndShip>::default(),
    },
    PolicyEntry {
        name: "post-copy",
        help: "one pass, then run at the destination and fetch pages on demand",
        make: || Box::<PostCopy>::default(),
    },
];

/// The policy used where none is named.
pub const DEFAULT: &str = "predictive";

/// A name that is none of the policies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no policy {0:?}; choose from {names}", names = names().join(", "))]
pub struct UnknownPolicy(pub String);

/// The names of all policies.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|entry| entry.name).collect()
}

/// The policy of a name.
///
/// # Errors
/// [`UnknownPolicy`] with the names there are.
pub fn by_name(name: &str) -> Result<Box<dyn Policy>, UnknownPolicy> {
    let entry = ALL.iter().find(|entry| entry.name == name);
    entry.map(|entry| (entry.make)()).ok_or_else(|| UnknownPolicy(name.to_owned()))
}

#[cfg(test)]
pub(crate) mod testing {
    //! A migration in its second pass, to be bent by each test.

    use std::time::Duration;

    use crate::decision::Hold;
    use crate::model::LazyEstimate;
    use crate::requirements::{Aggression, Requirements};
    use crate::telemetry::view::{Levers, Phase, SyncInterval, VcpuView, View};
    use crate::units::{ByteRate, Bytes, Moment, Share};

    /// One vCPU flat out, 100 MB/s of link, 96 MB dirtied in the bulk pass of a second.
    pub(crate) fn view() -> View {
        View {
            now: Moment::ms(1000),
            requirements: Requirements::default(),
            aggression: Aggression::DEFAULT,
            phase: Phase::Iterating,
            total: Bytes(256_000_000),
            remaining: Bytes(96_000_000),
            link: Some(ByteRate::mb(100)),
            link_error: Some(0.02),
            last_sync: Some(interval(1000, 96, 100)),
            syncs: 1,
            cpu_since_sync: None,
            migrated: Bytes(100_000_000),
            zeros: Bytes(0),
            dirtied: Bytes(96_000_000),
            curve_estimate: LazyEstimate::default(),
            contents: None,
            cpu_demand: None,
            vcpus: vec![VcpuView {
                hold: Hold::Free,
                used: Some(Share::FULL),
                demand: Some(Share::FULL),
                unthrottled: Some(Share::FULL),
            }],
            levers: Levers {
                quota: true,
                stop: false,
                post_copy: false,
                tick: Duration::from_millis(4),
            },
        }
    }

    /// An interval of a second that ended at `ms`, with so many MB dirtied and sent.
    pub(crate) fn interval(ms: u64, dirtied_mb: u64, sent_mb: u64) -> SyncInterval {
        SyncInterval {
            ended: Moment::ms(ms),
            length: Duration::from_secs(1),
            dirtied: Bytes(dirtied_mb * 1_000_000),
            sent: Bytes(sent_mb * 1_000_000),
            remaining_after: Bytes(dirtied_mb * 1_000_000),
            cpu: Some(Duration::from_secs(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_is_found_by_its_own_name() {
        for entry in ALL {
            assert_eq!(by_name(entry.name).unwrap().name(), entry.name);
        }
        let error = by_name("magic").err().unwrap().to_string();
        assert!(error.contains("progressive"), "{error}");
        assert!(by_name(DEFAULT).is_ok());
    }
}
