//! The CPU lever: holds a guest's vCPU threads from outside with the kernel's CFS bandwidth
//! controller, on cgroup v1 and v2, and puts everything back.
//!
//! Only vCPU threads are ever held. A quota on the whole process would hold the migration thread
//! as well, and with it the very transfer that the hold is meant to help.
//!
//! ```no_run
//! use std::time::Duration;
//! use landfall_qemu::cgroup::{Quota, survey};
//!
//! let mut lever = survey(4711, &[4713, 4714])?;       // changes nothing
//! let record = serde_json::to_string(&lever.undo());  // for a guardian, before any change
//! lever.hold(0, Some(Quota::new(Duration::from_millis(10), Duration::from_millis(50))))?;
//! let taken = lever.stats(0)?.throttled;
//! let failures = lever.release();                     // or, in another process: each step's `run`
//! # Ok::<(), landfall_qemu::cgroup::CgroupError>(())
//! ```
//!
//! From the inside out: `text` reads the kernel's files as text, `hierarchy` finds where the
//! controller is mounted and where a thread is in it, `group` is one cgroup directory, `survey`
//! decides which group will hold which thread, `kept` is a file that is read again and again, `lever`
//! holds and lets go, `undo` is the way back as data.
//!
//! # What the kernel does, and what follows
//!
//! Seen on Linux 6.18 (v1, 250 Hz, throttling task by task); the figures are in
//! `docs/measurements/`.
//!
//! - **Every write to a limit is a gift**: the kernel refills the quota, forgives what was overrun
//!   and lets the thread run at once. 1 ms per 100 ms, written anew every 100 ms, gave 3.7 % of a
//!   CPU where 1 % was asked. [`CpuLever::hold`] therefore writes nothing when nothing changes.
//! - **A quota is charged at the scheduler tick** (4 ms at 250 Hz): a thread that is given less
//!   overruns it and pays back by standing still for whole periods. Below the tick, a quota means
//!   longer gaps than `period - quota`.
//! - **A refused write leaves the old limit in force**, so every limit is read back.

mod cached_file;
mod error;
mod group;
mod hierarchy;
mod lever;
mod survey;
pub mod text;
mod undo;

pub use error::CgroupError;
pub use group::least_honest_quota;
pub use hierarchy::Version;
pub use landfall_core::decision::Quota;
pub use lever::{CpuLever, Effective, ReleaseFailure, Stats};
pub use survey::{Place, VcpuThread, survey};
pub use undo::UndoStep;
