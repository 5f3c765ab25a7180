//! Whether the same samples give the same decisions, byte for byte.
//!
//! A recording of an earlier form was made by an earlier landfall, which worded its reasons in another
//! way; there, everything but the reasons is compared.

use landfall_core::decision::Decision;
use landfall_core::recording::{RecordingHeader, RecordingLine, VERSION};
use landfall_core::units::Moment;
use landfall_migration::policy_registry::NamedPolicy;
use landfall_migration::recording::Recording;
use serde_json::{Value, json};

use super::ReplayStep;

/// What became of deciding again.
#[derive(Debug, PartialEq)]
pub enum CheckResult {
    /// So many decisions, all the same.
    Same(usize),
    /// So many decisions, all the same, up to a place where lines are missing: what follows was decided on
    /// more than the recording holds.
    SameUntilGap {
        /// How many decisions.
        decisions: usize,
        /// The line of the file that says so.
        line: usize,
        /// How many lines are missing there.
        lost: u64,
    },
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

/// Compares every decision with the recorded one, up to the first place where lines are missing.
pub fn check(recording: &Recording, steps: &[ReplayStep]) -> CheckResult {
    let head = &recording.head;
    if NamedPolicy::of_recording(head).is_none() {
        return CheckResult::NoPolicy;
    }
    let text = |decision: Option<&Decision>| {
        let mut decision = decision.cloned();
        if let (Some(decision), false) = (&mut decision, compares_reasons(head)) {
            decision.reason = Default::default();
        }
        // Plain data can always be written. An error would show as a difference.
        serde_json::to_string(&decision).unwrap_or_else(|error| error.to_string())
    };
    let gap = recording.lines.iter().find_map(|(line, it)| match it {
        RecordingLine::Lost { lines } => Some((*line, *lines)),
        _ => None,
    });
    let is_before_gap = |step: &&ReplayStep| gap.is_none_or(|(line, _)| step.line < line);
    for step in steps.iter().take_while(is_before_gap) {
        let (recorded, again) = (text(step.recorded.as_ref()), text(step.again.as_ref()));
        if recorded != again {
            let (line, at) = (step.line, step.view.now);
            return CheckResult::Differs(Box::new(Difference { line, at, recorded, again }));
        }
    }
    match gap {
        Some((line, lost)) => {
            let decisions = steps.iter().take_while(is_before_gap).count();
            CheckResult::SameUntilGap { decisions, line, lost }
        }
        None => CheckResult::Same(steps.len()),
    }
}

fn compares_reasons(head: &RecordingHeader) -> bool {
    head.version == VERSION
}

impl CheckResult {
    /// For people.
    pub fn to_text(&self, head: &RecordingHeader) -> String {
        let except = match compares_reasons(head) {
            true => String::new(),
            false => format!(
                " (their reasons are not compared: the recording has form {}, this landfall writes \
                 {VERSION})",
                head.version
            ),
        };
        match self {
            CheckResult::Same(0) => "No decision was recorded".to_owned(),
            CheckResult::Same(1) => format!("The one decision is the same again{except}"),
            CheckResult::Same(count) => format!("All {count} decisions are the same again{except}"),
            CheckResult::SameUntilGap { decisions, line, lost } => format!(
                "The {decisions} decisions up to line {line} are the same again{except}. There {lost} \
                 lines are missing (the disk did not take them in time), so what follows cannot be \
                 compared"
            ),
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
            CheckResult::SameUntilGap { decisions, line, lost } => json!({
                "same": null, "decisions": decisions, "gap_line": line, "lost_lines": lost
            }),
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
