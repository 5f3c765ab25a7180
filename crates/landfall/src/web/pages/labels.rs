//! The words and colours for classes, outcomes, requirements and figures, the same on every page.

use landfall_core::report::{Class, ForecastRange, Outcome, Report};
use landfall_core::requirements::Requirement;
use landfall_core::units::Share;
use landfall_migration::text::format_seconds;
use maud::{Markup, html};

/// Stands for a figure that is not known.
pub const NO_FIGURE: &str = "–";

/// Renders a word with a colour: a class of the style sheet.
pub fn badge(colour: &str, text: &str) -> Markup {
    html! { span class={ "badge " (colour) } { (text) } }
}

/// Renders a class as a badge.
pub fn class_badge(class: Class) -> Markup {
    match class {
        Class::Unaided => badge("good", "lands unaided"),
        Class::Middle => badge("fair", "lands if throttled"),
        Class::Pathological => badge("bad", "lands only if paused"),
        Class::Unknown => badge("", "not known yet"),
    }
}

/// Returns what a class means for the operator.
pub fn class_explanation(class: Class) -> &'static str {
    match class {
        Class::Unaided => {
            "It writes memory more slowly than the link carries it. It lands unaided and is not \
             throttled."
        }
        Class::Middle => {
            "It writes memory faster than the link carries it. It lands within the allowed stall if its \
             CPU is throttled late in the migration."
        }
        Class::Pathological => {
            "It rewrites its working set faster than any allowed throttling can prevent. It lands only \
             with a pause longer than the allowed stall. Allow a longer stall, let the stall be broken, \
             or use a faster link."
        }
        Class::Unknown => {
            "Too little is known of the guest or the link. Measure the guest again, and set a bandwidth \
             if QEMU has none."
        }
    }
}

/// Renders the outcome of a report as a badge.
pub fn outcome_badge(report: &Report) -> Markup {
    match report.outcome {
        Outcome::Landed if report.exit_status() == 0 => badge("good", "landed"),
        Outcome::Landed => badge("fair", "landed, a requirement broken or not known"),
        Outcome::Refused => badge("bad", "refused"),
        Outcome::Cancelled => badge("fair", "cancelled"),
        Outcome::Failed => badge("bad", "failed"),
        Outcome::Unknown => badge("bad", "guest's state not known"),
    }
}

/// Returns the short name of a requirement.
pub fn requirement_label(requirement: Requirement) -> &'static str {
    match requirement {
        Requirement::MaxBandwidth => "bandwidth",
        Requirement::MinCpu => "CPU",
        Requirement::MaxStall => "stall",
        Requirement::MaxTime => "time",
    }
}

/// Writes a range, as `1.80s to 2.40s`; empty if both ends read the same.
pub fn format_range(range: &ForecastRange, format: impl Fn(f64) -> String) -> String {
    let (low, high) = (format(range.low), format(range.high));
    if low == high { String::new() } else { format!("{low} to {high}") }
}

/// Writes a range, or its middle if both ends read the same.
pub fn format_range_or_middle(range: &ForecastRange, format: impl Fn(f64) -> String) -> String {
    let text = format_range(range, &format);
    if text.is_empty() { format(range.mid) } else { text }
}

/// Writes a share of one as percent.
pub fn format_share(share: f64) -> String {
    Share::clamped(share).to_string()
}

/// Writes a time that may not be known.
pub fn format_known_seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "not known".to_owned(), format_seconds)
}
