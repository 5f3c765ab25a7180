//! The report as text.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use landfall_core::report::{Outcome, Report, RequirementVerdict};
use landfall_core::requirements::{Requirement, Requirements};
use landfall_core::units::{ByteRate, Bytes, Share};
use landfall_migration::text::{format_seconds, outcome_name};

/// Returns the report as a few lines of text, styled for a terminal. The printer strips the styles
/// elsewhere.
pub fn format_report(report: &Report, asked: &Requirements) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(text, "{}", headline(report));
    if report.outcome == Outcome::Refused {
        return text;
    }
    let rows = [
        ("longest stall", report.longest_stall_s.map(format_seconds)),
        (
            "downtime",
            report.downtime_s.map(|s| format!("{} by QEMU's own account", format_seconds(s))),
        ),
        ("guest CPU lost", report.guest_cpu_lost_s.map(format_seconds)),
        ("lowest CPU", report.min_cpu_share.map(of_what_it_wanted)),
        ("throttled for", report.throttled_s.map(format_seconds)),
        ("sent", sent(report)),
    ];
    for (name, value) in rows {
        let value = value.unwrap_or_else(|| "not known".to_owned());
        let _ = writeln!(text, "  {name:<16}{value}");
    }
    for change in &report.changes {
        let _ = writeln!(text, "  after {:<10}{change}", format_seconds(change.at_s));
    }
    for verdict in &report.requirements {
        let _ = writeln!(text, "  {}", kept(verdict, asked));
    }
    text
}

fn headline(report: &Report) -> String {
    let (style, word) = match report.outcome {
        Outcome::Landed if report.exit_status() == 0 => {
            (AnsiColor::Green, outcome_name(report.outcome))
        }
        Outcome::Landed => (AnsiColor::Yellow, "landed, not within every requirement"),
        Outcome::Cancelled => (AnsiColor::Yellow, outcome_name(report.outcome)),
        Outcome::Unknown => (AnsiColor::Red, "the guest's state is not known"),
        Outcome::Refused | Outcome::Failed => (AnsiColor::Red, outcome_name(report.outcome)),
    };
    let style = Style::new().bold().fg_color(Some(style.into()));
    let time = match report.total_s {
        Some(total) if report.outcome == Outcome::Landed => {
            format!(" in {} (policy {})", format_seconds(total), report.policy)
        }
        Some(total) => format!(" after {} (policy {})", format_seconds(total), report.policy),
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
        Requirement::MaxStall | Requirement::MaxTime => format_seconds(value),
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
