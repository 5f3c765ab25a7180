//! The page: `docs/regret.md`.

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use landfall_sim::{Compared, Judged, Scenario, Spread};

use super::{broke, in_per_cent, in_seconds, lost, none, outcomes, regrets};
use crate::page;

/// The policies on the page; what it says on top is about the first two.
pub const POLICIES: [&str; 5] =
    ["predictive", "auto-converge", "progressive", "pause-and-ship", "rfc2011"];

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
            outcomes: outcomes(by, broke(by, judged, index)),
            total: by.spread(|run| run.measured.total.as_secs_f64()),
            lost: by.spread(lost),
            regret: regrets(judged, index),
            regrets: judged.iter().filter_map(|draw| *draw.regrets.get(index)?).collect(),
        };
        Judgement {
            name,
            about: scenario.about.clone(),
            oracle: super::oracle(judged),
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
    writeln!(out, "| policy | draws | median | worst scenario, median | worst draw |")?;
    writeln!(out, "|---|--:|--:|---|---|")?;
    for policy in POLICIES {
        let of =
            |scenario: &'_ Judgement| scenario.rows.iter().position(|row| row.policy == policy);
        let rows: Vec<(&str, &Row)> = all
            .iter()
            .filter_map(|scenario| Some((scenario.name.as_str(), &scenario.rows[of(scenario)?])))
            .collect();
        let draws: Vec<f64> = rows.iter().flat_map(|(_, row)| row.regrets.clone()).collect();
        let worst = |figure: fn(&Spread) -> f64| {
            let each = rows.iter().filter_map(|(name, row)| Some((figure(&row.regret?), *name)));
            let most = each.max_by(|a, b| a.0.total_cmp(&b.0));
            most.map_or_else(none, |(most, name)| format!("{} ({name})", in_per_cent(most)))
        };
        let (count, median) = (draws.len(), Spread::of(draws).map(|spread| spread.median));
        let median = median.map_or_else(none, in_per_cent);
        let (middling, most) = (worst(|spread| spread.median), worst(|spread| spread.high));
        writeln!(out, "| `{policy}` | {count} | {median} | {middling} | {most} |")?;
    }
    Ok(())
}

fn section(out: &mut String, scenario: &Judgement) -> fmt::Result {
    let Judgement { name, about, oracle, rows } = scenario;
    writeln!(out, "\n## {name}\n\n{about}. {oracle}.\n")?;
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
