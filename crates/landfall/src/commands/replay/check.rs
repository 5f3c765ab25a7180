//! Whether the same samples give the same decisions, byte for byte.

use landfall_core::decision::Decision;
use landfall_core::recording::RecordingHeader;
use landfall_core::units::Moment;
use landfall_migration::policy_registry::NamedPolicy;
use serde_json::{Value, json};

use super::ReplayStep;

/// What became of deciding again.
#[derive(Debug, PartialEq)]
pub enum CheckResult {
    /// So many decisions, all the same.
    Same(usize),
    /// The first that is not.
    Differs(Box<Difference>),
    /// This program does not have the policy.
    NoPolicy,
}

/// Two decisions that should be one, as JSON.
#[derive(Debug, PartialEq)]
pub struct Difference {
    /// The line of the file.
    pub line: usize,
    /// When it was decided.
    pub at: Moment,
    /// As it is in the recording.
    pub recorded: String,
    /// As it is now.
    pub again: String,
}

/// Compares every decision with the recorded one.
pub fn check(head: &RecordingHeader, steps: &[ReplayStep]) -> CheckResult {
    if NamedPolicy::of_recording(head).is_none() {
        return CheckResult::NoPolicy;
    }
    for step in steps {
        let (recorded, again) = (text(step.recorded.as_ref()), text(step.again.as_ref()));
        if recorded != again {
            let (line, at) = (step.line, step.view.now);
            return CheckResult::Differs(Box::new(Difference { line, at, recorded, again }));
        }
    }
    CheckResult::Same(steps.len())
}

fn text(decision: Option<&Decision>) -> String {
    // Plain data: it can be written. Were it not, that would be a difference.
    serde_json::to_string(&decision).unwrap_or_else(|error| error.to_string())
}

impl CheckResult {
    /// For people.
    pub fn to_text(&self, head: &RecordingHeader) -> String {
        match self {
            CheckResult::Same(0) => "No decision was recorded".to_owned(),
            CheckResult::Same(1) => "The one decision is the same again".to_owned(),
            CheckResult::Same(count) => format!("All {count} decisions are the same again"),
            CheckResult::Differs(difference) => {
                let Difference { line, at, recorded, again } = &**difference;
                let (wrote, this) = (&head.landfall, env!("CARGO_PKG_VERSION"));
                let versions = if wrote == this {
                    String::new()
                } else {
                    format!(" (recorded by landfall {wrote}, this is {this})")
                };
                format!(
                    "line {line}, {:.3} s: the decision is another now{versions}\n  \
                     recorded  {recorded}\n  now       {again}",
                    at.as_secs_f64()
                )
            }
            CheckResult::NoPolicy => format!(
                "Its policy {} is not one of this landfall's, so its decisions cannot be made again",
                head.policy
            ),
        }
    }

    /// For programs.
    pub fn as_json(&self) -> Value {
        match self {
            CheckResult::Same(count) => json!({ "same": true, "decisions": count }),
            CheckResult::Differs(difference) => json!({
                "same": false,
                "line": difference.line,
                "at_s": difference.at.as_secs_f64(),
                "recorded": difference.recorded,
                "again": difference.again,
            }),
            CheckResult::NoPolicy => json!({ "same": null }),
        }
    }
}
