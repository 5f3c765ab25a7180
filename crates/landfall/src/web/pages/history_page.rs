//! All migrations in the folder of recordings: what was expected of each, and what was measured.

use landfall_core::report::{Forecast, ForecastRange, Report};
use landfall_migration::text::format_seconds;
use maud::{Markup, html};

use super::labels::{NO_FIGURE, badge, format_range, outcome_badge};
use super::layout::{NavEntry, page_frame, utc_time};
use crate::web::migrations::RecordedMigration;

/// A migration in the list.
pub struct HistoryRow {
    pub migration: RecordedMigration,
    pub policy: Option<String>,
    pub report: Option<Report>,
    pub is_running: bool,
}

/// Renders the page.
pub fn history_page(rows: &[HistoryRow]) -> Markup {
    let contents = html! {
        .title {
            h1 { "Migrations" }
            p.hint { "Figures are measured. Below each is what was expected before the start." }
        }
        @if rows.is_empty() {
            p.empty { "No migration has been recorded yet. Start one on the page of a guest, or record one "
                "into this folder with " code { "landfall migrate --record FILE" } "." }
        } @else {
            table.cards.history {
                thead { tr {
                    @for name in ["Guest", "Started", "Policy", "Outcome", "Total time", "Longest stall", "Work lost"] {
                        th scope="col" { (name) }
                    }
                } }
                tbody { @for row in rows { (history_row(row)) } }
            }
        }
    };
    page_frame("Migrations", NavEntry::Migrations, contents)
}

fn history_row(row: &HistoryRow) -> Markup {
    let report = row.report.as_ref();
    let forecast = report.and_then(|report| report.forecast.as_ref());
    let figure = |title: &str, got: Option<f64>, range: fn(&Forecast) -> ForecastRange| {
        html! {
            td.number data-name=(title) {
                (got.map_or(NO_FIGURE.to_owned(), format_seconds))
                @if let Some(range) = forecast.map(range) {
                    span.sub { (format_range(&range, format_seconds)) }
                }
            }
        }
    };
    html! {
        tr {
            th scope="row" { a href={ "/migrations/" (row.migration.name) } { (row.migration.title()) } }
            td data-name="Started" { (utc_time(row.migration.started_at())) }
            td data-name="Policy" { (row.policy.as_deref().unwrap_or(NO_FIGURE)) }
            td data-name="Outcome" { (row_outcome(row)) }
            (figure("Total time", report.and_then(|it| it.total_s), |it| it.total_s))
            (figure("Longest stall", report.and_then(|it| it.longest_stall_s), |it| it.longest_stall_s))
            (figure("Work lost", report.and_then(|it| it.guest_cpu_lost_s), |it| it.guest_cpu_lost_s))
        }
    }
}

fn row_outcome(row: &HistoryRow) -> Markup {
    match (&row.report, row.is_running) {
        (Some(report), _) => outcome_badge(report),
        (None, true) => badge("live", "running"),
        (None, false) => badge("bad", "no report"),
    }
}
