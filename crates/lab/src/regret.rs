//! The page on regret, `docs/regret.md`: what each policy loses beyond the oracle, written by
//! `landfall simulate --docs`.

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use landfall_core::policy;
use landfall_core::requirements::Aggression;
use landfall_migration::comparison::{
    count_broken, cpu_lost_s, format_spread, no_figure, oracle_line, outcome_counts, regret_spread,
};
use landfall_migration::text::format_percent;
use landfall_sim::{Compared, Judged, Scenario, Seed, Spread, compare};

use crate::doc_page;

/// The policies on the page, at the default aggression; the text on top of it is about the first two.
pub const POLICIES: [&str; 5] =
    ["predictive", "auto-converge", "progressive", "pause-and-ship", "rfc2011"];

/// The default policy at its gentlest, where it minds lost work alone, as the oracle does.
pub const GENTLEST: &str = "predictive, aggression 0";

/// A scenario on the page.
pub struct Judgement {
    name: String,
    about: String,
    oracle: String,
    rows: Vec<Row>,
}

/// What became of a scenario by one policy.
struct Row {
    policy: String,
    draws: usize,
    outcomes: String,
    total: Option<Spread>,
    lost: Option<Spread>,
    regret: Option<Spread>,
    /// Of each draw that tells.
    regrets: Vec<f64>,
}

impl Judgement {
    /// Takes the figures of a scenario.
    pub fn of(name: String, scenario: &Scenario, runs: &[Compared], judged: &[Judged]) -> Self {
        let row = |(index, by): (usize, &Compared)| Row {
            policy: by.policy.clone(),
            draws: by.runs.len(),
            outcomes: outcome_counts(by, count_broken(by, judged, index)),
            total: by.spread(|run| run.measured.total.as_secs_f64()),
            lost: by.spread(cpu_lost_s),
            regret: regret_spread(judged, index),
            regrets: judged.iter().filter_map(|draw| *draw.regrets.get(index)?).collect(),
        };
        Judgement {
            name,
            about: scenario.about.clone(),
            oracle: oracle_line(judged),
            rows: runs.iter().enumerate().map(row).collect(),
        }
    }
}

/// Simulates the default policy at its gentlest.
pub fn compare_gentlest(scenario: &Scenario, seed: Seed, draws: u32) -> Option<Compared> {
    let at = scenario.at(Aggression::new(0.0)?);
    let runs = compare(&at, &[policy::DEFAULT.to_owned()], seed, draws).pop()?.runs;
    Some(Compared { policy: GENTLEST.to_owned(), runs })
}

/// Writes `regret.md` into a folder.
///
/// # Errors
/// The folder or the page cannot be written.
pub fn write(folder: &Path, all: &[Judgement]) -> io::Result<()> {
    doc_page::replace_figures(&folder.join("regret.md"), "landfall simulate --docs", &figures(all))
}

/// All tables, as Markdown.
fn figures(all: &[Judgement]) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = summary(&mut out, all);
    let _ = all.iter().try_for_each(|scenario| section(&mut out, scenario));
    out
}

fn summary(out: &mut String, all: &[Judgement]) -> fmt::Result {
    writeln!(out, "\n## Over all scenarios\n")?;
    writeln!(out, "Draws without a regret broke what could be kept, or did not land.\n")?;
    writeln!(
        out,
        "| policy | draws | with a regret | median | worst scenario, median | worst draw |"
    )?;
    writeln!(out, "|---|--:|--:|--:|---|---|")?;
    for policy in [GENTLEST].into_iter().chain(POLICIES) {
        let of = |scenario: &Judgement| scenario.rows.iter().position(|row| row.policy == policy);
        let rows = || all.iter().filter_map(|scenario| Some((scenario, of(scenario)?)));
        let rows = || rows().map(|(scenario, index)| (&scenario.name, &scenario.rows[index]));
        let draws: usize = rows().map(|(_, row)| row.draws).sum();
        let told: Vec<f64> = rows().flat_map(|(_, row)| row.regrets.iter().copied()).collect();
        let worst = |figure: fn(&Spread) -> f64| {
            let each = rows().filter_map(|(name, row)| Some((figure(&row.regret?), name)));
            let most = each.max_by(|a, b| a.0.total_cmp(&b.0));
            most.map_or_else(no_figure, |(most, name)| format!("{} ({name})", format_percent(most)))
        };
        let (count, median) = (told.len(), Spread::of(told).map(|spread| spread.median));
        let median = median.map_or_else(no_figure, format_percent);
        let (middling, most) = (worst(|spread| spread.median), worst(|spread| spread.high));
        writeln!(out, "| `{policy}` | {draws} | {count} | {median} | {middling} | {most} |")?;
    }
    Ok(())
}

fn section(out: &mut String, scenario: &Judgement) -> fmt::Result {
    let Judgement { name, about, oracle, rows } = scenario;
    writeln!(out, "\n## {name}\n\n{about}.\n\n{oracle}.\n")?;
    writeln!(out, "| policy | landed | total s | work lost s | regret | worst |")?;
    writeln!(out, "|---|---|--:|--:|--:|--:|")?;
    for row in rows {
        let seconds = |spread: Option<Spread>| spread.map_or_else(no_figure, format_spread);
        let (total, lost) = (seconds(row.total), seconds(row.lost));
        let regret = row.regret.map(|r| [r.median, r.high].map(format_percent));
        let [regret, worst] = regret.unwrap_or_else(|| [no_figure(), no_figure()]);
        let Row { policy, outcomes, .. } = row;
        writeln!(out, "| `{policy}` | {outcomes} | {total} | {lost} | {regret} | {worst} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_sim::judge;

    #[test]
    fn the_page_has_every_policy_of_every_scenario_and_a_summary() {
        let text = include_str!("../../../scenarios/pathological.toml");
        let scenario = Scenario::parse(text).unwrap();
        let mut runs = compare(&scenario, &POLICIES.map(str::to_owned), scenario.seed, 2);
        runs.insert(0, compare_gentlest(&scenario, scenario.seed, 2).unwrap());
        let judged = judge(&scenario, &runs, scenario.seed);
        let page = figures(&[Judgement::of("sweep".to_owned(), &scenario, &runs, &judged)]);
        for policy in [GENTLEST].into_iter().chain(POLICIES) {
            let lines = page.lines().filter(|line| line.starts_with(&format!("| `{policy}` | ")));
            assert_eq!(lines.count(), 2, "{policy}: {page}");
        }
        assert!(page.contains("## sweep") && page.contains("Oracle: lands 2 of 2"), "{page}");
    }
}
