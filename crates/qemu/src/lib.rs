//! Steers the live migration of a guest on a real QEMU.
//!
//! **What belongs here:** everything that touches the outside world for one migration: the QMP client,
//! the vCPU threads and the control groups that hold them, the driver that carries out a policy's
//! decisions, and what puts everything back afterwards.
//!
//! **What does not:** decisions. `landfall-core` makes them, from the samples taken here. Guests for
//! tests and demonstrations are in `landfall-testguest`.

pub mod cgroup;
pub mod clean_text;
pub mod control;
pub mod driver;
pub mod end_runner;
pub mod guardian;
pub mod identity;
pub mod lock;
pub mod monitor;
pub mod mutex;
pub mod probe;
pub mod procfs;
pub mod qmp;
pub mod ram_blocks;
pub mod release;
pub mod rollback;
pub mod runtime_dir;
pub mod stdio;
pub mod vcpus;
