//! `landfall replay`: shows a recorded migration again, and whether its policy would decide the same
//! on the same samples, byte for byte.

mod changes;
mod chart;
mod check;
mod what_if;

use std::fmt;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use landfall_core::decision::Decision;
use landfall_core::policy::Plain;
use landfall_core::recording::{RecordingLine, Replay, look_ahead};
use landfall_core::report::Report;
use landfall_core::requirements::{Requirements, SettingChange, changes_between};
use landfall_core::session::Observation;
use landfall_core::telemetry::progress::{Progress, ProgressSnapshot, time_left};
use landfall_core::telemetry::view::View;
use landfall_migration::policy_registry::{NamedPolicy, report_first_failure};
use landfall_migration::progress::ProgressLine;
use landfall_migration::recording::Recording;
use landfall_qemu::stdio::print_line;
use serde_json::json;

use crate::cli::ReplayArgs;
use crate::command_error::CommandError;
use crate::output::report_text::format_report;
use check::CheckResult;
use what_if::NamedReport;

/// Exit status where the decisions are not the recorded ones.
const DIFFERS: u8 = 1;

/// A recorded look at the hypervisor, and what is decided on it now.
struct ReplayStep {
    /// Its line in the file.
    line: usize,
    /// What the operator has changed since the look before.
    setting_changes: Vec<SettingChange>,
    /// The view, computed again.
    view: View,
    /// The recorded decision.
    recorded: Option<Decision>,
    /// What the same policy decides now; `None` if this build does not have it.
    again: Option<Decision>,
}

/// Replays a recording and returns the exit status: whether every decision is the same again.
///
/// # Errors
/// [`CommandError`].
pub async fn run(options: ReplayArgs) -> Result<u8, CommandError> {
    let file = options.file.display();
    let about_file = |problem: &dyn fmt::Display| CommandError::usage(format!("{file}: {problem}"));
    let bytes = fs::read(&options.file).map_err(|error| {
        about_file(&error).hint("name a file that landfall migrate --record wrote")
    })?;
    let recording = Recording::read(&bytes).map_err(|error| about_file(&error))?;
    let steps = replay_steps(&recording);
    let verdict = check::check(&recording, &steps);
    let simulated = match options.policy.is_empty() {
        true => Ok(Vec::new()),
        false => what_if::simulate(&recording, &steps, &options.policy),
    };
    let simulated = simulated.map_err(|error| about_file(&error))?;
    if let Some(speed) = options.live {
        show_live(&steps, speed).await;
    }
    if let Some(path) = &options.picture {
        chart::write(path, &recording, &steps).map_err(CommandError::usage)?;
    }
    if options.json {
        print_line(&as_json(&recording, &steps, &verdict, &simulated).to_string());
    } else {
        if !options.check {
            show(&recording, &steps);
        }
        print_line(&verdict.to_text(&recording.head));
        show_simulated(&recording, simulated);
    }
    let same = matches!(verdict, CheckResult::Same(_) | CheckResult::SameUntilGap { .. });
    Ok(if same { 0 } else { DIFFERS })
}

/// Computes the views again, and lets the recorded policy decide again.
fn replay_steps(recording: &Recording) -> Vec<ReplayStep> {
    let named = NamedPolicy::of_recording(&recording.head);
    let mut policy = named.map(|named| named.create(&report_first_failure("decided again")));
    if let Some(policy) = &mut policy {
        look_ahead(&mut **policy, &recording.head);
    }
    let has_policy = policy.is_some();
    // Views are made by any policy alike.
    let policy = policy.unwrap_or_else(|| Box::new(Plain));
    let mut replay = Replay::new(&recording.head, policy);
    let mut steps = Vec::new();
    let mut before = replay.settings().clone();
    for (number, line) in &recording.lines {
        let Some(Observation { view, decision, .. }) = replay.read_line(line) else { continue };
        let setting_changes = changes_between(&before, replay.settings(), view.now.as_secs_f64());
        before = replay.settings().clone();
        let RecordingLine::Look(look) = line else { continue };
        let again = has_policy.then_some(decision);
        let recorded = look.decision.clone();
        steps.push(ReplayStep { line: *number, setting_changes, view, recorded, again });
    }
    steps
}

/// Shows the live line again, so many times as fast as it went.
async fn show_live(steps: &[ReplayStep], speed: f64) {
    let line = ProgressLine::new();
    let begun = Instant::now();
    let mut progress = Progress::default();
    for ReplayStep { view, .. } in steps {
        let due = Duration::try_from_secs_f64(view.now.as_secs_f64() / speed);
        let wait = due.unwrap_or(Duration::MAX).saturating_sub(begun.elapsed());
        tokio::time::sleep(wait).await;
        line.show(&ProgressSnapshot::of(view, progress.fraction(view), time_left(view), ""));
    }
    line.clear();
}

/// Returns the report; `None` if the recording ends before it.
fn find_report(recording: &Recording) -> Option<&Report> {
    recording.lines.iter().rev().find_map(|(_, line)| match line {
        RecordingLine::Report { report } => Some(&**report),
        _ => None,
    })
}

/// Returns the requirements at the end.
fn final_requirements(recording: &Recording) -> &Requirements {
    let last = recording.lines.iter().rev().find_map(|(_, line)| match line {
        RecordingLine::Requirements { requirements, .. } => Some(requirements),
        _ => None,
    });
    last.unwrap_or(&recording.head.requirements)
}

fn show(recording: &Recording, steps: &[ReplayStep]) {
    print_line(&format!("{}\n", changes::table(&changes::changes(steps))));
    match find_report(recording) {
        Some(report) => {
            let words = format_report(report, final_requirements(recording));
            drop(write!(anstream::stdout(), "{words}"));
        }
        None => {
            print_line("The recording ends before the migration did: landfall was ended, or killed")
        }
    }
    if recording.cut {
        print_line("Its last line was cut short and is left out");
    }
}

/// Shows the recorded migration beside the simulated ones.
fn show_simulated(recording: &Recording, simulated: Vec<NamedReport>) {
    if simulated.is_empty() {
        return;
    }
    let name = format!("{}, recorded", recording.head.policy);
    let recorded =
        find_report(recording).map(|report| NamedReport { name, report: report.clone() });
    let courses: Vec<NamedReport> = recorded.into_iter().chain(simulated).collect();
    print_line(&format!("\n{}", what_if::table(&courses)));
}

fn as_json(
    recording: &Recording,
    steps: &[ReplayStep],
    verdict: &CheckResult,
    simulated: &[NamedReport],
) -> serde_json::Value {
    json!({
        "recording": recording.head,
        "cut": recording.cut,
        "changes": changes::changes(steps).iter().map(changes::ReplayChange::as_json).collect::<Vec<_>>(),
        "check": verdict.as_json(),
        "report": find_report(recording),
        "simulated": simulated.iter().map(|course| &course.report).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests;
