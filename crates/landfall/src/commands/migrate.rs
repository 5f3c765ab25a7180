//! `landfall migrate`: one migration, steered to its end.

use std::io::{self, Write};

use landfall_core::report::Report;
use landfall_core::requirements::{Requirements, Settings};
use landfall_migration::preflight::forecast_line;
use landfall_migration::progress::ProgressLine;
use landfall_migration::run::{FinishedRun, MigrationRun, RunConfig};
use landfall_qemu::driver::Tick;
use landfall_qemu::stdio::eprint_line;

use crate::cli::{MigrateArgs, PostCopyArg};
use crate::command_error::CommandError;
use crate::hooks::{Facts, Hooks};
use crate::output::report_text::format_report;
use crate::signals;

/// Runs it and returns the exit status, which is that of the report.
///
/// # Errors
/// [`CommandError`] for what is wrong on the command line.
pub async fn run(options: Box<MigrateArgs>) -> Result<u8, CommandError> {
    if options.own_session {
        // An error means that it leads a session already.
        let _ = rustix::process::setsid();
    }
    let settings = options.asked.settings().map_err(CommandError::usage)?;
    super::release::run_at_start().await;
    let line = ProgressLine::new();
    let mut run = prepare(&options, &settings, &line)?;
    let mut stops = signals::listen();
    let Settings { requirements: asked, aggression } = settings;
    let mut hooks = Hooks::new(options.hook.clone(), Facts::of(&options, &asked, aggression));
    let probed = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(reason),
        probed = run.probe(options.asked.probe) => probed.map_err(|error| error.to_string()),
    };
    let (preflight, expected) = match probed {
        Ok(probed) => probed,
        Err(reason) => return Ok(finish(run.refuse(reason), hooks, options.json).await),
    };
    if let Some(expected) = &expected
        && !options.json
    {
        eprint_line(&forecast_line(expected));
    }
    hooks.facts().set_preflight(&preflight, expected.and_then(|expected| expected.forecast));
    let leave = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(reason),
        leave = hooks.before_start() => leave.map_err(|refused| refused.to_string()),
    };
    if let Err(reason) = leave {
        return Ok(finish(run.refuse(reason), hooks, options.json).await);
    }
    let gate = hooks.gate(options.switch_over_deadline);
    let mut on_tick = |tick: &Tick<'_>| {
        line.on_tick(tick);
        hooks.on_tick(tick);
    };
    run.set_gate(gate);
    let finished = run.steer(&mut stops, &mut on_tick).await;
    line.clear();
    Ok(finish(finished, hooks, options.json).await)
}

fn prepare(
    options: &MigrateArgs,
    settings: &Settings,
    line: &ProgressLine,
) -> Result<MigrationRun, CommandError> {
    let config = RunConfig {
        source: options.source.clone(),
        destination: options.destination.clone(),
        destination_qmp: options.destination_qmp.clone(),
        qemu_pid: options.asked.qemu_pid,
        requirements: settings.requirements.clone(),
        aggression: settings.aggression,
        policy: options.asked.policy.clone(),
        post_copy: options.post_copy == PostCopyArg::Allow,
        switch_over_deadline: options.switch_over_deadline,
    };
    let mut run = MigrationRun::new(config, &line.message_printer());
    if let Some(path) = &options.record {
        run.record_to(path).map_err(CommandError::usage)?;
    }
    Ok(run)
}

/// Shows the report, then runs the hooks of the end; returns the exit status.
async fn finish(run: FinishedRun, hooks: Hooks, json: bool) -> u8 {
    let FinishedRun { report, requirements } = run;
    show(&report, &requirements, json);
    hooks.on_end(&report).await;
    report.exit_status()
}

/// Prints the report. Standard output may be closed by now; the exit status tells the outcome in any case.
fn show(report: &Report, asked: &Requirements, json: bool) {
    if json {
        match serde_json::to_string(report) {
            Ok(text) => drop(writeln!(io::stdout(), "{text}")),
            Err(error) => {
                eprint_line(&format!("landfall: the report cannot be written as JSON: {error}"))
            }
        }
    } else {
        drop(write!(anstream::stdout(), "{}", format_report(report, asked)));
    }
}
