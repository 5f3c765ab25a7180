//! All migrations in the folder: what was expected of each, and what came of it.

use landfall_core::report::{Forecast, ForecastRange, Report};
use maud::{Markup, html};

use super::layout::{Place, badge, between, moment, outcome, page};
use super::migrations::Migration;
use landfall_migration::text::format_seconds as seconds;

/// A migration in the list.
pub struct Row {
    pub migration: Migration,
    pub policy: Option<String>,
    pub report: Option<Report>,
    pub under_way: bool,
}

/// The page.
pub fn history(rows: &[Row]) -> Markup {
    let contents = html! {
        .title {
            h1 { "Migrations" }
            p.hint { "Measured, and below each figure what was expected before the start." }
        }
        @if rows.is_empty() {
            p.empty { "None was recorded yet. Start one from the page of a guest, or with "
                code { "landfall migrate --record" } " into this folder." }
        } @else {
            table.cards.history {
                thead { tr {
                    @for name in ["Guest", "Begun", "Policy", "Outcome", "Total time", "Longest stall", "Work lost"] {
                        th scope="col" { (name) }
                    }
                } }
                tbody { @for one in rows { (row(one)) } }
            }
        }
    };
    page("Migrations", Place::Migrations, contents)
}

fn row(row: &Row) -> Markup {
    let report = row.report.as_ref();
    let forecast = report.and_then(|report| report.forecast.as_ref());
    let name = &row.migration.name;
    let guest = if row.migration.guest().is_empty() { name } else { row.migration.guest() };
    let figure = |title: &str, got: Option<f64>, of: fn(&Forecast) -> ForecastRange| {
        html! {
            td.number data-name=(title) {
                (got.map_or("–".to_owned(), seconds))
                @if let Some(range) = forecast.map(of) {
                    span.sub { (between(&range, seconds)) }
                }
            }
        }
    };
    html! {
        tr {
            th scope="row" { a href={ "/migrations/" (name) } { (guest) } }
            td data-name="Begun" { (moment(row.migration.at())) }
            td data-name="Policy" { (row.policy.as_deref().unwrap_or("–")) }
            td data-name="Outcome" { (end(row)) }
            (figure("Total time", report.and_then(|it| it.total_s), |it| it.total_s))
            (figure("Longest stall", report.and_then(|it| it.longest_stall_s), |it| it.longest_stall_s))
            (figure("Work lost", report.and_then(|it| it.guest_cpu_lost_s), |it| it.guest_cpu_lost_s))
        }
    }
}

fn end(row: &Row) -> Markup {
    match (&row.report, row.under_way) {
        (Some(report), _) => {
            let (word, colour) = outcome(report.outcome, report.exit_status() == 0);
            badge(colour, word)
        }
        (None, true) => badge("live", "under way"),
        (None, false) => badge("bad", "no report"),
    }
}
