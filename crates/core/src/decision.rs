//! What a policy asks for: a hold for every vCPU, and perhaps an end to the migration.

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::quota::Quota;
use crate::units::{ByteRate, Share};

/// What to do until the next sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// How each vCPU is to be held, in the order of the view's vCPUs. A list that is too short
    /// leaves the others free.
    #[serde(with = "crate::vcpu_lists::holds")]
    pub holds: Vec<Hold>,
    /// Settings of the hypervisor to be changed.
    pub tuning: Tuning,
    /// An end of the migration, now.
    pub finish: Option<Finish>,
    /// Why, for the operator and the recording.
    #[serde(alias = "why")]
    pub reason: Cow<'static, str>,
}

/// The hypervisor's own settings that can change while a migration runs; `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Tuning {
    /// Most that pre-copy may put on the wire.
    pub max_bandwidth: Option<ByteRate>,
    /// The downtime for which the hypervisor switches over by itself: it does so once what remains
    /// would take no longer.
    pub downtime_limit: Option<Duration>,
    /// The rate that it calculates this with, instead of its own of the last 100 ms. QEMU 8.2 and later.
    pub switchover_bandwidth: Option<ByteRate>,
}

impl Decision {
    /// Leave the guest and the migration alone.
    pub fn leave_alone(why: impl Into<Cow<'static, str>>) -> Self {
        Decision { holds: Vec::new(), tuning: Tuning::default(), finish: None, reason: why.into() }
    }

    /// Hold all of `vcpus` vCPUs alike.
    pub fn hold_all(vcpus: usize, hold: Hold, why: impl Into<Cow<'static, str>>) -> Self {
        Decision { holds: vec![hold; vcpus], ..Decision::leave_alone(why) }
    }

    /// Ends the migration in this way and lifts the holds. A shipment keeps the holds in force, or those of
    /// the decision, until the guest stands still.
    pub fn finish(finish: Finish, why: impl Into<Cow<'static, str>>) -> Self {
        Decision { finish: Some(finish), ..Decision::leave_alone(why) }
    }

    /// How a vCPU is to be held.
    pub fn hold(&self, vcpu: usize) -> Hold {
        self.holds.get(vcpu).copied().unwrap_or(Hold::Free)
    }
}

/// How one vCPU is held.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// It is not held.
    #[default]
    Free,
    /// By the CFS bandwidth controller.
    Quota(Quota),
    /// Stopped by the hypervisor. It stops whole guests: one vCPU stopped, all stopped. What is
    /// stopped when it arrives has to be continued at the destination, so this needs a connection
    /// to it ([`crate::telemetry::view::Levers::stop`]).
    Stopped,
}

impl Hold {
    /// The most CPU the hold leaves.
    pub fn share(self) -> Share {
        match self {
            Hold::Free => Share::FULL,
            Hold::Quota(quota) => quota.share(),
            Hold::Stopped => Share::NONE,
        }
    }

    /// Whether both are quotas of nearly the same share, so that changing one for the other can wait.
    ///
    /// The kernel refills a group's quota and forgives what it overran at every write, so a hold that is
    /// adjusted at every sample would be much looser than any of its settings
    /// (`docs/measurements/cgroup-v1-kernel-6.18.md`). A change of less than a thirtieth can wait.
    pub fn is_nearly(self, wanted: Hold) -> bool {
        match (self, wanted) {
            (Hold::Quota(now), Hold::Quota(then)) => {
                let (now_period, then_period) = (now.period, then.period);
                let (now, then) = (now.share().get(), then.share().get());
                let periods = now_period.abs_diff(then_period);
                (now - then).abs() < then / 30.0 && periods < then_period / 30
            }
            _ => false,
        }
    }
}

/// An end of a migration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// Pause the guest and ship the rest, then let it run at the destination.
    Ship,
    /// Let the guest run at the destination now and fetch its pages as it needs them.
    PostCopy,
    /// Cancel, with the guest unharmed at the source.
    Cancel,
}
