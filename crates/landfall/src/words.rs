//! The report in words and figures, for people.

use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use landfall_core::report::{Outcome, Report, RequirementVerdict};
use landfall_core::requirements::{Requirement, Requirements};
use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Bytes, Share, show_duration};

/// The report as a few lines of text; styles are for a terminal, whoever prints strips them
/// elsewhere.
pub fn report(report: &Report, asked: &Requirements) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", headline(report));
    if report.outcome == Outcome::Refused {
        return text;
    }
    let rows = [
        ("longest stall", report.longest_stall_s.map(seconds)),
        ("downtime", report.downtime_s.map(|s| format!("{} by QEMU's own account", seconds(s)))),
        ("guest CPU lost", report.guest_cpu_lost_s.map(seconds)),
        ("lowest CPU", report.min_cpu_share.map(of_what_it_wanted)),
        ("throttled for", report.throttled_s.map(seconds)),
        ("sent", sent(report)),
    ];
    for (name, value) in rows {
        let value = value.unwrap_or_else(|| "not known".to_owned());
        let _ = writeln!(text, "  {name:<16}{value}");
    }
    for change in &report.changes {
        let _ = writeln!(text, "  after {:<10}{change}", seconds(change.at_s));
    }
    for verdict in &report.requirements {
        let _ = writeln!(text, "  {}", kept(verdict, asked));
    }
    text
}

fn headline(report: &Report) -> String {
    let (style, word) = match report.outcome {
        Outcome::Landed if report.exit_status() == 0 => (AnsiColor::Green, "landed"),
        Outcome::Landed => (AnsiColor::Yellow, "landed, not within every requirement"),
        Outcome::Refused => (AnsiColor::Red, "refused"),
        Outcome::Cancelled => (AnsiColor::Yellow, "cancelled"),
        Outcome::Failed => (AnsiColor::Red, "failed"),
        Outcome::Unknown => (AnsiColor::Red, "the guest's state is not known"),
    };
    let style = Style::new().bold().fg_color(Some(style.into()));
    let time = match report.total_s {
        Some(total) if report.outcome == Outcome::Landed => {
            format!(" in {} (policy {})", seconds(total), report.policy)
        }
        Some(total) => format!(" after {} (policy {})", seconds(total), report.policy),
        None => String::new(),
    };
    let reason = report.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("{style}{word}{style:#}{time}{reason}")
}

fn of_what_it_wanted(share: f64) -> String {
    format!("{} of what it wanted", Share::clamped(share))
}

fn sent(report: &Report) -> Option<String> {
    let bytes = Bytes(report.transferred_bytes?);
    let passes = report.passes?;
    Some(format!("{bytes} in {passes} {}", if passes == 1 { "pass" } else { "passes" }))
}

fn kept(verdict: &RequirementVerdict, asked: &Requirements) -> String {
    let show = |value: f64| match verdict.name {
        Requirement::MaxBandwidth => ByteRate(value).to_string(),
        Requirement::MinCpu => Share::clamped(value).to_string(),
        Requirement::MaxStall | Requirement::MaxTime => seconds(value),
    };
    let (colour, word) = match verdict.kept {
        Some(true) => (AnsiColor::Green, "kept"),
        Some(false) => (AnsiColor::Red, "broken"),
        None => (AnsiColor::Yellow, "not known"),
    };
    let style = Style::new().fg_color(Some(colour.into()));
    let leave = verdict.kept == Some(false) && asked.may_break(verdict.name);
    let leave = if leave { ", as --give-way allows" } else { "" };
    let got = verdict.got.map_or_else(String::new, |got| format!(", measured {}", show(got)));
    format!(
        "{:<16}{style}{word}{style:#}{leave} (asked {}{got})",
        format!("--{}", verdict.name),
        show(verdict.asked)
    )
}

/// A time in seconds, for people.
pub fn seconds(value: f64) -> String {
    show_duration(Duration::try_from_secs_f64(value).unwrap_or_default())
}

/// A phase in words.
pub fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Setup => "connecting",
        Phase::FirstPass => "first pass",
        Phase::Iterating => "later passes",
        Phase::SwitchOver => "switching over",
        Phase::PostCopy => "runs there",
        Phase::Over => "over",
    }
}
