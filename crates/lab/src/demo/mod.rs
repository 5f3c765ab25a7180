//! `landfall demo`: boots guests and shows what steering is worth against QEMU's own auto-converge, on the
//! same link.

mod chart;

use std::path::PathBuf;

use clap::Args;
use landfall_core::policy;
use landfall_core::report::{Forecast, ForecastRange};
use landfall_core::requirements::Aggression;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_migration::progress::ProgressLine;
use landfall_migration::tables::{Table, borderless_table};
use landfall_migration::text::format_seconds;
use landfall_qemu::driver::Interrupts;
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};
use serde_json::json;

use crate::error::ExperimentError;
use crate::run::{LabResult, LabRun, isolate_guest_cpu, standard_requirements};

/// Boots guests whose behaviour is known, a pathological one and one of the middle, and moves each
/// by QEMU's auto-converge and by landfall over the same link. Needs QEMU, and root for the CPU
/// controller.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Rate of the link
    #[arg(long, value_name = "RATE", default_value = "100MB/s")]
    pub bandwidth: ByteRate,

    /// Where the picture of the curves goes
    #[arg(long, value_name = "FILE", default_value = "landfall-demo.svg")]
    pub picture: PathBuf,

    /// Print the figures as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Runs the demo.
///
/// # Errors
/// [`ExperimentError`].
pub async fn run(options: DemoArgs, mut stops: Interrupts) -> Result<(), ExperimentError> {
    eprint_line(&format!(
        "Four live migrations of real QEMU guests over a link of {}. About two minutes.\n",
        options.bandwidth
    ));
    let mut rows = Vec::new();
    for run in runs(options.bandwidth) {
        eprint_line(&format!("{}, by {}", run.guest, run.policy));
        let line = ProgressLine::new();
        let result = run.run(&mut stops, &mut |tick| line.on_tick(tick)).await;
        line.clear();
        let what = || format!("{}, by {}", run.guest, run.policy);
        let result = result.map_err(|error| ExperimentError::Run { what: what(), error })?;
        let landed = if result.landed() { "landed in" } else { "given up after" };
        eprint_line(&format!("  {landed} {}", show_duration(result.total)));
        rows.push((run, result));
    }
    chart::write(&options.picture, &rows)?;
    if options.json {
        print_line(&json!(rows.iter().map(row_as_json).collect::<Vec<_>>()).to_string());
    } else {
        print_line(&format!("\n{}\n", table(&rows)));
        print_line(&lesson(&rows));
        print_line(&format!("\nThe curves are in {}", options.picture.display()));
    }
    match rows.iter().find(|(_, seen)| !seen.memory_intact) {
        Some((run, _)) => {
            let what = format!("{}, by {}", run.guest, run.policy);
            Err(ExperimentError::MemoryDamaged { what })
        }
        None => Ok(()),
    }
}

/// Returns the migrations: the pathological guest of 2015, and one of the nebulous middle, which writes four
/// times what the link carries and cannot do so when it is throttled.
fn runs(link: ByteRate) -> Vec<LabRun> {
    let pathological = GuestSpec::new(Workload::Sweep);
    let rate = PagesPerSecond((4.0 * link.0 / 4096.0) as u64);
    let middle =
        GuestSpec { working_set: Bytes::mib(144), ..GuestSpec::new(Workload::Random { rate }) };
    let isolated_cpus = isolate_guest_cpu();
    let run = |guest, spec: &GuestSpec, policy| LabRun {
        guest,
        spec: spec.clone(),
        policy,
        asked: standard_requirements(policy, link),
        aggression: Aggression::DEFAULT,
        link,
        record: None,
        isolated_cpus,
    };
    vec![
        run("pathological guest", &pathological, "auto-converge"),
        run("pathological guest", &pathological, policy::DEFAULT),
        run("guest of the middle", &middle, "auto-converge"),
        run("guest of the middle", &middle, policy::DEFAULT),
    ]
}

fn table(rows: &[(LabRun, LabResult)]) -> Table {
    let header = [
        "guest",
        "policy",
        "total",
        "forecast",
        "work lost",
        "forecast",
        "longest stall",
        "sent",
        "memory",
    ];
    let mut table = borderless_table(header, 2..8);
    for (run, seen) in rows {
        table.add_row([
            run.guest.to_owned(),
            run.policy.to_owned(),
            seen.format_total(),
            forecast(seen, |forecast| forecast.total_s),
            show_duration(seen.lost),
            forecast(seen, |forecast| forecast.guest_cpu_lost_s),
            show_duration(seen.longest_stall),
            seen.sent.to_string(),
            if seen.memory_intact { "intact" } else { "SPOILT" }.to_owned(),
        ]);
    }
    table
}

/// Returns a figure of the forecast that was made before the start.
fn forecast(seen: &LabResult, figure: fn(&Forecast) -> ForecastRange) -> String {
    let forecast = seen.expected.as_ref().and_then(|expected| expected.forecast.as_ref());
    forecast.map_or("not likely to".to_owned(), |forecast| {
        let ForecastRange { low, mid, high } = figure(forecast);
        let [low, mid, high] = [low, mid, high].map(format_seconds);
        if low == high { mid } else { format!("{low} to {high}") }
    })
}

/// Returns what the figures show, in words.
fn lesson(rows: &[(LabRun, LabResult)]) -> String {
    let sentences = rows.chunks(2).filter_map(|pair| {
        let [(run, theirs), (_, ours)] = pair else { return None };
        let time = theirs.total.as_secs_f64() / ours.total.as_secs_f64().max(1e-9);
        let work = theirs.lost.as_secs_f64() / ours.lost.as_secs_f64().max(1e-9);
        let least = if theirs.landed() { "" } else { "more than " };
        Some(format!(
            "The {}: landed {least}{time:.1} times as fast, with 1/{work:.1} of the work lost, \
             for a longest stall of {} instead of {}.",
            run.guest,
            show_duration(ours.longest_stall),
            show_duration(theirs.longest_stall)
        ))
    });
    sentences.collect::<Vec<_>>().join("\n")
}

fn row_as_json((run, seen): &(LabRun, LabResult)) -> serde_json::Value {
    json!({
        "guest": run.guest,
        "policy": run.policy,
        "total_s": seen.total.as_secs_f64(),
        "longest_stall_s": seen.longest_stall.as_secs_f64(),
        "work_lost_s": seen.lost.as_secs_f64(),
        "sent_bytes": seen.sent.0,
        "memory_intact": seen.memory_intact,
        "report": seen.report,
    })
}
