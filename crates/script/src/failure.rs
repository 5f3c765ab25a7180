//! Why a script could not be asked, or what is wrong with its answer, while it steers.

use rhai::EvalAltResult;

/// A script that failed in a migration. It is not asked again: `predictive` steers from there.
#[derive(Debug, thiserror::Error)]
pub enum ScriptFailure {
    /// It has an error, or takes more than it may.
    #[error("{0}")]
    Engine(Box<EvalAltResult>),
    /// It remembers more than it may.
    #[error("its state (`this`) is too large: {0}")]
    MemoryTooLarge(Box<EvalAltResult>),
    /// The engine panicked.
    #[error("it panicked")]
    Panicked,
    /// Its `decide` gives something else than a decision.
    #[error("decide gives {given}; give hold(...), leave_alone(...) or another decision")]
    NotADecision {
        /// The type of what it gives.
        given: &'static str,
    },
    /// Its `preflight` gives neither nothing nor a text.
    #[error("{function} gives {given}; give () to start, or a text: why not")]
    NotAnAnswer {
        /// The function.
        function: &'static str,
        /// The type of what it gives.
        given: &'static str,
    },
    /// It holds other vCPUs than there are.
    #[error("hold: {shares} shares for {vcpus} vCPUs; give one for each, or one share for all")]
    SharesForOtherVcpus {
        /// How many shares it gives.
        shares: usize,
        /// How many vCPUs there are.
        vcpus: usize,
    },
}
