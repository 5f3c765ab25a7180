//! Figures of policies that were simulated side by side, as text: for `landfall simulate` and for the page
//! on regret.

use landfall_core::report::Outcome;
use landfall_sim::{Compared, Judged, Run, Spread};

use crate::text::outcome_name;

/// Returns the work that the guest lost in a run, in seconds; NaN if that is not known.
pub fn cpu_lost_s(run: &Run) -> f64 {
    run.measured.losses.guest_cpu.map_or(f64::NAN, |lost| lost.as_secs_f64())
}

/// Returns what the oracle loses, as one line of text.
pub fn oracle_line(judged: &[Judged]) -> String {
    let known = || judged.iter().filter_map(|draw| draw.oracle);
    let Some(lost) = Spread::of(known().map(|oracle| oracle.lost.0)) else {
        return "Oracle: no plan lands it".to_owned();
    };
    let how = match known().all(|oracle| oracle.exact) {
        true => "the best plan, solved for",
        false => "the best of the plans that were tried, and at least as good as every policy",
    };
    let count = known().count();
    format!("Oracle: lands {count} of {}, loses {} s; {how}", judged.len(), format_spread(lost))
}

/// Returns what a policy lost beyond the oracle; `None` if no draw tells.
pub fn regret_spread(judged: &[Judged], policy: usize) -> Option<Spread> {
    Spread::of(judged.iter().filter_map(|draw| *draw.regrets.get(policy)?))
}

/// Counts the landings of a policy that broke a requirement which the oracle keeps.
pub fn count_broken(by: &Compared, judged: &[Judged], policy: usize) -> usize {
    let landed = by.runs.iter().map(|run| run.outcome == Outcome::Landed);
    let none = judged.iter().map(|draw| draw.regrets.get(policy).is_none_or(Option::is_none));
    landed.zip(none).filter(|(landed, none)| *landed && *none).count()
}

/// What stands for a figure that there is none of.
pub fn no_figure() -> String {
    "-".to_owned()
}

/// Returns a spread in seconds: `median (least..most)`.
pub fn format_spread(spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    let digits = usize::from(median < 10.0) + usize::from(median < 100.0);
    format!("{median:.digits$} ({low:.digits$}..{high:.digits$})")
}

/// The outcomes that are no landing, in the order in which they are shown.
const NOT_LANDED: [Outcome; 4] =
    [Outcome::Cancelled, Outcome::Failed, Outcome::Refused, Outcome::Unknown];

/// Returns how the runs of a policy ended, as text; `broken` of them broke what could be kept.
pub fn outcome_counts(by: &Compared, broken: usize) -> String {
    let landed = format!("{} of {}", by.count(Outcome::Landed), by.runs.len());
    let broke = (broken > 0).then(|| format!("{broken} broke what could be kept"));
    let others = NOT_LANDED.iter().filter_map(|outcome| match by.count(*outcome) {
        0 => None,
        count => Some(format!("{count} {}", outcome_name(*outcome))),
    });
    [landed].into_iter().chain(broke).chain(others).collect::<Vec<_>>().join(", ")
}
