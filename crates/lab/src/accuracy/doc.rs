//! The page: `docs/accuracy.md`.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use landfall_core::report::Outcome;
use landfall_migration::text::{class_name, outcome_name};
use serde_json::{Value, json};

use super::{Figure, Row};
use crate::doc_page;
use crate::statistics::quantile;

/// Writes `accuracy.md` into a folder.
pub fn write(folder: &Path, rows: &[Row]) -> io::Result<()> {
    doc_page::replace_figures(
        &folder.join("accuracy.md"),
        "landfall bench accuracy",
        &figures(rows),
    )
}

/// All tables, as Markdown.
pub fn figures(rows: &[Row]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = tables(&mut out, rows);
    out
}

fn tables(out: &mut String, rows: &[Row]) -> std::fmt::Result {
    let landed = rows.iter().filter(|row| row.report.outcome == Outcome::Landed).count();
    writeln!(out, "\n{} migrations, {landed} landed.\n", rows.len())?;
    writeln!(out, "| error | n | median | 95th percentile | most |\n|---|--:|--:|--:|--:|")?;
    type Error = fn(&Row) -> Option<f64>;
    let errors: [(&str, Error); 4] = [
        ("forecast, total time", |row| row.forecast_error(Figure::Total)),
        ("forecast, work lost", |row| row.forecast_error(Figure::Lost)),
        ("simulator, total time", |row| row.simulation_error(Figure::Total)),
        ("simulator, work lost", |row| row.simulation_error(Figure::Lost)),
    ];
    for (name, error) in errors {
        let mut all: Vec<f64> = rows.iter().filter_map(error).map(f64::abs).collect();
        all.sort_by(f64::total_cmp);
        let [median, far, most] = [0.5, 0.95, 1.0].map(|part| {
            let error = quantile(&all, part).map(|error| format!("{:.1} %", error * 100.0));
            error.unwrap_or_else(|| "-".to_owned())
        });
        writeln!(out, "| {name} | {} | {median} | {far} | {most} |", all.len())?;
    }
    let judged: Vec<&Row> = rows.iter().filter(|row| row.expected.is_some()).collect();
    let right = |row: &&&Row| row.expected.as_ref().is_some_and(|it| it.class == row.truth);
    let (right, of) = (judged.iter().filter(right).count(), judged.len());
    writeln!(out, "\nClasses right: {right} of {of}.")?;
    let within = |row: &&Row| {
        let range = row.expected.as_ref()?.forecast?.total_s;
        let total = row.report.total_s?;
        Some((range.low..=range.high).contains(&total))
    };
    let inside: Vec<bool> = rows.iter().filter_map(|row| within(&row)).collect();
    let hits = inside.iter().filter(|hit| **hit).count();
    writeln!(out, "Total time within the range forecast: {hits} of {}.\n", inside.len())?;
    writeln!(
        out,
        "| guest | link | by | class | total: forecast | was | simulated | lost: forecast | was \
         | simulated | stall: forecast | was |\n\
         |---|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )?;
    rows.iter().try_for_each(|row| line(out, row))
}

fn line(out: &mut String, row: &Row) -> std::fmt::Result {
    let forecast = row.expected.as_ref().and_then(|expected| expected.forecast);
    let said = |range: Option<landfall_core::report::ForecastRange>| {
        range.map_or("-".to_owned(), |range| {
            format!("{:.2} ({:.2}..{:.2})", range.mid, range.low, range.high)
        })
    };
    let figure = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let simulated = row.simulated.as_ref().map(|run| run.measured);
    let total = match row.report.outcome {
        Outcome::Landed => figure(row.report.total_s),
        other => outcome_name(other).to_owned(),
    };
    let class = match row.expected.as_ref().map(|expected| expected.class) {
        Some(class) if class == row.truth => class_name(class).to_owned(),
        Some(class) => format!("{}, taken for {}", class_name(row.truth), class_name(class)),
        None => class_name(row.truth).to_owned(),
    };
    writeln!(
        out,
        "| {} | {} | {} | {class} | {} | {total} | {} | {} | {} | {} | {} | {} |",
        row.guest,
        row.link,
        row.way,
        said(forecast.map(|it| it.total_s)),
        figure(simulated.map(|it| it.total.as_secs_f64())),
        said(forecast.map(|it| it.guest_cpu_lost_s)),
        figure(row.report.guest_cpu_lost_s),
        figure(simulated.and_then(|it| it.losses.guest_cpu).map(|it| it.as_secs_f64())),
        said(forecast.map(|it| it.longest_stall_s)),
        figure(row.report.longest_stall_s),
    )
}

pub fn as_json(row: &Row) -> Value {
    json!({
        "guest": row.guest, "by": row.way, "link": row.link, "class": row.truth,
        "class_forecast": row.expected.as_ref().map(|expected| expected.class),
        "report": row.report,
        "simulated": row.simulated.as_ref().map(|run| json!({
            "outcome": run.outcome,
            "total_s": run.measured.total.as_secs_f64(),
            "guest_cpu_lost_s": run.measured.losses.guest_cpu.map(|lost| lost.as_secs_f64()),
            "longest_stall_s": run.measured.losses.longest_stall.as_secs_f64(),
        })),
        "error": {
            "forecast_total": row.forecast_error(Figure::Total),
            "forecast_lost": row.forecast_error(Figure::Lost),
            "simulator_total": row.simulation_error(Figure::Total),
            "simulator_lost": row.simulation_error(Figure::Lost),
        },
    })
}
