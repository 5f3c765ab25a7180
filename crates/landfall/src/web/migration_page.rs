//! The page of one migration: as it goes, or as it went.

use landfall_core::report::{Forecast, ForecastRange, Outcome, Report};
use landfall_core::requirements::Requirement;
use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Bytes, show_duration};
use maud::{Markup, html};

use super::foreseen::Foreseen;
use super::guest_page::requirement_name;
use super::layout::{Place, badge, between, known, moment, outcome, page, percent};
use super::migrations::Migration;
use super::pictures::{self, Room};
use super::track::Track;
use landfall_migration::text::{format_seconds as seconds, phase_name};

/// A migration, with all that is known of it.
pub struct Shown<'a> {
    pub migration: &'a Migration,
    pub track: &'a Track,
    pub foreseen: Option<&'a Foreseen>,
    /// What landfall reported, in the recording or beside it.
    pub report: Option<&'a Report>,
    pub under_way: bool,
}

/// The page, with what is demanded now.
pub fn migration(shown: &Shown<'_>, demands: &Demands, room: Room) -> Markup {
    let name = &shown.migration.name;
    let title = title(shown.migration);
    let contents = html! {
        .title {
            h1 { (title) }
            div id="state" { (state(shown)) }
            (facts(shown))
        }
        div id="live" data-events=[shown.under_way.then(|| format!("/migrations/{name}/events"))] {
            (now(shown))
            (picture(shown, room))
        }
        p.unseen id="said" role="status" {}
        @if shown.under_way { (controls(shown, demands)) }
        @if let Some(report) = shown.report { (result(shown, report)) }
        @else if !shown.under_way { (lost(shown)) }
    };
    page(&title, Place::Migrations, contents)
}

/// How a migration is called.
pub fn title(migration: &Migration) -> String {
    match &migration.started {
        Some(started) => started.guest.clone(),
        None => migration.name.clone(),
    }
}

fn facts(shown: &Shown<'_>) -> Markup {
    let policy = shown.track.head().map(|head| head.policy.clone());
    html! {
        p.hint {
            @if let Some(started) = &shown.migration.started {
                code { (started.source) } " to " code { (started.destination) } " · "
            }
            "begun " (moment(shown.migration.at()))
            @if let Some(policy) = policy { " · policy " (policy) }
        }
    }
}

/// Where it stands, in a word.
pub fn state(shown: &Shown<'_>) -> Markup {
    if let Some(report) = shown.report {
        let (word, colour) = outcome(report.outcome, report.exit_status() == 0);
        return badge(colour, word);
    }
    match (shown.under_way, shown.track.now().map(|moment| moment.phase)) {
        (false, _) => badge("bad", "ended without a report"),
        (true, None) => badge("live", "watching the guest before the start"),
        (true, Some(phase)) => badge(
            "live",
            match phase {
                Phase::Over => "ending",
                phase => phase_name(phase),
            },
        ),
    }
}

/// The figures of the moment.
pub fn now(shown: &Shown<'_>) -> Markup {
    if let Some(report) = shown.report {
        return measured(report);
    }
    let track = shown.track;
    let last = track.now();
    let rate = |rate: Option<ByteRate>| rate.map_or("–".to_owned(), |rate| rate.to_string());
    let figure = |name: &str, value: String, below: String| {
        html! { .tile { h3 { (name) } p.figure { (value) } p.range { (below) } } }
    };
    let expected = shown.foreseen.and_then(|foreseen| foreseen.forecast.as_ref());
    let total = expected.map(|forecast| format!("expected: {}", between_or(&forecast.total_s)));
    html! {
        .tiles id="now" {
            (figure("Elapsed", last.map_or("–".into(), |it| seconds(it.at)), total.unwrap_or_default()))
            (figure(
                "Left to be sent",
                last.map_or("–".into(), |it| it.remaining.to_string()),
                track.left.filter(|left| !left.is_zero()).map_or(String::new(), |left| {
                    format!("about {}", show_duration(left))
                }),
            ))
            (figure(
                "Dirty rate",
                rate(last.and_then(|it| it.dirty)),
                format!("link {}", rate(last.and_then(|it| it.link))),
            ))
            (figure(
                "Guest CPU",
                last.and_then(|it| it.cpu).map_or("–".into(), |share| share.to_string()),
                last.and_then(|it| it.grip).map_or("free".into(), |share| format!("held to {share}")),
            ))
        }
    }
}

/// The figures of the whole.
fn measured(report: &Report) -> Markup {
    let figure = |name: &str, value: String| {
        html! { .tile { h3 { (name) } p.figure { (value) } p.range {} } }
    };
    let sent = report.transferred_bytes.map_or("–".to_owned(), |bytes| Bytes(bytes).to_string());
    html! {
        @if report.total_s.is_some() {
            .tiles id="now" {
                (figure("Total time", known(report.total_s)))
                (figure("Longest stall", known(report.longest_stall_s)))
                (figure("Work lost", known(report.guest_cpu_lost_s)))
                (figure("Sent", sent))
            }
        }
    }
}

fn between_or(range: &ForecastRange) -> String {
    let text = between(range, seconds);
    if text.is_empty() { seconds(range.mid) } else { text }
}

/// The curves.
pub fn picture(shown: &Shown<'_>, room: Room) -> Markup {
    html! {
        section.card id="picture" aria-label="Its course" {
            @if shown.track.moments.is_empty() {
                p.hint { "Nothing has been sent yet." }
            } @else {
                (pictures::course(shown.track, shown.foreseen, room.whole()))
                @if !shown.track.why.is_empty() && shown.under_way { p.why { (shown.track.why) } }
            }
        }
    }
}

/// Cancel, and change what is demanded.
fn controls(shown: &Shown<'_>, demands: &Demands) -> Markup {
    let name = &shown.migration.name;
    html! {
        section.two id="controls" {
            (change(shown, demands))
            form.card method="post" action={ "/migrations/" (name) "/cancel" } {
                h2 { "Cancel" }
                p { "The guest runs on at the source, at full speed and with its old limits." }
                button.danger id="cancel" { "Cancel this migration" }
            }
        }
    }
}

fn change(shown: &Shown<'_>, demands: &Demands) -> Markup {
    let typed = |demand: &Demand| match demand.text().as_str() {
        "none" => String::new(),
        text => text.to_owned(),
    };
    html! {
        form.card method="post" action={ "/migrations/" (shown.migration.name) "/set" } autocomplete="off" {
            h2 { "Change what is demanded" }
            .fields {
                @for demand in demands.all() {
                    .field {
                        label for=(demand.name()) { (demand_name(&demand)) }
                        input id=(demand.name()) name=(demand.name()) value=(typed(&demand))
                            placeholder="none" spellcheck="false" autocapitalize="off";
                    }
                }
            }
            button { "Change" }
        }
    }
}

fn demand_name(demand: &Demand) -> &'static str {
    match demand {
        Demand::MaxBandwidth(_) => "Bandwidth, at most",
        Demand::MinCpu(_) => "CPU, at least",
        Demand::MaxStall(_) => "Stall, at most",
        Demand::MaxTime(_) => "Time, at most",
        Demand::GiveWay(_) => "May be broken, in this order",
        Demand::Aggression(_) => "Aggression",
    }
}

/// What came of it, against what was demanded and what was expected.
fn result(shown: &Shown<'_>, report: &Report) -> Markup {
    let forecast = report.forecast.as_ref();
    html! {
        section.two id="result" {
            .card {
                h2 { "Expected, and measured" }
                @if let Some(reason) = &report.reason { p { (reason) } }
                (figures(report, forecast))
            }
            @if !report.requirements.is_empty() { (verdicts(report)) }
            @if report.outcome != Outcome::Landed { (said(shown.migration)) }
        }
    }
}

fn figures(report: &Report, forecast: Option<&Forecast>) -> Markup {
    let range = |of: fn(&Forecast) -> ForecastRange| forecast.map(of);
    let row =
        |name: &str, range: Option<ForecastRange>, show: fn(f64) -> String, got: Option<f64>| {
            let within = range.zip(got).map(|(range, got)| got >= range.low && got <= range.high);
            html! { tr {
                th scope="row" { (name) }
                td { (range.map_or("–".to_owned(), |range| {
                    let text = between(&range, show);
                    if text.is_empty() { show(range.mid) } else { text }
                })) }
                td { (got.map_or("not known".to_owned(), show)) }
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
                (row("Total time", range(|it| it.total_s), seconds, report.total_s))
                (row("Longest stall", range(|it| it.longest_stall_s), seconds, report.longest_stall_s))
                (row("Work lost", range(|it| it.guest_cpu_lost_s), seconds, report.guest_cpu_lost_s))
                (row("Lowest CPU", range(|it| it.min_cpu_share), percent, report.min_cpu_share))
            }
        }
    }
}

fn verdicts(report: &Report) -> Markup {
    let show = |name: Requirement, value: f64| match name {
        Requirement::MaxBandwidth => ByteRate(value).to_string(),
        Requirement::MinCpu => percent(value),
        Requirement::MaxStall | Requirement::MaxTime => seconds(value),
    };
    html! {
        .card {
            h2 { "Demanded, and kept" }
            table.figures {
                thead { tr {
                    th scope="col" { "" } th scope="col" { "Demanded" } th scope="col" { "Measured" }
                    th scope="col" { "" }
                } }
                tbody {
                    @for verdict in &report.requirements {
                        tr {
                            th scope="row" { (requirement_name(verdict.name)) }
                            td { (show(verdict.name, verdict.asked)) }
                            td { (verdict.got.map_or(known(None), |got| show(verdict.name, got))) }
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

/// A landfall that left no report.
fn lost(shown: &Shown<'_>) -> Markup {
    html! {
        section.card {
            h2 { "It ended without a report" }
            p {
                "landfall was ended, or killed. Its guardian lets the guest go and cancels the migration; "
                "look at the guest with QMP query-status."
            }
            (said(shown.migration))
        }
    }
}

fn said(migration: &Migration) -> Markup {
    let said = migration.said();
    html! {
        @if !said.is_empty() {
            details { summary { "What landfall said" } pre { (said) } }
        }
    }
}
