//! A simulator of live migrations, in virtual time.
//!
//! **What belongs here:** guests that dirty memory (by a dirty curve, or page by page), a link, QEMU's
//! pre-copy and its own auto-converge as they are, the levers with what they cost, and the driver that
//! steers a simulated migration by the same session that steers a real one; and scenarios, which say in
//! readable text what to simulate. All of it is pure: time is a number that the simulator advances,
//! randomness follows from a [`Seed`], a scenario is a text that was read elsewhere. The same setup, policy
//! and seed give the same run, byte for byte.
//!
//! **What does not:** files, clocks, tables and pictures (they are in `landfall`), and everything that
//! decides: the session with its policy, guard and observer is that of `landfall-core`.
//!
//! ```text
//! Setup ──> run ──> Run                 memory   what is dirty, what is unsent
//!            │  ^                       qemu     the migration thread, its throttle
//!    Sample  v  │ Action                vcpus    holds, counters, what was lost
//!           Session (landfall-core)     link     bytes per second at any moment
//! ```

mod compare;
mod duty_cycle;
mod forecast;
mod guest;
mod link;
mod memory;
mod oracle;
pub mod policies;
mod postcopy;
mod probe;
mod qemu;
mod rng;
mod run;
mod scenario;
mod vcpus;

pub use compare::{Compared, Find, Judged, Spread, compare, compare_of, judge, trace};
pub use forecast::{Expected, Question, forecast};
pub use guest::{CurvePhase, Guest, Order, Writer, Writes};
pub use link::{Change, Link, LinkCongestion, SwitchOver};
pub use oracle::{Oracle, oracle, regret};
pub use qemu::{AutoConvergeVersion, Qemu};
pub use rng::{Draws, Seed};
pub use run::{Run, Setup, TracePoint, run, run_traced};
pub use scenario::{Scenario, ScenarioError};
