//! `landfall demo`: boots guests of its own and shows what steering is worth against QEMU's own
//! auto-converge, on the same link.

mod picture;

use comfy_table::{CellAlignment, Table, presets};
use landfall_core::policy;
use landfall_core::report::{Forecast, ForecastRange};
use landfall_core::requirements::Aggression;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_testguest::{Kind, PagesPerSecond, Spec};
use serde_json::json;

use crate::cli::Demo;
use crate::live::Live;
use crate::signals;
use crate::trial::{Seen, Trial, asked_of, set_a_processor_apart};
use crate::words::seconds;
use landfall_qemu::stdio::{eprint_line, print_line};

/// Runs the demo and gives the exit status.
pub async fn run(options: Demo) -> u8 {
    eprint_line(&format!(
        "Four live migrations of real QEMU guests over a link of {}. About two minutes.\n",
        options.bandwidth
    ));
    let stops = &mut signals::listen();
    let mut rows = Vec::new();
    for trial in trials(options.bandwidth) {
        eprint_line(&format!("{}, by {}", trial.guest, trial.policy));
        let live = Live::new();
        let seen = trial.run(stops, &mut |look| live.look(look)).await;
        live.clear();
        match seen {
            Ok(seen) => {
                let landed = if seen.landed() { "landed in" } else { "given up after" };
                eprint_line(&format!("  {landed} {}", show_duration(seen.total)));
                rows.push((trial, seen));
            }
            Err(error) => {
                eprint_line(&format!("landfall: {error}"));
                return 5;
            }
        }
    }
    if let Err(error) = picture::write(&options.picture, &rows) {
        eprint_line(&format!(
            "landfall: the picture {} cannot be written: {error}",
            options.picture.display()
        ));
        return 5;
    }
    if options.json {
        print_line(&json!(rows.iter().map(row_as_json).collect::<Vec<_>>()).to_string());
    } else {
        print_line(&format!("\n{}\n", table(&rows)));
        print_line(&lesson(&rows));
        print_line(&format!("\nThe curves are in {}", options.picture.display()));
    }
    if rows.iter().all(|(_, seen)| seen.memory_intact) { 0 } else { 5 }
}

/// The pathological guest of 2015, and one of the nebulous middle: it writes four times what the
/// link carries, which it cannot keep up when it is throttled.
fn trials(link: ByteRate) -> Vec<Trial> {
    let pathological = Spec::new(Kind::Sweep);
    let rate = PagesPerSecond((4.0 * link.0 / 4096.0) as u64);
    let middle = Spec { working_set: Bytes::mib(144), ..Spec::new(Kind::Random { rate }) };
    let processors = set_a_processor_apart();
    let trial = |guest, spec: &Spec, policy| Trial {
        guest,
        spec: spec.clone(),
        policy,
        asked: asked_of(policy, link),
        aggression: Aggression::DEFAULT,
        link,
        record: None,
        processors,
    };
    vec![
        trial("pathological guest", &pathological, "auto-converge"),
        trial("pathological guest", &pathological, policy::DEFAULT),
        trial("guest of the middle", &middle, "auto-converge"),
        trial("guest of the middle", &middle, policy::DEFAULT),
    ]
}

fn table(rows: &[(Trial, Seen)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header([
        "guest",
        "policy",
        "total",
        "forecast",
        "work lost",
        "forecast",
        "longest stall",
        "sent",
        "memory",
    ]);
    for (trial, seen) in rows {
        table.add_row([
            trial.guest.to_owned(),
            trial.policy.to_owned(),
            seen.total_in_words(),
            forecast(seen, |forecast| forecast.total_s),
            show_duration(seen.lost),
            forecast(seen, |forecast| forecast.guest_cpu_lost_s),
            show_duration(seen.longest_stall),
            seen.sent.to_string(),
            if seen.memory_intact { "intact" } else { "SPOILT" }.to_owned(),
        ]);
    }
    for index in 2..8 {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What was said before the start.
fn forecast(seen: &Seen, figure: fn(&Forecast) -> ForecastRange) -> String {
    let forecast = seen.expected.as_ref().and_then(|expected| expected.forecast.as_ref());
    forecast.map_or("not likely to".to_owned(), |forecast| {
        let ForecastRange { low, mid, high } = figure(forecast);
        if seconds(low) == seconds(high) {
            seconds(mid)
        } else {
            format!("{} to {}", seconds(low), seconds(high))
        }
    })
}

/// What the figures say, in words.
fn lesson(rows: &[(Trial, Seen)]) -> String {
    let sentences = rows.chunks(2).filter_map(|pair| {
        let [(trial, theirs), (_, ours)] = pair else { return None };
        let time = theirs.total.as_secs_f64() / ours.total.as_secs_f64().max(1e-9);
        let work = theirs.lost.as_secs_f64() / ours.lost.as_secs_f64().max(1e-9);
        let least = if theirs.landed() { "" } else { "more than " };
        Some(format!(
            "The {}: landed {least}{time:.1} times as fast, with 1/{work:.1} of the work lost, \
             for a longest stall of {} instead of {}.",
            trial.guest,
            show_duration(ours.longest_stall),
            show_duration(theirs.longest_stall)
        ))
    });
    sentences.collect::<Vec<_>>().join("\n")
}

fn row_as_json((trial, seen): &(Trial, Seen)) -> serde_json::Value {
    json!({
        "guest": trial.guest,
        "policy": trial.policy,
        "total_s": seen.total.as_secs_f64(),
        "longest_stall_s": seen.longest_stall.as_secs_f64(),
        "work_lost_s": seen.lost.as_secs_f64(),
        "sent_bytes": seen.sent.0,
        "memory_intact": seen.memory_intact,
        "report": seen.report,
    })
}
