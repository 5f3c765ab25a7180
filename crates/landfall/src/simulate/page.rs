//! The page: `docs/regret.md`.

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use landfall_sim::{Compared, Judged, Scenario, Spread};

use super::{broke, in_per_cent, in_seconds, lost, none, outcomes, regrets};
use crate::page;

/// The policies on the page, at the default aggression; what it says on top is about the first two.
pub const POLICIES: [&str; 5] =
    ["predictive", "auto-converge", "progressive", "pause-and-ship", "rfc2011"];

/// The oracle minds work alone; so does the default policy at the gentle end of its dial.
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
    pub fn of(name: String, scenario: &Scenario, runs: &[Compared], judged: &[Judged]) -> Self {
        let row = |(index, by): (usize, &Compared)| Row {
            policy: by.policy.clone(),
            draws: by.runs.len(),
            outcomes: outcomes(by, broke(by, judged, index)),
            total: by.spread(|run| run.measured.total.as_secs_f64()),
            lost: by.spread(lost),
            regret: regrets(judged, index),
            regrets: judged.iter().filter_map(|draw| *draw.regrets.get(index)?).collect(),
        };
        Judgement {
            name,
            about: scenario.about.clone(),
            oracle: super::oracle_in_words(judged),
            rows: runs.iter().enumerate().map(row).collect(),
        }
    }
}

/// Writes `regret.md` into a folder.
pub fn write(folder: &Path, all: &[Judgement]) -> io::Result<()> {
    page::write(&folder.join("regret.md"), "landfall simulate --docs", &figures(all))
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
            most.map_or_else(none, |(most, name)| format!("{} ({name})", in_per_cent(most)))
        };
        let (count, median) = (told.len(), Spread::of(told).map(|spread| spread.median));
        let median = median.map_or_else(none, in_per_cent);
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
        let seconds = |spread: Option<Spread>| spread.map_or_else(none, in_seconds);
        let (total, lost) = (seconds(row.total), seconds(row.lost));
        let regret = row.regret.map(|r| [r.median, r.high].map(in_per_cent));
        let [regret, worst] = regret.unwrap_or_else(|| [none(), none()]);
        let Row { policy, outcomes, .. } = row;
        writeln!(out, "| `{policy}` | {outcomes} | {total} | {lost} | {regret} | {worst} |")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_sim::{compare, judge};

    #[test]
    fn the_page_has_every_policy_of_every_scenario_and_a_summary() {
        let text = include_str!("../../../../scenarios/pathological.toml");
        let scenario = Scenario::parse(text).unwrap();
        let mut runs = compare(&scenario, &POLICIES.map(str::to_owned), scenario.seed, 2);
        runs.insert(0, crate::simulate::gentlest(&scenario, scenario.seed, 2).unwrap());
        let judged = judge(&scenario, &runs, scenario.seed);
        let page = figures(&[Judgement::of("sweep".to_owned(), &scenario, &runs, &judged)]);
        for policy in [GENTLEST].into_iter().chain(POLICIES) {
            let lines = page.lines().filter(|line| line.starts_with(&format!("| `{policy}` | ")));
            assert_eq!(lines.count(), 2, "{policy}: {page}");
        }
        assert!(page.contains("## sweep") && page.contains("Oracle: lands 2 of 2"), "{page}");
    }
}
