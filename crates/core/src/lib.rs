//! The control law of landfall: what is known of a migration, and what to do about it.
//!
//! **What belongs here:** units, samples and the views made of them, the dirty curve, requirements, the policies
//! (one file each), and what is computed from measurements for a report. All of it is pure: time is
//! an argument (`now`), and there is no clock, no file, no socket, no randomness and no `async`.
//! The same samples give the same decisions, byte for byte.
//!
//! **What does not:** anything that touches the world. Reading QEMU and the kernel, and carrying a
//! decision out, is the work of `landfall-qemu`.
//!
//! The data flow, left to right:
//!
//! ```text
//! Sample ──> Observer ──> View ──> Policy ──> Guard ──> Decision
//! (raw)      (rates)     (facts)   (law)   (requirements)  (levers)
//! ```

pub mod decision;
pub mod ending;
pub mod guard;
pub mod model;
pub mod planner;
pub mod policy;
pub mod quota;
pub mod recording;
pub mod report;
pub mod requirements;
pub mod session;
pub mod switch_over;
pub mod telemetry;
pub mod units;
pub mod vcpu_lists;
