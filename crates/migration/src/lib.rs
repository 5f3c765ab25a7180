//! What surrounds one migration, for every program that runs one: the probe and the forecast before the
//! start ([`preflight`]), the policy of a name ([`policy_registry`]), one run from probe to report
//! ([`run`]), its recording ([`recording`]), what can be said in advance ([`forecaster`]), and what
//! people see of it all ([`text`], [`tables`], [`charts`], [`progress`]).
//!
//! **What belongs here:** what both the program `landfall` and the laboratory (`landfall-lab`) need.
//! Options of a command line do not belong here, nor anything that boots a guest. Policies are in
//! `landfall-core`, what acts on a guest is in `landfall-qemu`, the simulator is `landfall-sim`.

pub mod charts;
pub mod comparison;
pub mod forecaster;
pub mod policy_registry;
pub mod preflight;
pub mod progress;
pub mod recommendation;
pub mod recording;
pub mod run;
pub mod tables;
pub mod text;
