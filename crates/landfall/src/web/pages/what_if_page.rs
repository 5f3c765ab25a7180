//! What settings imply, as parts of a guest's page. The script on the page replaces them while a slider
//! moves.

use landfall_core::planner::implications::{Implication, ImplicationVerdict, Lever, Ways};
use landfall_core::planner::remedies::Remedy;
use landfall_core::report::{Class, Forecast, ForecastRange};
use landfall_core::requirements::{Requirement, Setting};
use landfall_migration::text::format_seconds;
use maud::{Markup, html};

use super::labels::{
    NO_FIGURE, badge, class_badge, class_explanation, format_range, format_share, requirement_label,
};
use super::layout::sentence;
use crate::web::charts::{PageWidth, dirty_curve_chart, pareto_charts};
use crate::web::settings_form::SettingsForm;
use crate::web::what_if::{WhatIf, WhatIfGrade};

/// Settings of the aggression that are nearer than this are the same on the page: half a step of the
/// slider, and a little.
const SAME_AGGRESSION: f64 = 0.026;

/// Renders all parts that change with the settings.
pub fn changing_parts(what_if: &WhatIf, form: &SettingsForm, width: PageWidth) -> Markup {
    html! {
        (class_part(what_if))
        (figures_part(what_if, form))
        (trade_offs_part(what_if, form, width))
        (dirty_curve_part(what_if, width))
        (class_explanation_part(what_if))
        (field_problems_part(form))
    }
}

/// Renders the guest's class with these settings.
pub fn class_part(what_if: &WhatIf) -> Markup {
    html! { span id="class" { (class_badge(what_if.class.unwrap_or(Class::Unknown))) } }
}

/// Renders what the class means.
pub fn class_explanation_part(what_if: &WhatIf) -> Markup {
    html! { p id="meaning" { (class_explanation(what_if.class.unwrap_or(Class::Unknown))) } }
}

/// Renders the four figures, and whether the guest lands.
pub fn figures_part(what_if: &WhatIf, form: &SettingsForm) -> Markup {
    let chosen = &what_if.chosen;
    let forecast = chosen.forecast.as_ref();
    let range = |of: fn(&Forecast) -> ForecastRange| forecast.map(of);
    html! {
        section.implied id="implied" aria-label="What these settings imply" data-summary=(spoken_summary(chosen))
            data-grade=(grade_name(what_if.grade)) {
            .tiles {
                (tile("Total time", range(|it| it.total_s), format_seconds, tile_colour(chosen, Requirement::MaxTime)))
                (tile("Guest CPU, lowest", range(|it| it.min_cpu_share), format_share, tile_colour(chosen, Requirement::MinCpu)))
                (tile("Longest stall", range(|it| it.longest_stall_s), format_seconds, tile_colour(chosen, Requirement::MaxStall)))
                (tile("Work lost", range(|it| it.guest_cpu_lost_s), format_seconds, ""))
            }
            (verdict(what_if, form))
        }
    }
}

/// Renders a figure: its middle large, its range below.
fn tile(
    name: &str,
    range: Option<ForecastRange>,
    format: fn(f64) -> String,
    colour: &str,
) -> Markup {
    html! {
        div class={ "tile " (colour) } {
            h3 { (name) }
            @match range {
                Some(range) => {
                    p.figure { (format(range.mid)) }
                    p.range { (format_range(&range, format)) }
                }
                None => { p.figure { (NO_FIGURE) } p.range {} }
            }
        }
    }
}

fn tile_colour(chosen: &Implication, requirement: Requirement) -> &'static str {
    if chosen.broken.contains(&requirement) {
        "bad"
    } else if chosen.doubtful.contains(&requirement) {
        "fair"
    } else {
        ""
    }
}

fn verdict(what_if: &WhatIf, form: &SettingsForm) -> Markup {
    let chosen = &what_if.chosen;
    html! {
        .verdict {
            p class={ "line " (verdict_colour(chosen)) } {
                (verdict_text(chosen))
                @if let Some(button) = recommendation_button(what_if, form) { " " (button) }
            }
            @if let Some(ways) = &what_if.ways { p.hint { (compare_ways(ways)) } }
            (conflict_and_remedies(what_if, form))
            p.grade {
                @match what_if.grade {
                    WhatIfGrade::Planned => "Estimated by the planner. The migration is simulated once you stop changing settings.",
                    WhatIfGrade::Simulated => { "Simulated with policy " (form.policy) "." }
                }
            }
        }
    }
}

/// Renders a button that sets the recommended aggression, if another is set.
fn recommendation_button(what_if: &WhatIf, form: &SettingsForm) -> Option<Markup> {
    // A guest that lands unaided does so at every aggression.
    what_if.class.filter(|class| *class != Class::Unaided)?;
    let recommended = what_if.recommended.as_ref()?.aggression.get();
    let differs = (recommended - form.settings.aggression.get()).abs() > SAME_AGGRESSION;
    let apply = format!("aggression={recommended}");
    differs.then(|| html! {
        button.small name="apply" value=(apply) data-key="recommended" formmethod="get" formaction="?"
            formnovalidate { "Recommended: " (format!("{recommended:.1}")) }
    })
}

/// Renders what cannot be kept, and buttons that resolve it.
fn conflict_and_remedies(what_if: &WhatIf, form: &SettingsForm) -> Markup {
    let Some(conflict) = &what_if.conflict else { return html! {} };
    let is_new = |remedy: &&Remedy| match &remedy.change {
        // To let a requirement give way is no remedy if it may already.
        Setting::GiveWay(list) => *list != form.settings.requirements.give_way,
        _ => true,
    };
    html! {
        p.conflict { (sentence(&conflict.problem())) }
        ul.remedies aria-label="Changes that would resolve it" {
            @for remedy in conflict.remedies.iter().filter(is_new) {
                @let apply = format!("{}={}", remedy.change.name(), remedy.change.text());
                li { button name="apply" value=(apply) data-key=(apply) formmethod="get"
                    formaction="?" formnovalidate { (capitalised(&remedy.to_string())) } }
            }
        }
        @if conflict.remedies.is_empty() {
            p.hint { "No change to a single requirement resolves this. Change several." }
        }
    }
}

fn capitalised(text: &str) -> String {
    sentence(text).trim_end_matches('.').to_owned()
}

fn verdict_colour(chosen: &Implication) -> &'static str {
    match chosen.verdict {
        ImplicationVerdict::Lands if chosen.keeps_all() => "good",
        ImplicationVerdict::Refused => "bad",
        _ => "fair",
    }
}

/// Says whether the guest lands, and which requirements would be broken.
fn verdict_text(chosen: &Implication) -> String {
    let list = |which: &[Requirement]| {
        let names: Vec<&str> = which.iter().map(|one| requirement_label(*one)).collect();
        names.join(" and ")
    };
    match chosen.verdict {
        ImplicationVerdict::Unknown => class_explanation(Class::Unknown).to_owned(),
        ImplicationVerdict::Refused => {
            "landfall would refuse to start: not all your requirements can be kept.".to_owned()
        }
        ImplicationVerdict::Uncertain => {
            "landfall would start, but may have to cancel. The guest would then continue here unharmed."
                .to_owned()
        }
        ImplicationVerdict::Lands if !chosen.broken.is_empty() => {
            format!("It lands, but probably breaks these requirements: {}.", list(&chosen.broken))
        }
        ImplicationVerdict::Lands if !chosen.doubtful.is_empty() => {
            format!("It lands, but may break these requirements: {}.", list(&chosen.doubtful))
        }
        ImplicationVerdict::Lands => "It lands and keeps all your requirements.".to_owned(),
    }
}

/// Compares throttling and pausing, with figures.
fn compare_ways(ways: &Ways) -> String {
    let pause = format!(
        "a pause alone loses {} of work and stalls the guest for {}",
        format_seconds(ways.pause.guest_cpu_lost_s),
        format_seconds(ways.pause.longest_stall_s)
    );
    let Some(throttle) = ways.throttle else {
        return format!("No throttling makes it land; {pause}.");
    };
    let throttle = format!(
        "throttling loses {} of work and stalls the guest for {}",
        format_seconds(throttle.guest_cpu_lost_s),
        format_seconds(throttle.longest_stall_s)
    );
    match ways.loses_less {
        Lever::Neither => "Neither throttling nor a pause is needed: it lands unaided.".to_owned(),
        Lever::Throttle => format!("Throttling is better: {throttle}; {pause}."),
        Lever::Pause => {
            format!("A pause is better if the stall is acceptable: {throttle}; {pause}.")
        }
    }
}

/// Renders the trade-offs: the Pareto charts, and the table of the whole dial.
pub fn trade_offs_part(what_if: &WhatIf, form: &SettingsForm, width: PageWidth) -> Markup {
    let asked = &form.settings.requirements;
    let chosen = what_if.chosen.forecast.as_ref();
    html! {
        section.card id="frontier" aria-label="Trade-offs" {
            h2 { "Trade-offs" }
            (pareto_charts(&what_if.pareto_front, chosen, asked, width.third_chart()))
            details id="dial-table" open {
                summary data-key="dial-table" { "Figures for each aggression" }
                (dial_table(what_if, form))
            }
        }
    }
}

fn dial_table(what_if: &WhatIf, form: &SettingsForm) -> Markup {
    let set = form.settings.aggression.get();
    let recommended = what_if.recommended.as_ref();
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
                @for one in &what_if.dial {
                    @let is_recommended = recommended.is_some_and(|it| it.aggression == one.aggression);
                    @let is_set = (one.aggression.get() - set).abs() < SAME_AGGRESSION;
                    tr aria-current=[is_set.then_some("true")] {
                        th scope="row" {
                            (format!("{:.1}", one.aggression.get()))
                            @if is_recommended { " " (badge("good", "recommended")) }
                        }
                        @match &one.forecast {
                            Some(forecast) => {
                                td { (format_seconds(forecast.total_s.mid)) }
                                td { (format_share(forecast.min_cpu_share.mid)) }
                                td { (format_seconds(forecast.longest_stall_s.mid)) }
                                td { (format_seconds(forecast.guest_cpu_lost_s.mid)) }
                            }
                            None => td colspan="4" { "does not land" },
                        }
                    }
                }
            }
        }
    }
}

/// Renders the dirty curve, against the link as the settings limit it.
pub fn dirty_curve_part(what_if: &WhatIf, width: PageWidth) -> Markup {
    html! {
        figure.card.curve id="curve" {
            figcaption { h2 { "How fast it writes memory" } }
            @match dirty_curve_chart(&what_if.prior, width.half_chart()) {
                Some(chart) => (chart),
                None => p {
                    "QEMU could not measure this guest: it samples only blocks of memory of 128 MiB and more."
                },
            }
        }
    }
}

/// Renders what is wrong with the fields of the form.
pub fn field_problems_part(form: &SettingsForm) -> Markup {
    html! {
        div id="wrong" {
            @for problem in &form.problems {
                p.problem id={ (problem.field) "-wrong" } role="alert" data-field=(problem.field) {
                    (sentence(&problem.error.to_string()))
                }
            }
        }
    }
}

fn grade_name(grade: WhatIfGrade) -> &'static str {
    match grade {
        WhatIfGrade::Planned => "planned",
        WhatIfGrade::Simulated => "simulated",
    }
}

/// Says the verdict and the figures in a sentence, for screen readers.
fn spoken_summary(chosen: &Implication) -> String {
    let Some(forecast) = &chosen.forecast else { return verdict_text(chosen) };
    format!(
        "{} Total time {}, guest CPU {}, longest stall {}, work lost {}.",
        verdict_text(chosen),
        format_seconds(forecast.total_s.mid),
        format_share(forecast.min_cpu_share.mid),
        format_seconds(forecast.longest_stall_s.mid),
        format_seconds(forecast.guest_cpu_lost_s.mid)
    )
}
