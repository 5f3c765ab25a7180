//! The CPU lever: holds a guest's vCPU threads from outside with the kernel's CFS bandwidth controller,
//! on cgroup v1 and v2, and puts everything back.
//!
//! Only vCPU threads are ever held. A quota on the whole process would also hold the migration thread,
//! and with it the transfer that the hold is meant to help.
//!
//! ```no_run
//! use std::time::Duration;
//! use landfall_qemu::cgroup::{Quota, find_cpu_lever};
//!
//! let mut lever = find_cpu_lever(4711, &[4713, 4714])?;     // changes nothing
//! let record = serde_json::to_string(&lever.undo_steps());  // for a guardian, before any change
//! lever.hold_vcpu(0, Some(Quota::new(Duration::from_millis(10), Duration::from_millis(50))))?;
//! let throttled = lever.vcpu_stats(0)?.throttled_time;
//! let failures = lever.release_all();                       // or, elsewhere: each step's `apply`
//! # Ok::<(), landfall_qemu::cgroup::CgroupError>(())
//! ```
//!
//! From the inside out: `parse` reads the text of the kernel's files, `hierarchy` finds where the
//! controller is mounted and where a thread is in it, `group` is one cgroup directory, `placement`
//! decides which group will hold which thread, `cached_file` is a file that is read many times a second,
//! `lever` holds and releases, `undo_step` is the rollback as data.
//!
//! # What the kernel does, and what follows
//!
//! Measured on Linux 6.18 (v1, 250 Hz, throttling task by task); the figures are in
//! `docs/measurements/`.
//!
//! - **Every write to a limit gives CPU time away**: the kernel refills the quota, forgives any overrun
//!   and lets the thread run at once. 1 ms per 100 ms, written again every 100 ms, gave 3.7 % of a CPU
//!   instead of 1 %. [`CpuLever::hold_vcpu`] therefore writes nothing when nothing changes.
//! - **A quota is charged at the scheduler tick** (4 ms at 250 Hz): a thread that is given less overruns
//!   it and is then throttled for whole periods. Below the tick, a quota means longer gaps than
//!   `period - quota`.
//! - **A rejected write leaves the old limit in force**, so every limit is read back.

mod cached_file;
mod error;
mod group;
mod hierarchy;
mod journal;
mod leave;
mod leftover;
mod lever;
pub mod parse;
mod placement;
mod undo_step;

pub use error::CgroupError;
pub use group::{is_scheduler_replaced, scheduler_tick};
pub use hierarchy::CgroupVersion;
pub use journal::{JournalPlace, LimitEntry};
pub use landfall_core::quota::Quota;
pub use leave::leave_all_groups;
pub use leftover::{LeftoverGroup, find_leftover_groups};
pub use lever::{CpuLever, EffectiveLimit, ReleaseFailure, VcpuStats};
pub use placement::{Placement, VcpuThread, find_cpu_lever};
pub use undo_step::UndoStep;
