//! What a setting implies, as parts of a page that are put in place anew while a slider moves.

use landfall_core::planner::implications::{Implication, ImplicationVerdict, Lever, Ways};
use landfall_core::planner::remedies::Remedy;
use landfall_core::report::{Class, Forecast, ForecastRange};
use landfall_core::requirements::Requirement;
use landfall_core::requirements::settings::Demand;
use maud::{Markup, html};

use super::guest_page::requirement_name;
use super::guests_page::class_colour;
use super::implied::{Grade, Implied};
use super::layout::{badge, between, class_in_words, class_name, percent};
use super::pictures::{self, Room};
use super::settings::Settings;
use landfall_migration::text::format_seconds as seconds;

/// All parts that change with a setting.
pub fn parts(implied: &Implied, settings: &Settings, room: Room) -> Markup {
    html! {
        (class(implied))
        (figures(implied, settings))
        (frontier(implied, settings, room))
        (curve(implied, room))
        (meaning(implied))
        (wrong(settings))
    }
}

/// The class, for what is demanded.
pub fn class(implied: &Implied) -> Markup {
    let class = implied.class.unwrap_or(Class::Unknown);
    html! { span id="class" { (badge(class_colour(class), class_name(class))) } }
}

/// What the class means.
pub fn meaning(implied: &Implied) -> Markup {
    html! { p id="meaning" { (class_in_words(implied.class.unwrap_or(Class::Unknown))) } }
}

/// The four figures, and what they come to.
pub fn figures(implied: &Implied, settings: &Settings) -> Markup {
    let chosen = &implied.chosen;
    let forecast = chosen.forecast.as_ref();
    let range = |of: fn(&Forecast) -> ForecastRange| forecast.map(of);
    html! {
        section.implied id="implied" aria-label="What this implies" data-summary=(summary(chosen))
            data-grade=(grade(implied.grade)) {
            .tiles {
                (tile("Total time", range(|it| it.total_s), seconds, mark(chosen, Requirement::MaxTime)))
                (tile("Guest CPU, lowest", range(|it| it.min_cpu_share), percent, mark(chosen, Requirement::MinCpu)))
                (tile("Longest stall", range(|it| it.longest_stall_s), seconds, mark(chosen, Requirement::MaxStall)))
                (tile("Work lost", range(|it| it.guest_cpu_lost_s), seconds, ""))
            }
            (verdict(implied, settings))
        }
    }
}

/// A figure: its middle large, its range below.
fn tile(name: &str, range: Option<ForecastRange>, show: fn(f64) -> String, mark: &str) -> Markup {
    html! {
        div class={ "tile " (mark) } {
            h3 { (name) }
            @match range {
                Some(range) => {
                    p.figure { (show(range.mid)) }
                    p.range { (between(&range, show)) }
                }
                None => { p.figure { "–" } p.range {} }
            }
        }
    }
}

fn mark(chosen: &Implication, requirement: Requirement) -> &'static str {
    if chosen.broken.contains(&requirement) {
        "bad"
    } else if chosen.doubtful.contains(&requirement) {
        "fair"
    } else {
        ""
    }
}

fn verdict(implied: &Implied, settings: &Settings) -> Markup {
    let chosen = &implied.chosen;
    html! {
        .verdict {
            p class={ "line " (colour(chosen)) } {
                (in_words(chosen))
                @if let Some(recommended) = better(implied, settings) { " " (recommended) }
            }
            @if let Some(ways) = &implied.ways { p.hint { (either(ways)) } }
            (remedies(implied, settings))
            p.grade {
                @match implied.grade {
                    Grade::Planned => "By the planner; simulated once you let go.",
                    Grade::Simulated => { "Simulated, by policy " (settings.policy) "." }
                }
            }
        }
    }
}

/// A button for the setting to take, where that is another.
fn better(implied: &Implied, settings: &Settings) -> Option<Markup> {
    // Whoever lands by himself does so at every setting.
    implied.class.filter(|class| *class != Class::Unaided)?;
    let recommended = implied.recommended.as_ref()?.aggression;
    let far = (recommended.get() - settings.demands.aggression.get()).abs() > 0.026;
    let apply = format!("aggression={}", recommended.get());
    far.then(|| html! {
        button.small name="apply" value=(apply) data-key="recommended" formmethod="get" formaction="?"
            formnovalidate { "Recommended: " (format!("{:.1}", recommended.get())) }
    })
}

/// What conflicts, and buttons that resolve it.
fn remedies(implied: &Implied, settings: &Settings) -> Markup {
    let Some(conflict) = &implied.conflict else { return html! {} };
    let left = |remedy: &&Remedy| match &remedy.change {
        // What may give way already is no remedy any more.
        Demand::GiveWay(list) => *list != settings.demands.requirements.give_way,
        _ => true,
    };
    html! {
        p.conflict { (sentence(&conflict.problem())) }
        ul.remedies aria-label="What would resolve it" {
            @for remedy in conflict.remedies.iter().filter(left) {
                @let apply = format!("{}={}", remedy.change.name(), remedy.change.text());
                li { button name="apply" value=(apply) data-key=(apply) formmethod="get"
                    formaction="?" formnovalidate { (sentence(&remedy.to_string())) } }
            }
        }
        @if conflict.remedies.is_empty() { p.hint { "No change to one of them resolves it." } }
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn colour(chosen: &Implication) -> &'static str {
    match chosen.verdict {
        ImplicationVerdict::Lands if chosen.keeps_all() => "good",
        ImplicationVerdict::Refused => "bad",
        _ => "fair",
    }
}

/// Whether it lands, and what is broken by it.
fn in_words(chosen: &Implication) -> String {
    let list = |which: &[Requirement]| {
        let names: Vec<&str> = which.iter().map(|one| requirement_name(*one)).collect();
        names.join(" and ")
    };
    match chosen.verdict {
        ImplicationVerdict::Unknown => "Too little is known of the guest or the link.".to_owned(),
        ImplicationVerdict::Refused => {
            "It would be refused: not all that you demand can be kept.".to_owned()
        }
        ImplicationVerdict::Uncertain => {
            "It would be started, and may have to be given up, with the guest unharmed.".to_owned()
        }
        ImplicationVerdict::Lands if !chosen.broken.is_empty() => {
            format!("It lands, and is likely to break: {}.", list(&chosen.broken))
        }
        ImplicationVerdict::Lands if !chosen.doubtful.is_empty() => {
            format!("It lands; in doubt: {}.", list(&chosen.doubtful))
        }
        ImplicationVerdict::Lands => "It lands, and keeps all that you demand.".to_owned(),
    }
}

/// Throttle or pause, with the figures.
fn either(ways: &Ways) -> String {
    let pause = format!(
        "a pause alone loses {} and stands still for {}",
        seconds(ways.pause.guest_cpu_lost_s),
        seconds(ways.pause.longest_stall_s)
    );
    let Some(held) = ways.throttle else { return format!("No hold lands it; {pause}.") };
    let held = format!(
        "holding loses {} and stands still for {}",
        seconds(held.guest_cpu_lost_s),
        seconds(held.longest_stall_s)
    );
    match ways.loses_less {
        Lever::Neither => "Neither hold nor pause is needed: it lands by itself.".to_owned(),
        Lever::Throttle => format!("Hold rather than pause: {held}; {pause}."),
        Lever::Pause => format!("Where the stall allows it, a pause is better: {held}; {pause}."),
    }
}

/// The frontier, and the table of the whole dial.
pub fn frontier(implied: &Implied, settings: &Settings, room: Room) -> Markup {
    let asked = &settings.demands.requirements;
    html! {
        section.card id="frontier" aria-label="What can be had for what" {
            h2 { "What can be had for what" }
            (pictures::frontier(&implied.frontier, implied.chosen.forecast.as_ref(), asked, room.third()))
            details id="dial-table" open {
                summary data-key="dial-table" { "The whole dial, in figures" }
                (dial(implied, settings))
            }
        }
    }
}

fn dial(implied: &Implied, settings: &Settings) -> Markup {
    let now = settings.demands.aggression.get();
    let recommended = implied.recommended.as_ref();
    html! {
        @if let Some(recommended) = recommended {
            p.hint { "Recommended: " (format!("{:.1}", recommended.aggression.get())) "; " (recommended.why) "." }
        }
        table.figures {
            thead { tr {
                @for name in ["Aggression", "Total time", "Guest CPU", "Longest stall", "Work lost"] {
                    th scope="col" { (name) }
                }
            } }
            tbody {
                @for one in &implied.dial {
                    @let taken = recommended.is_some_and(|it| it.aggression == one.aggression);
                    tr aria-current=[((one.aggression.get() - now).abs() < 0.026).then_some("true")] {
                        th scope="row" {
                            (format!("{:.1}", one.aggression.get()))
                            @if taken { " " (badge("good", "recommended")) }
                        }
                        @match &one.forecast {
                            Some(forecast) => {
                                td { (seconds(forecast.total_s.mid)) }
                                td { (percent(forecast.min_cpu_share.mid)) }
                                td { (seconds(forecast.longest_stall_s.mid)) }
                                td { (seconds(forecast.guest_cpu_lost_s.mid)) }
                            }
                            None => td colspan="4" { "does not land" },
                        }
                    }
                }
            }
        }
    }
}

/// How the guest writes, against the link as it may be used.
pub fn curve(implied: &Implied, room: Room) -> Markup {
    html! {
        figure.card.curve id="curve" {
            figcaption { h2 { "How it writes" } }
            @match pictures::curve(&implied.prior, room.half()) {
                Some(picture) => (picture),
                None => p { "QEMU could not measure it: it samples no block of memory below 128 MiB." },
            }
        }
    }
}

/// What was typed and means nothing.
pub fn wrong(settings: &Settings) -> Markup {
    html! {
        div id="wrong" {
            @for (name, problem) in &settings.wrong {
                p.problem id={ (name) "-wrong" } role="alert" data-field=(name) { (problem) }
            }
        }
    }
}

fn grade(grade: Grade) -> &'static str {
    match grade {
        Grade::Planned => "planned",
        Grade::Simulated => "simulated",
    }
}

/// All of it in a sentence, for who listens.
fn summary(chosen: &Implication) -> String {
    let Some(forecast) = &chosen.forecast else { return in_words(chosen) };
    format!(
        "{} Total time {}, guest CPU {}, longest stall {}, work lost {}.",
        in_words(chosen),
        seconds(forecast.total_s.mid),
        percent(forecast.min_cpu_share.mid),
        seconds(forecast.longest_stall_s.mid),
        seconds(forecast.guest_cpu_lost_s.mid)
    )
}
