//! The best plan for a guest of one curve over a steady link.
//!
//! **Problem.** A pass over what is left takes its time, whatever the guest does; the guest may be
//! given any CPU time `c` in it, from the tightest hold to full speed, and leaves `D(c)`. At any
//! moment, in the midst of a pass too, it may be stopped and the rest shipped, if that keeps the stall.
//! Which sequence loses the least?
//!
//! **Approach.** What can be done from the beginning of a pass on depends on the CPU time given in the
//! pass before, and on nothing else of the past: it says which part of each set of pages is dirty.
//! With that time on a grid, the least loss from each node on is known from those below it. For the
//! last pass, cut short where so much of it is unsent, only the ends of what may be given come into
//! question, for what it leaves is concave in it: the least, and the most that still fits the stall.
//!
//! **What it leaves out.** QEMU could be made to sync its bitmap within passes, over and over. Time
//! weighs nothing, or as little as keeps `--max-time`: of all plans in time, the ones found by weighing
//! it are those on the convex hull.

use landfall_core::model::{Component, DirtyCurve};
use landfall_core::planner::{Constraints, PlanInputs};

use crate::run::Setup;

/// Nodes of the grid. Neighbours differ by 2 %, and what they leave by less.
const RUNGS: usize = 600;

/// Least CPU time on the grid, as a part of the most.
const DEPTH: f64 = 1e-5;

/// Places at which the last pass may be cut short.
const CUTS: u32 = 16;

/// The weights of time that are tried, one after the other.
const WEIGHTS: [f64; 7] = [0.0, 0.02, 0.05, 0.2, 0.5, 0.8, 1.0];

/// Seconds of CPU that the best plan loses; `None` where there is none within what is allowed.
pub(super) fn least(
    setup: &Setup,
    curve: &DirtyCurve,
    terms: &PlanInputs,
    allowed: &Constraints,
) -> Option<f64> {
    let overhead = setup.link.switch_over.unhurried.as_secs_f64();
    let limit = allowed.max_time.unwrap_or(setup.patience).as_secs_f64() - overhead;
    let contents = setup.guest.contents.as_f64();
    let at = |weight| {
        let problem = Problem { sets: curve.components(), terms: PlanInputs { weight, ..*terms } };
        problem.solve(contents).filter(|cost| cost.time <= limit)
    };
    let cost = WEIGHTS.into_iter().find_map(at)?;
    Some(cost.lost + overhead * terms.cpu_demand.0)
}

struct Problem<'a> {
    sets: &'a [Component],
    terms: PlanInputs,
}

/// In seconds.
#[derive(Debug, Clone, Copy)]
struct Cost {
    lost: f64,
    time: f64,
}

/// The beginning of a pass.
struct State {
    /// What is to be sent in it.
    bytes: f64,
    /// Which part of each set that is.
    dense: Vec<f64>,
}

/// A node: the CPU time that leads to it, and the best from there on.
struct Rung {
    cpu: f64,
    best: Option<Cost>,
}

impl Problem<'_> {
    /// The best from the start, with so much to send.
    fn solve(&self, contents: f64) -> Option<Cost> {
        let written: f64 = self.sets.iter().map(|part| part.set.as_f64()).sum();
        let most = 1.01 * self.terms.cpu_demand.0 * contents.max(written) / self.terms.link.0;
        let ladder = |n: usize| most * DEPTH.powf((RUNGS - 1 - n) as f64 / (RUNGS - 1) as f64);
        let mut rungs: Vec<Rung> = Vec::with_capacity(RUNGS);
        for cpu in (0..RUNGS).map(ladder) {
            let dense: Vec<f64> = self.sets.iter().map(|part| written_in(part, cpu)).collect();
            let bytes = self.sets.iter().zip(&dense).map(|(part, d)| part.set.as_f64() * d).sum();
            let best = self.best(&State { bytes, dense }, &rungs);
            rungs.push(Rung { cpu, best });
        }
        let all = State { bytes: contents, dense: vec![1.0; self.sets.len()] };
        self.best(&all, &rungs)
    }

    /// The best from the beginning of a pass on, by a cut of it or a whole pass to one of these nodes.
    fn best(&self, state: &State, below: &[Rung]) -> Option<Cost> {
        let cuts = (0..=CUTS).flat_map(|n| self.cut(state, f64::from(n) / f64::from(CUTS)));
        let time = state.bytes / self.terms.link.0;
        let (least, most) = (self.terms.floor.0 * time, self.terms.cpu_demand.0 * time);
        let to = |given: f64, rung: &Rung| {
            let on = rung.best?;
            Some(Cost { lost: most - given + on.lost, time: time + on.time })
        };
        let above = |cpu: f64| below.partition_point(|rung| rung.cpu < cpu);
        let between = below[above(least).min(above(most))..above(most)].iter();
        // At full speed, and under the tightest hold, a pass ends between two nodes: it is taken to
        // end on the upper one.
        let ends = [least, most].into_iter().filter_map(|cpu| to(cpu, below.get(above(cpu))?));
        let passes = between.filter_map(|rung| to(rung.cpu, rung)).chain(ends);
        cuts.chain(passes).min_by(|a, b| self.weighed(a).total_cmp(&self.weighed(b)))
    }

    fn weighed(&self, cost: &Cost) -> f64 {
        let PlanInputs { weight, cpu_demand: pace, .. } = self.terms;
        (1.0 - weight) * cost.lost + weight * pace.0 * cost.time
    }

    /// The ways to stop the guest where such a part of the pass is unsent, and ship the rest.
    fn cut(&self, state: &State, unsent: f64) -> impl Iterator<Item = Cost> {
        let PlanInputs { cpu_demand: pace, floor, link, shipment, .. } = self.terms;
        let time = state.bytes * (1.0 - unsent) / link.0;
        let (least, most) = (floor.0 * time, pace.0 * time);
        let takes = |cpu: f64| self.dirty(state, unsent, cpu) / link.0;
        let fits = |cpu: f64| shipment.is_none_or(|stall| takes(cpu) <= stall);
        let given = fits(least).then(|| match fits(most) {
            true => [least, most],
            false => [least, last(least, most, fits)],
        });
        let cost = move |cpu: f64| {
            let ships = takes(cpu);
            Cost { lost: most - cpu + pace.0 * ships, time: time + ships }
        };
        given.into_iter().flatten().map(cost).collect::<Vec<_>>().into_iter()
    }

    /// Bytes dirty where such a part of the pass is unsent and the guest had so much CPU in it. Writes do
    /// not depend on where QEMU is.
    fn dirty(&self, state: &State, unsent: f64, cpu: f64) -> f64 {
        let again = |(part, dense): (&Component, &f64)| {
            part.set.as_f64() * (1.0 - unsent * dense) * written_in(part, cpu)
        };
        state.bytes * unsent + self.sets.iter().zip(&state.dense).map(again).sum::<f64>()
    }
}

/// Which part of a set is written in so much CPU time.
fn written_in(part: &Component, cpu: f64) -> f64 {
    -(-cpu / part.time.0).exp_m1()
}

/// The last value between two for which something holds that holds for the first and not the second.
fn last(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..30 {
        let middle = (low + high) / 2.0;
        if holds(middle) { low = middle } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime};
    use proptest::prelude::*;

    fn terms(link: u64, shipment: Option<f64>, floor: f64) -> PlanInputs {
        let floor = CpuDemand(floor);
        PlanInputs {
            cpu_demand: CpuDemand(1.0),
            floor,
            link: ByteRate::mb(link),
            shipment,
            weight: 0.0,
        }
    }

    fn lost(sets: &[(u64, f64)], terms: PlanInputs, mb: u64) -> Option<f64> {
        let part = |&(mb, time): &(u64, f64)| Component {
            set: Bytes(mb * 1_000_000),
            time: CpuTime(time),
        };
        let sets: Vec<Component> = sets.iter().map(part).collect();
        Some(Problem { sets: &sets, terms }.solve(mb as f64 * 1e6)?.lost)
    }

    #[test]
    fn within_a_stall_it_is_the_one_deep_last_pass_of_the_theory() {
        let found = lost(&[(144, 2.88)], terms(25, Some(0.24), 0.0), 150).unwrap();
        let curve = |cpu: f64| 144e6 * -(-cpu / 2.88f64).exp_m1();
        let fixed = (0..200).fold(6.0, |length, _| curve(length) / 25e6);
        let given = last(0.0, 6.0, |cpu| curve(cpu) <= 25e6 * 0.24);
        let theory = fixed - given + 0.24;
        assert!((0.98..1.03).contains(&(found / theory)), "{found}, theory {theory}");
    }

    #[test]
    fn a_pause_amid_a_pass_loses_less_than_one_at_its_end() {
        let found = lost(&[(144, 2.88)], terms(25, None, 0.0), 150).unwrap();
        let curve = |cpu: f64| 144e6 * -(-cpu / 2.88f64).exp_m1();
        let fixed = (0..200).fold(6.0, |length, _| curve(length) / 25e6);
        assert!(found < 0.95 * fixed && found > 0.5 * fixed, "{found}, at its end {fixed}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(30))]

        #[test]
        fn whatever_is_allowed_beyond_never_makes_it_lose_more(
            sets in proptest::collection::vec((1u64..400, 0.01f64..30.0), 1..4),
            link in 20u64..500, stall in 0.05f64..2.0, floor in 0.0f64..0.5,
        ) {
            let all = sets.iter().map(|(mb, _)| mb).sum::<u64>() + 10;
            let at = |stall, floor| lost(&sets, terms(link, stall, floor), all).unwrap_or(f64::MAX);
            let strict = at(Some(stall), floor);
            prop_assert!(at(Some(stall * 1.5), floor) <= strict * 1.03 + 1e-3);
            prop_assert!(at(Some(stall), floor / 2.0) <= strict * 1.03 + 1e-3);
            prop_assert!(at(None, floor) <= strict * 1.03 + 1e-3);
        }
    }
}
