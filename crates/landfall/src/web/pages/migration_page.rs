//! The page of a migration: while it runs, and after its end.

use landfall_core::report::{Forecast, ForecastRange, Outcome, Report};
use landfall_core::requirements::{Requirement, Setting, Settings};
use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_migration::text::{format_seconds, phase_name};
use maud::{Markup, html};

use super::labels::{
    NO_FIGURE, badge, format_known_seconds, format_range_or_middle, format_share, outcome_badge,
    requirement_label,
};
use super::layout::{NavEntry, page_frame, sentence, utc_time};
use crate::web::charts::{PageWidth, timeline_charts};
use crate::web::expected_course::ExpectedCourse;
use crate::web::migrations::RecordedMigration;
use crate::web::timeline::MigrationTimeline;

/// What the page shows of a migration.
pub struct MigrationPageData<'a> {
    pub migration: &'a RecordedMigration,
    pub timeline: &'a MigrationTimeline,
    pub expected: Option<&'a ExpectedCourse>,
    /// landfall's report, from the recording or from the file beside it.
    pub report: Option<&'a Report>,
    pub is_running: bool,
}

/// Renders the page, with the settings in force.
pub fn migration_page(
    data: &MigrationPageData<'_>,
    settings: &Settings,
    width: PageWidth,
) -> Markup {
    let name = &data.migration.name;
    let title = data.migration.title();
    let contents = html! {
        .title {
            h1 { (title) }
            div id="state" { (state_badge(data)) }
            (facts(data))
        }
        div id="live" data-events=[data.is_running.then(|| format!("/migrations/{name}/events"))] {
            (current_figures(data))
            (chart_card(data, width))
        }
        p.unseen id="said" role="status" {}
        @if data.is_running { (controls(data, settings)) }
        @if let Some(report) = data.report { (result(data, report)) }
        @else if !data.is_running { (ended_without_report(data)) }
    };
    page_frame(title, NavEntry::Migrations, contents)
}

fn facts(data: &MigrationPageData<'_>) -> Markup {
    let policy = data.timeline.head().map(|head| head.policy.clone());
    html! {
        p.hint {
            @if let Some(note) = &data.migration.start_note {
                code { (note.source) } " to " code { (note.destination) } " · "
            }
            "started " (utc_time(data.migration.started_at()))
            @if let Some(policy) = policy { " · policy " (policy) }
        }
    }
}

/// Renders the phase, or the outcome.
pub fn state_badge(data: &MigrationPageData<'_>) -> Markup {
    if let Some(report) = data.report {
        return outcome_badge(report);
    }
    match (data.is_running, data.timeline.latest().map(|point| point.phase)) {
        (false, _) => badge("bad", "ended without a report"),
        (true, None) => badge("live", "measuring the guest before the start"),
        (true, Some(Phase::Over)) => badge("live", "finishing"),
        (true, Some(phase)) => badge("live", phase_name(phase)),
    }
}

/// Renders the latest figures of a running migration, or the final ones.
pub fn current_figures(data: &MigrationPageData<'_>) -> Markup {
    if let Some(report) = data.report {
        return final_figures(report);
    }
    let timeline = data.timeline;
    let latest = timeline.latest();
    let rate = |rate: Option<ByteRate>| rate.map_or(NO_FIGURE.to_owned(), |rate| rate.to_string());
    let tile = |name: &str, value: Option<String>, below: String| {
        let value = value.unwrap_or_else(|| NO_FIGURE.to_owned());
        html! { .tile { h3 { (name) } p.figure { (value) } p.range { (below) } } }
    };
    let expected = data.expected.and_then(|expected| expected.forecast.as_ref());
    let expected_total = expected.map(|forecast| {
        format!("expected: {}", format_range_or_middle(&forecast.total_s, format_seconds))
    });
    let time_left = timeline.time_left.filter(|left| !left.is_zero());
    let time_left = time_left.map(|left| format!("about {}", show_duration(left)));
    let hold = latest.and_then(|point| point.tightest_hold);
    let hold = hold.map_or("not throttled".to_owned(), |share| format!("throttled to {share}"));
    html! {
        .tiles id="now" {
            (tile(
                "Elapsed",
                latest.map(|point| format_seconds(point.at_s)),
                expected_total.unwrap_or_default(),
            ))
            (tile(
                "Left to send",
                latest.map(|point| point.remaining.to_string()),
                time_left.unwrap_or_default(),
            ))
            (tile(
                "Dirty rate",
                Some(rate(latest.and_then(|point| point.dirty_rate))),
                format!("link {}", rate(latest.and_then(|point| point.link))),
            ))
            (tile(
                "Guest CPU",
                latest.and_then(|point| point.used_cpu).map(|share| share.to_string()),
                hold,
            ))
        }
    }
}

fn final_figures(report: &Report) -> Markup {
    let tile = |name: &str, value: String| {
        html! { .tile { h3 { (name) } p.figure { (value) } p.range {} } }
    };
    let sent = report.transferred_bytes.map(|bytes| Bytes(bytes).to_string());
    html! {
        @if report.total_s.is_some() {
            .tiles id="now" {
                (tile("Total time", format_known_seconds(report.total_s)))
                (tile("Longest stall", format_known_seconds(report.longest_stall_s)))
                (tile("Work lost", format_known_seconds(report.guest_cpu_lost_s)))
                (tile("Sent", sent.unwrap_or_else(|| NO_FIGURE.to_owned())))
            }
        }
    }
}

/// Renders the charts, and the policy's reason for what it does now.
pub fn chart_card(data: &MigrationPageData<'_>, width: PageWidth) -> Markup {
    html! {
        section.card id="picture" aria-label="Progress over time" {
            @if data.timeline.points.is_empty() {
                p.hint { "Nothing has been sent yet." }
            } @else {
                (timeline_charts(data.timeline, data.expected, width.full_chart()))
                @if !data.timeline.reason.is_empty() && data.is_running { p.why { (data.timeline.reason) } }
            }
        }
    }
}

fn controls(data: &MigrationPageData<'_>, settings: &Settings) -> Markup {
    let name = &data.migration.name;
    html! {
        section.two id="controls" {
            (settings_form(data, settings))
            form.card method="post" action={ "/migrations/" (name) "/cancel" } {
                h2 { "Cancel" }
                p { "The guest continues at the source, at full speed and with its earlier limits." }
                button.danger id="cancel" { "Cancel this migration" }
            }
        }
    }
}

fn settings_form(data: &MigrationPageData<'_>, settings: &Settings) -> Markup {
    let text = |setting: &Setting| match setting.text().as_str() {
        "none" => String::new(),
        text => text.to_owned(),
    };
    html! {
        form.card method="post" action={ "/migrations/" (data.migration.name) "/set" } autocomplete="off" {
            h2 { "Change the settings" }
            .fields {
                @for setting in settings.all() {
                    .field {
                        label for=(setting.name()) { (setting.spec().label) }
                        input id=(setting.name()) name=(setting.name()) value=(text(&setting))
                            placeholder="none" spellcheck="false" autocapitalize="off";
                    }
                }
            }
            button { "Change" }
        }
    }
}

/// Renders the report, against what was asked and what was expected.
fn result(data: &MigrationPageData<'_>, report: &Report) -> Markup {
    html! {
        section.two id="result" {
            .card {
                h2 { "Expected and measured" }
                @if let Some(reason) = &report.reason { p { (sentence(reason)) } }
                (forecast_table(report))
            }
            @if !report.requirements.is_empty() { (requirements_card(report)) }
            @if report.outcome != Outcome::Landed { (log_details(data.migration)) }
        }
    }
}

fn forecast_table(report: &Report) -> Markup {
    let range = |of: fn(&Forecast) -> ForecastRange| report.forecast.as_ref().map(of);
    let row =
        |name: &str, range: Option<ForecastRange>, format: fn(f64) -> String, got: Option<f64>| {
            let expected = range.map(|range| format_range_or_middle(&range, format));
            let within = range.zip(got).map(|(range, got)| got >= range.low && got <= range.high);
            html! { tr {
                th scope="row" { (name) }
                td { (expected.unwrap_or_else(|| NO_FIGURE.to_owned())) }
                td { (got.map_or("not known".to_owned(), format)) }
                td { @match within {
                    Some(true) => span.good { "within" },
                    Some(false) => span.fair { "outside" },
                    None => "",
                } }
            } }
        };
    html! {
        table.figures {
            thead { tr {
                th scope="col" { "" } th scope="col" { "Expected" } th scope="col" { "Measured" }
                th scope="col" { "" }
            } }
            tbody {
                (row("Total time", range(|it| it.total_s), format_seconds, report.total_s))
                (row("Longest stall", range(|it| it.longest_stall_s), format_seconds, report.longest_stall_s))
                (row("Work lost", range(|it| it.guest_cpu_lost_s), format_seconds, report.guest_cpu_lost_s))
                (row("Lowest CPU", range(|it| it.min_cpu_share), format_share, report.min_cpu_share))
            }
        }
    }
}

fn requirements_card(report: &Report) -> Markup {
    let format = |name: Requirement, value: f64| match name {
        Requirement::MaxBandwidth => ByteRate(value).to_string(),
        Requirement::MinCpu => format_share(value),
        Requirement::MaxStall | Requirement::MaxTime => format_seconds(value),
    };
    html! {
        .card {
            h2 { "Requirements" }
            table.figures {
                thead { tr {
                    th scope="col" { "" } th scope="col" { "Asked" } th scope="col" { "Measured" }
                    th scope="col" { "" }
                } }
                tbody {
                    @for verdict in &report.requirements {
                        tr {
                            th scope="row" { (requirement_label(verdict.name)) }
                            td { (format(verdict.name, verdict.asked)) }
                            td { (verdict.got.map_or("not known".to_owned(), |got| format(verdict.name, got))) }
                            td { @match verdict.kept {
                                Some(true) => span.good { "kept" },
                                Some(false) => span.bad { "broken" },
                                None => span.fair { "not known" },
                            } }
                        }
                    }
                }
            }
        }
    }
}

fn ended_without_report(data: &MigrationPageData<'_>) -> Markup {
    html! {
        section.card {
            h2 { "It ended without a report" }
            p {
                "The landfall that steered this migration was killed, or crashed. Its guardian process "
                "releases the guest's CPU and cancels the migration. Check with the QMP command "
                code { "query-status" } " at the source and at the destination where the guest runs."
            }
            (log_details(data.migration))
        }
    }
}

fn log_details(migration: &RecordedMigration) -> Markup {
    let log = migration.log_tail();
    html! {
        @if !log.is_empty() {
            details { summary { "Messages of landfall" } pre { (log) } }
        }
    }
}
