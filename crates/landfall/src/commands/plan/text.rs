//! A plan as text and tables.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use landfall_core::planner::implications::{Implication, ImplicationVerdict, Lever, Way, Ways};
use landfall_core::planner::remedies::Conflict;
use landfall_core::report::{Forecast, ForecastRange};
use landfall_core::requirements::Settings;
use landfall_core::units::Share;
use landfall_migration::charts::dirty_curve::{DirtyCurveChart, draw_as_text};
use landfall_migration::forecaster::{ProbeSummary, Prospects};
use landfall_migration::recommendation::Recommendation;
use landfall_migration::tables::{Table, borderless_table};
use landfall_migration::text::{class_meaning, format_seconds};

use crate::cli::PlanArgs;

const BOLD: Style = Style::new().bold();

/// Returns the whole plan.
pub fn format_plan(options: &PlanArgs, plan: &Prospects) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write!(text, "{}", measured(options, &plan.measured));
    let _ = writeln!(text, "{BOLD}class{BOLD:#}      {}\n", class_meaning(plan.class));
    let _ = writeln!(text, "{}\n", implications(plan));
    let _ = writeln!(text, "{}", recommended(options, plan));
    if let Some(ways) = &plan.ways {
        let _ = writeln!(text, "{}", throttle_or_pause(ways));
    }
    if let Some(conflict) = &plan.conflict {
        let _ = writeln!(text, "{}", in_conflict(conflict));
    }
    text
}

fn measured(options: &PlanArgs, found: &ProbeSummary) -> String {
    let not_known = || "not known".to_owned();
    let mut text = String::new();
    let cpus = found.cpu_demand.map_or_else(not_known, |pace| pace.to_string());
    let _ = writeln!(
        text,
        "{BOLD}guest{BOLD:#}      {}: {} {}, busy: {cpus}",
        options.source,
        found.vcpus,
        if found.vcpus == 1 { "vCPU" } else { "vCPUs" }
    );
    let contents = found.contents_bytes.map_or_else(not_known, |bytes| bytes.to_string());
    let memory = found.memory_bytes.map_or_else(not_known, |bytes| bytes.to_string());
    let _ = writeln!(text, "{BOLD}memory{BOLD:#}     {memory}, with contents: {contents}");
    let link = found.link_bytes_per_second.map_or_else(not_known, |rate| rate.to_string());
    let _ = writeln!(text, "{BOLD}link{BOLD:#}       {link}");
    let writes = match (found.working_set_bytes, found.error) {
        (Some(set), Some(error)) => format!(
            "{set} again and again, known within {:.0} % (from {} points)",
            error * 200.0,
            found.points.len()
        ),
        _ => not_known(),
    };
    let _ = writeln!(text, "{BOLD}writes{BOLD:#}     {writes}");
    for note in &found.notes {
        let _ = writeln!(text, "           {note}");
    }
    if let Some(chart) = DirtyCurveChart::of(&found.prior()) {
        let _ = writeln!(text, "{}", draw_as_text(&chart).trim_end_matches('\n'));
    }
    text
}

fn implications(plan: &Prospects) -> String {
    let all = &plan.implications;
    match all.first().map(|one| one.verdict) {
        Some(verdict @ (ImplicationVerdict::Refused | ImplicationVerdict::Unknown))
            if all.iter().all(|one| one.verdict == verdict) =>
        {
            format!("At every aggression from 0.0 to 1.0: {}", verdict_text(verdict))
        }
        _ => table(all, plan.recommended.as_ref()).to_string(),
    }
}

fn verdict_text(verdict: ImplicationVerdict) -> &'static str {
    match verdict {
        ImplicationVerdict::Lands => "lands",
        ImplicationVerdict::Refused => "would be refused",
        ImplicationVerdict::Uncertain => "may be given up",
        ImplicationVerdict::Unknown => "what it comes to is not known",
    }
}

fn table(all: &[Implication], recommended: Option<&Recommendation>) -> Table {
    let header = ["aggression", "total", "longest stall", "work lost", "least CPU", ""];
    let mut table = borderless_table(header, 0..5);
    for one in all {
        let chosen = recommended.is_some_and(|chosen| chosen.aggression == one.aggression);
        let mut row = vec![format!("{:.1}", one.aggression.get())];
        row.extend(one.forecast.map_or_else(|| [const { String::new() }; 4].to_vec(), figures));
        row.push(remark(one, chosen));
        table.add_row(row);
    }
    table
}

fn figures(forecast: Forecast) -> Vec<String> {
    let time = |range: ForecastRange| {
        format!(
            "{} ({}..{})",
            format_seconds(range.mid),
            format_seconds(range.low),
            format_seconds(range.high)
        )
    };
    let Forecast { total_s, longest_stall_s, guest_cpu_lost_s, min_cpu_share, .. } = forecast;
    let share = Share::clamped(min_cpu_share.mid).to_string();
    vec![time(total_s), time(longest_stall_s), time(guest_cpu_lost_s), share]
}

fn remark(one: &Implication, chosen: bool) -> String {
    let names =
        |list: &[_]| list.iter().map(|name| format!("--{name}")).collect::<Vec<_>>().join(", ");
    let mut remarks = Vec::new();
    if one.verdict != ImplicationVerdict::Lands {
        remarks.push(verdict_text(one.verdict).to_owned());
    }
    if !one.broken.is_empty() {
        remarks.push(format!("breaks {}", names(&one.broken)));
    }
    if !one.doubtful.is_empty() {
        remarks.push(format!("may break {}", names(&one.doubtful)));
    }
    if chosen {
        remarks.push("<- recommended".to_owned());
    }
    remarks.join(", ")
}

fn recommended(options: &PlanArgs, plan: &Prospects) -> String {
    match &plan.recommended {
        None => {
            let style = BOLD.fg_color(Some(AnsiColor::Red.into()));
            let why = match plan.measured.working_set_bytes {
                Some(_) => "no setting is likely to land it with what may not give way kept",
                None => "too little is known of the guest, or of the link",
            };
            format!("{style}nothing to recommend{style:#}: {why}")
        }
        Some(chosen) => {
            let style = BOLD.fg_color(Some(AnsiColor::Green.into()));
            let dial = chosen.aggression.get();
            let command = command(options, plan, chosen);
            format!("{style}recommended{style:#} --aggression {dial}: {}\n  {command}", chosen.why)
        }
    }
}

/// What to type to follow the recommendation.
fn command(options: &PlanArgs, plan: &Prospects, chosen: &Recommendation) -> String {
    let asked = Settings { aggression: chosen.aggression, ..plan.asked.clone() };
    let mut words = vec![format!("landfall migrate {} DESTINATION", options.source)];
    words.extend(asked.changed_from(&Settings::default()).map(|demand| demand.to_string()));
    if plan.policy != landfall_core::policy::DEFAULT {
        words.push(format!("--policy {}", plan.policy));
    }
    words.join(" ")
}

fn throttle_or_pause(ways: &Ways) -> String {
    let way = |way: &Way| {
        format!(
            "loses {} of work, stalls it for {}, takes {}",
            format_seconds(way.guest_cpu_lost_s),
            format_seconds(way.longest_stall_s),
            format_seconds(way.total_s)
        )
    };
    let held = ways.throttle.as_ref().map_or_else(
        || "does not land it within the stall".to_owned(),
        |held| format!("{} (to {})", way(held), Share::clamped(held.min_cpu_share)),
    );
    let answer = match ways.loses_less {
        Lever::Neither => "neither: it lands unaided",
        Lever::Throttle => "throttle: that loses less",
        Lever::Pause => "pause: that loses less",
    };
    format!(
        "{BOLD}throttle or pause{BOLD:#} {answer}\n  holding it {held}\n  pausing it {}",
        way(&ways.pause)
    )
}

fn in_conflict(conflict: &Conflict) -> String {
    let style = BOLD.fg_color(Some(AnsiColor::Yellow.into()));
    let mut text = format!("{style}in conflict{style:#} {}\n", conflict.problem());
    if conflict.remedies.is_empty() {
        return text + "  no change to one of them resolves it";
    }
    let header = ["one of these resolves it", "total", "longest stall", "work lost", "least CPU"];
    let mut table = borderless_table(header, 1..5);
    for remedy in &conflict.remedies {
        let mut row = vec![remedy.to_string()];
        row.extend(remedy.implies.forecast.map_or_else(Vec::new, figures));
        table.add_row(row);
    }
    let _ = write!(text, "{table}");
    text
}
