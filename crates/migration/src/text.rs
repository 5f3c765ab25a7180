//! The words for what people read everywhere: phases, classes, outcomes, and times.

use std::time::Duration;

use landfall_core::report::{Class, Outcome};
use landfall_core::telemetry::view::Phase;
use landfall_core::units::show_duration;

/// Returns a time in seconds as people write it: `1.25s`, `300ms`.
pub fn format_seconds(value: f64) -> String {
    show_duration(Duration::try_from_secs_f64(value).unwrap_or_default())
}

/// Returns a part of one as percent: `45 %`.
pub fn format_percent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

/// Returns the name of a phase.
pub fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "connecting",
        Phase::FirstPass => "first pass",
        Phase::Iterating => "later passes",
        Phase::SwitchOver => "switching over",
        Phase::PostCopy => "runs there",
        Phase::Over => "over",
    }
}

/// Returns the name of an outcome, the one that reports in JSON have.
pub fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Landed => "landed",
        Outcome::Refused => "refused",
        Outcome::Cancelled => "cancelled",
        Outcome::Failed => "failed",
        Outcome::Unknown => "unknown",
    }
}

/// Returns the name of a class, the one that reports in JSON have.
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Unaided => "unaided",
        Class::Middle => "middle",
        Class::Pathological => "pathological",
        Class::Unknown => "unknown",
    }
}

/// Returns the name of a class with what it means.
pub fn class_meaning(class: Class) -> &'static str {
    match class {
        Class::Unaided => "unaided: it lands without help",
        Class::Middle => "the nebulous middle: it lands if it is held",
        Class::Pathological => {
            "pathological: within this stall it lands by no hold that is allowed"
        }
        Class::Unknown => "not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_report() {
        for outcome in [
            Outcome::Landed,
            Outcome::Refused,
            Outcome::Cancelled,
            Outcome::Failed,
            Outcome::Unknown,
        ] {
            assert_eq!(serde_json::json!(outcome), outcome_name(outcome));
        }
        for class in [Class::Unaided, Class::Middle, Class::Pathological, Class::Unknown] {
            assert_eq!(serde_json::json!(class), class_name(class));
        }
    }
}
