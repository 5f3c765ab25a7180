//! The counters of hypervisor and kernel at one moment, as they came; nothing is derived here.
//!
//! A recording is a list of these; everything else is computed from them. What a source does not
//! report is `None`: an old QEMU, a field that appears only in some states, a kernel file that
//! could not be read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, Moment, Share};

/// All counters of a migration at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When they were read.
    pub at: Moment,
    /// What the hypervisor reports; `None` in a sample of the kernel's counters alone, which cost a
    /// hundredth of a query to the hypervisor and are read more often.
    pub migration: Option<Migration>,
    /// One per vCPU, in the hypervisor's order.
    #[serde(with = "crate::vcpu_lists::counters")]
    pub vcpus: Vec<VcpuCounters>,
}

/// The migration as the hypervisor reports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Migration {
    /// Where the migration stands.
    pub status: Status,
    /// The memory counters; absent before the first page.
    pub ram: Option<Ram>,
    /// Share of the time for which the hypervisor itself makes the vCPUs sleep (auto-converge).
    pub own_throttle: Option<Share>,
    /// Downtime as the hypervisor gives it, once there was one.
    pub downtime: Option<Duration>,
    /// Why it failed, in the hypervisor's words.
    pub error: Option<String>,
}

/// The status of a migration: QEMU's words, reduced to what matters for steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Hash)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// None was ever started.
    None,
    /// Connecting.
    Setup,
    /// Pre-copy passes.
    Active,
    /// The guest is stopped, and the hypervisor waits to be told that the rest may be shipped.
    PreSwitchOver,
    /// The guest is stopped, the rest is being shipped.
    SwitchOver,
    /// The guest runs at the destination and fetches its pages.
    PostCopy,
    /// Post-copy has lost its link: the guest waits for it.
    PostCopyPaused,
    /// Being cancelled.
    Cancelling,
    /// Was cancelled.
    Cancelled,
    /// Has failed.
    Failed,
    /// All is at the destination.
    Completed,
    /// A status that this program does not know.
    Unknown,
}

impl Status {
    /// No migration is under way in this state and none will be until one is started.
    pub fn is_over(self) -> bool {
        matches!(self, Status::None | Status::Cancelled | Status::Failed | Status::Completed)
    }
}

/// Memory counters, cumulative since the start of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ram {
    /// The guest's memory.
    pub total: Bytes,
    /// Pages known dirty and not yet sent.
    pub remaining: Bytes,
    /// Bytes on the wire.
    pub transferred: Bytes,
    /// Guest memory that left as pages with contents.
    pub normal: Bytes,
    /// Guest memory that left as "all one byte" (zero pages); costs nearly nothing on the wire.
    pub duplicate: Bytes,
    /// Syncs of the dirty bitmap so far: 1 during the first pass.
    pub syncs: u64,
}

impl Ram {
    /// Guest memory that has left, whatever it cost on the wire.
    pub fn sent(&self) -> Bytes {
        self.normal + self.duplicate
    }
}

/// The kernel's counters of one vCPU's thread; all cumulative.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VcpuCounters {
    /// CPU time the thread has used.
    pub cpu: Option<Duration>,
    /// Time the thread was ready to run and waited for a CPU (steal, and a crowded host).
    #[serde(alias = "wait")]
    pub run_delay: Option<Duration>,
    /// Time for which a quota of its control group kept it from running.
    #[serde(alias = "held")]
    pub throttled: Option<Duration>,
    /// How often it ran into the quota.
    #[serde(alias = "holds")]
    pub nr_throttled: Option<u64>,
}
