//! Policies that users write themselves, in [Rhai](https://rhai.rs): a script sees what the built-in
//! policies see and asks for what they ask for. `docs/scripts.md` is the description for its writers.
//!
//! **What belongs here:** reading a script, the sandbox it runs in, the view as a script sees it, a
//! script's answer as a [`landfall_core::decision::Decision`], and what becomes of a script that fails:
//! `predictive` steers from there, and says so. A script has no clock, no file, no randomness and no way
//! to run for long, so it decides the same of the same samples, like every other policy.
//!
//! **What does not:** reading files, and printing; a caller gives a function for
//! that. The guard over what a policy asks for is in `landfall-core`, and is the same for all.

mod decision_api;
mod failure;
mod policy;
mod program;
mod sandbox;
mod view_api;

pub use failure::ScriptFailure;
pub use policy::{Script, Tell};
pub use program::{Program, ScriptError};

/// What a script can read of a view, and what it can ask of a vCPU, by name.
pub fn names() -> impl Iterator<Item = (&'static str, Of)> {
    let of_view = view_api::FIELDS.iter().map(|(name, _)| (*name, Of::View));
    of_view.chain(view_api::OF_VCPU.iter().map(|(name, _)| (*name, Of::Vcpu)))
}

/// Of what a script reads something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// The migration as a whole: `view.remaining`.
    View,
    /// One vCPU: `view.used(0)`.
    Vcpu,
}
