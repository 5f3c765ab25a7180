//! A scenario by several policies, side by side: the same draws for each, so that they differ in
//! nothing but the policy.

use landfall_core::report::Outcome;

use crate::oracle::{Oracle, oracle, regret};
use crate::policies::{self, Choice};
use crate::qemu::Qemu;
use crate::rng::Seed;
use crate::run::{Run, Setup, run, run_traced};
use crate::scenario::Scenario;

/// All runs of a scenario by one policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// Its name.
    pub policy: String,
    /// One for each draw.
    pub runs: Vec<Run>,
}

/// Least, median and most of a figure over all draws.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Least.
    pub low: f64,
    /// In the middle.
    pub median: f64,
    /// Most.
    pub high: f64,
}

impl Spread {
    /// Of these values; `None` of none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = |index: usize| values.get(index).copied().unwrap_or(low);
        let median = (middle((values.len() - 1) / 2) + middle(values.len() / 2)) / 2.0;
        Some(Spread { low, median, high })
    }
}

impl Compared {
    /// How many runs have this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.runs.iter().filter(|run| run.outcome == outcome).count()
    }

    /// A figure over all runs that were started.
    pub fn spread(&self, figure: impl Fn(&Run) -> f64) -> Option<Spread> {
        Spread::of(self.runs.iter().filter(|run| run.outcome != Outcome::Refused).map(figure))
    }
}

/// Where the policy of a name comes from.
pub type Find<'a> = &'a dyn Fn(&str) -> Option<Choice>;

/// Simulates draws of a scenario by each of these policies; unknown names are left out.
pub fn compare(scenario: &Scenario, policies: &[String], seed: Seed, draws: u32) -> Vec<Compared> {
    compare_of(&|name| policies::by_name(name).ok(), scenario, policies, seed, draws)
}

/// The same by policies that come from somewhere else.
pub fn compare_of(
    find: Find,
    scenario: &Scenario,
    policies: &[String],
    seed: Seed,
    draws: u32,
) -> Vec<Compared> {
    let setups: Vec<(Seed, Setup)> =
        (0..u64::from(draws)).map(|n| (seed.fork(n), scenario.draw(seed.fork(n)))).collect();
    let by = |policy: &String| {
        let one = |(seed, setup): &(Seed, Setup)| by_name(find, setup, policy, *seed, run);
        let runs: Option<Vec<Run>> = setups.iter().map(one).collect();
        runs.map(|runs| Compared { policy: policy.clone(), runs })
    };
    policies.iter().filter_map(by).collect()
}

/// A draw of a scenario, judged by its oracle.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    /// What would have been lost with full knowledge; `None` where no plan lands.
    pub oracle: Option<Oracle>,
    /// What each policy lost beyond that, in the order of the policies ([`regret`]).
    pub regrets: Vec<Option<f64>>,
}

/// Sets every draw of a comparison against its oracle. `seed` is that of the comparison.
pub fn judge(scenario: &Scenario, all: &[Compared], seed: Seed) -> Vec<Judged> {
    let draws = all.first().map_or(0, |by| by.runs.len());
    let one = |n: usize| {
        let seed = seed.fork(n as u64);
        let setup = scenario.draw(seed);
        let runs: Vec<&Run> = all.iter().filter_map(|by| by.runs.get(n)).collect();
        let oracle = oracle(&setup, &runs, seed);
        let beyond = |run: &&Run| regret(&setup, oracle.as_ref()?, run);
        Judged { oracle, regrets: runs.iter().map(beyond).collect() }
    };
    (0..draws).map(one).collect()
}

/// The first draw of a scenario by one policy, with how it went on the way; `None` where there is no
/// such policy.
pub fn trace(find: Find, scenario: &Scenario, policy: &str, seed: Seed) -> Option<Run> {
    let seed = seed.fork(0);
    by_name(find, &scenario.draw(seed), policy, seed, run_traced)
}

/// Simulates a migration by the policy of a name, from the QEMU it is for.
fn by_name(
    find: Find,
    setup: &Setup,
    policy: &str,
    seed: Seed,
    run: fn(&Setup, &mut dyn landfall_core::policy::Policy, Seed) -> Run,
) -> Option<Run> {
    let mut choice = find(policy)?;
    if choice.auto_converge == setup.qemu.auto_converge {
        return Some(run(setup, &mut *choice.policy, seed));
    }
    let qemu = Qemu { auto_converge: choice.auto_converge, ..setup.qemu };
    Some(run(&Setup { qemu, ..setup.clone() }, &mut *choice.policy, seed))
}
