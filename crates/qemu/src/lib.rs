//! landfall's hands and eyes on a QEMU guest.
//!
//! **What belongs here:** whatever touches the world for the sake of one migration: the QMP client,
//! the vCPU threads and the control groups that hold them, the loop that carries a policy's
//! decisions out, and everything that makes sure that nothing stays behind.
//!
//! **What does not:** deciding. What to do is decided by `landfall-core`, from the samples taken
//! here. And nothing for tests or shows: guests made for those are in `landfall-testguest`.

pub mod cgroup;
pub mod control;
pub mod driver;
pub mod guardian;
pub mod lock;
pub mod monitor;
pub mod mutex;
pub mod probe;
pub mod procfs;
pub mod qmp;
mod runtime_dir;
pub mod say;
pub mod settle;
pub mod vcpus;
