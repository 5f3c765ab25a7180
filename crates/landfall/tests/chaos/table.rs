//! The table of a series of runs, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::RunResult;

const OUTCOMES: [&str; 7] =
    ["landed", "cancelled", "failed", "refused", "unknown", "killed", "no report"];

/// Returns the kinds of faults by outcomes. A run with several faults counts for each.
pub fn of(results: &[RunResult]) -> String {
    let mut rows: BTreeMap<&str, ([usize; OUTCOMES.len()], usize)> = BTreeMap::new();
    let mut totals = ([0; OUTCOMES.len()], 0);
    for result in results {
        let outcome = OUTCOMES.iter().position(|outcome| *outcome == result.outcome);
        let mut kinds = result.kinds.clone();
        kinds.sort_unstable();
        kinds.dedup();
        let kinds = if kinds.is_empty() { vec!["(none came)"] } else { kinds };
        let add = |row: &mut ([usize; OUTCOMES.len()], usize)| {
            if let Some(outcome) = outcome {
                row.0[outcome] += 1;
            }
            row.1 += usize::from(!result.violations.is_empty());
        };
        for kind in kinds {
            add(rows.entry(kind).or_default());
        }
        add(&mut totals);
    }
    let mut text = format!("| fault | {} | violations |\n", OUTCOMES.join(" | "));
    text += &format!("|---|{}\n", "---|".repeat(OUTCOMES.len() + 1));
    let all = rows.into_iter().chain([("all runs", totals)]);
    for (kind, (counts, violations)) in all {
        let counts = counts.map(|count| count.to_string()).join(" | ");
        let _ = writeln!(text, "| {kind} | {counts} | {violations} |");
    }
    text
}
