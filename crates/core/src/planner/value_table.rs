//! The table of states, and the plans read from it.

use std::ops::Range;

use super::{Plan, PlanCost, PlanInputs, PlanState};
use crate::model::DirtyCurve;
use crate::units::CpuTime;

/// What to do in a pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PlanStep {
    /// Ship what there is: the guest stands still from now on.
    Ship,
    /// Do not hold the guest to the end of the pass.
    Free,
    /// Give it this CPU time in the whole pass, including what it has had.
    Hold(CpuTime),
}

/// The best continuation from every state, for one curve and one set of inputs.
#[derive(Debug, Clone)]
pub struct ValueTable {
    terms: PlanInputs,
    curve: DirtyCurve,
    rungs: Vec<Node>,
    /// What going to each node comes to but for what the way there costs in any case.
    scores: Vec<f64>,
}

/// A state: the guest was given `cpu` in the last pass and left `bytes`.
#[derive(Debug, Clone, Copy)]
struct Node {
    cpu: f64,
    bytes: f64,
    /// Cost from here; infinite where nothing lands.
    value: f64,
    way: Action,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Action {
    None,
    Ship,
    /// A pass that gives so much CPU and leads to that node.
    Pass {
        cpu: f64,
        to: usize,
    },
}

/// Nodes enough for steering: neighbours differ by less than a tenth.
pub const STEERING_NODES: usize = 96;

/// Least CPU time on the grid, as a part of the most.
const DEPTH: f64 = 1e-4;

/// And as a part of what just fits the stall: a guest that lands by itself may well be left free until
/// there is next to nothing to ship.
const BEYOND: f64 = 0.1;

impl ValueTable {
    /// The table for passes of at most `longest` bytes, with this many nodes.
    pub fn new(curve: DirtyCurve, terms: PlanInputs, longest: f64, rungs: usize) -> ValueTable {
        let most = terms.cpu_demand.0 * longest.max(curve.working_set().as_f64()) / terms.link.0;
        let exact = terms.shipment.and_then(|stall| cpu_for(&curve, terms.link.0 * stall));
        let rung = |(cpu, bytes)| Node { cpu, bytes, value: f64::INFINITY, way: Action::None };
        let rungs = log_grid(&curve, most.max(1e-6) * 1.01, exact, rungs).map(rung).collect();
        let mut table = ValueTable { terms, curve, rungs, scores: Vec::new() };
        table.fill();
        table
    }

    /// What it was made for.
    pub fn terms(&self) -> &PlanInputs {
        &self.terms
    }

    /// Fills the states in the order of what they leave.
    ///
    /// What can be reached from a state lies between two nodes that only ever rise from one state to
    /// the next, so the best of it is the least in a sliding window: kept are the nodes in it that are
    /// better than all after them.
    fn fill(&mut self) {
        self.scores.reserve(self.rungs.len());
        // What has left the window stays before `first`.
        let (mut window, mut first) = (Vec::with_capacity(self.rungs.len()), 0);
        let (mut entered, mut reach) = (0, 0..0);
        for state in 0..self.rungs.len() {
            let bytes = self.rungs[state].bytes;
            reach = self.reachable(bytes, 0.0, reach);
            let enter = reach.end.min(state);
            for rung in entered..enter {
                let score = self.scores[rung];
                while window[first..].last().is_some_and(|last: &usize| self.scores[*last] > score)
                {
                    window.pop();
                }
                window.push(rung);
            }
            entered = enter.max(entered);
            first += window[first..].iter().take_while(|rung| **rung < reach.start).count();
            let shipped = self.terms.cpu_demand.0 * bytes / self.terms.link.0;
            let on = self.best_action(bytes, 0.0, state, &reach, window.get(first).copied());
            let ships = self.fits_shipment(bytes) && shipped <= on.0;
            let rung = &mut self.rungs[state];
            (rung.value, rung.way) = if ships { (shipped, Action::Ship) } else { on };
            self.scores.push(rung.value - (1.0 - self.terms.weight) * rung.cpu);
        }
    }

    /// The nodes that a pass with so much to send can end on, the guest having had `used` already;
    /// none of them, nor the one above the last, is below those in `no_less`.
    fn reachable(&self, bytes: f64, used: f64, no_less: Range<usize>) -> Range<usize> {
        let PlanInputs { cpu_demand: pace, floor, link, .. } = self.terms;
        let length = bytes / link.0;
        let above = |cpu: f64, from: usize| {
            let lower = |rung: &&Node| rung.cpu < cpu * (1.0 - 1e-9);
            from + self.rungs[from..].iter().take_while(lower).count()
        };
        let least = above(used + floor.0 * length, no_less.start);
        least..above(used + pace.0 * length, no_less.end.max(least))
    }

    /// The cheapest way on from a state with so much to send, the guest having had `used` already, by
    /// nodes below `below`. A pass can end on those in `reach`, of which `within` is the best.
    fn best_action(
        &self,
        bytes: f64,
        used: f64,
        below: usize,
        reach: &Range<usize>,
        within: Option<usize>,
    ) -> (f64, Action) {
        let PlanInputs { cpu_demand: pace, floor, link, weight, .. } = self.terms;
        let length = bytes / link.0;
        let full = pace.0 * length;
        let mut best = (f64::INFINITY, Action::None);
        // At full speed, and under the tightest hold, a pass ends between nodes: it is taken to end
        // on the one above, which leaves a little more.
        // What lies beyond the top leaves what the top leaves: all there is, or nearly.
        let top = self.rungs.len().saturating_sub(1);
        let mut end = |cpu: f64, to: usize| {
            let cost = full - (1.0 - weight) * (cpu - used) + self.rungs[to].value;
            if to < below && cost < best.0 {
                best = (cost, Action::Pass { cpu, to });
            }
        };
        end(used + full, reach.end.min(top));
        end(used + floor.0 * length, reach.start.min(top));
        if let Some(to) = within {
            end(self.rungs[to].cpu, to);
        }
        best
    }

    /// Whether so much may be shipped.
    fn fits_shipment(&self, bytes: f64) -> bool {
        self.terms.shipment.is_none_or(|stall| bytes <= self.terms.link.0 * stall * (1.0 + 1e-6))
    }

    /// The cheapest plan from a moment of a migration; `None` where nothing lands within the terms.
    pub fn plan(&self, from: PlanState) -> Option<Plan> {
        let (bytes, used) = (from.remaining.as_f64(), from.used.0);
        let all = self.curve.dirty_mid_pass(bytes, used);
        let score = |a: &usize, b: &usize| self.scores[*a].total_cmp(&self.scores[*b]);
        let reach = self.reachable(bytes, used, 0..0);
        let within = reach.clone().min_by(score);
        let (mut value, mut way) = self.best_action(bytes, used, self.rungs.len(), &reach, within);
        if from.may_ship {
            let now = self.terms.cpu_demand.0 * all / self.terms.link.0;
            if now <= value {
                (value, way) = (now, Action::Ship);
            }
        }
        if !value.is_finite() {
            return None;
        }
        let full = used + self.terms.cpu_demand.0 * bytes / self.terms.link.0;
        let step = match way {
            Action::Ship => PlanStep::Ship,
            Action::Pass { cpu, .. } if cpu >= full * (1.0 - 1e-6) => PlanStep::Free,
            Action::Pass { cpu, .. } => PlanStep::Hold(CpuTime(cpu)),
            Action::None => return None,
        };
        Some(Plan { step, cost: self.rollout(bytes, used, all, way) })
    }

    /// Adds up a plan to its end.
    fn rollout(&self, bytes: f64, used: f64, all: f64, first: Action) -> PlanCost {
        let PlanInputs { cpu_demand: pace, link, .. } = self.terms;
        let mut cost = PlanCost { least_share: 1.0, ..PlanCost::default() };
        let (mut bytes, mut used, mut to_ship, mut way) = (bytes, used, all, first);
        // Every step leads to a lower node, so there are no more steps than nodes.
        while let Action::Pass { cpu, to } = way {
            let length = bytes / link.0;
            let given = (cpu - used).max(0.0);
            cost.total += length;
            cost.lost += CpuTime((pace.0 * length - given).max(0.0));
            if length > 0.0 {
                cost.least_share = cost.least_share.min(given / (pace.0 * length).max(1e-12));
            }
            cost.passes += 1;
            let left = self.curve.dirtied_bytes(cpu);
            (bytes, used, to_ship, way) = (left, 0.0, left, self.rungs[to].way);
        }
        cost.shipment = to_ship / link.0;
        cost.total += cost.shipment;
        cost.lost += CpuTime(pace.0 * cost.shipment);
        cost
    }
}

/// About so many CPU times from the least to the most, evenly on a logarithmic scale, `exact` among
/// them, and what is dirtied in each.
fn log_grid(
    curve: &DirtyCurve,
    most: f64,
    exact: Option<f64>,
    count: usize,
) -> impl Iterator<Item = (f64, f64)> {
    let exact = exact.filter(|exact| *exact < most);
    let depth = exact.map_or(DEPTH, |exact| (exact / most * BEYOND).max(DEPTH * 1e-2)).min(0.5);
    let octaves = -depth.log2();
    let per_octave = (count as f64 / octaves).round().max(1.0);
    let count = (octaves * per_octave).ceil() as usize + 1;
    // Shifted so that a node falls on the exact time.
    let shift = exact.map_or(0.0, |exact| ((most / exact).log2() * per_octave).fract());
    let first = most * (-(shift + (count - 1) as f64) / per_octave).exp2();
    // What lies above the shifted top is a node of its own.
    let top = (shift > 1e-9).then(|| (most, curve.dirtied_bytes(most)));
    curve.log_grid(first, per_octave as usize, count).into_iter().chain(top)
}

/// CPU time in which so much is dirtied.
fn cpu_for(curve: &DirtyCurve, bytes: f64) -> Option<f64> {
    curve.time_to_dirty(crate::units::Bytes(bytes as u64)).map(|time| time.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Component;
    use crate::planner::{cannot_land, classify, time_weight};
    use crate::report::Class;
    use crate::requirements::Aggression;
    use crate::units::{ByteRate, Bytes, CpuDemand};
    use proptest::prelude::*;

    fn one_set(mb: u64, time: f64) -> DirtyCurve {
        DirtyCurve::new([Component { set: Bytes(mb * 1_000_000), time: CpuTime(time) }])
    }

    fn terms(link: u64, shipment: Option<f64>, floor: f64, weight: f64) -> PlanInputs {
        PlanInputs {
            cpu_demand: CpuDemand(1.0),
            floor: CpuDemand(floor),
            link: ByteRate::mb(link),
            shipment,
            weight,
        }
    }

    fn from_start(mb: u64) -> PlanState {
        PlanState { remaining: Bytes(mb * 1_000_000), used: CpuTime(0.0), may_ship: false }
    }

    fn plan(curve: &DirtyCurve, terms: PlanInputs, start: PlanState) -> Option<Plan> {
        ValueTable::new(curve.clone(), terms, start.remaining.as_f64(), STEERING_NODES).plan(start)
    }

    /// Random writes at twice the rate of the link: the middle guest of the measurements.
    fn middle() -> DirtyCurve {
        one_set(144, 144.0 / 50.0)
    }

    #[test]
    fn a_guest_that_lands_unaided_is_never_held() {
        let terms = terms(100, Some(0.24), 0.02, time_weight(Aggression::DEFAULT));
        let calm = one_set(50, 5.0);
        assert_eq!(classify(&calm, &terms), Class::Unaided);
        let plan = plan(&calm, terms, from_start(150)).unwrap();
        assert!(plan.is_free() && plan.step == PlanStep::Free, "{plan:?}");
        assert!(plan.cost.lost.0 <= 0.24, "{plan:?}");
    }

    #[test]
    fn a_middle_guest_is_held_late_and_hard_in_one_pass() {
        let terms = terms(25, Some(0.24), 0.02, time_weight(Aggression::new(0.0).unwrap()));
        assert_eq!(classify(&middle(), &terms), Class::Middle);
        let plan = plan(&middle(), terms, from_start(150)).unwrap();
        assert_eq!(plan.step, PlanStep::Free, "the first pass is free");
        assert!(plan.cost.least_share < 0.1, "{plan:?}");
        // The theory: free to the fixed point T*, then one pass with s = D^-1(B*t) of CPU in it.
        let fixed = (0..200).fold(6.0, |length, _| middle().dirtied_bytes(length) / 25e6);
        let last = cpu_for(&middle(), 25e6 * 0.24).unwrap();
        let lost = fixed - last + 0.24;
        assert!((0.97..1.1).contains(&(plan.cost.lost.0 / lost)), "{plan:?}, theory {lost}");
    }

    #[test]
    fn a_pathological_guest_has_no_plan_within_a_stall_and_a_pause_without_one() {
        let sweep = one_set(100, 0.003);
        let within = terms(100, Some(0.24), 0.015, 0.2);
        assert_eq!(classify(&sweep, &within), Class::Pathological);
        assert_eq!(plan(&sweep, within, from_start(105)), None);
        let plan = plan(&sweep, PlanInputs { shipment: None, ..within }, from_start(105)).unwrap();
        assert!(plan.is_free() && (plan.cost.shipment - 1.0).abs() < 0.01, "{plan:?}");
    }

    #[test]
    fn with_a_floor_it_takes_several_passes_at_the_floor() {
        let strict = terms(25, Some(0.24), 0.2, 0.02);
        let plan = plan(&middle(), strict, from_start(150)).unwrap();
        assert!(plan.cost.least_share >= 0.199 && plan.cost.passes > 3, "{plan:?}");
    }

    #[test]
    fn what_fits_the_stall_now_is_shipped_now() {
        let now = PlanState { remaining: Bytes(5_000_000), used: CpuTime(0.0), may_ship: true };
        let found = plan(&middle(), terms(25, Some(0.24), 0.02, 0.25), now).unwrap();
        assert_eq!(found.step, PlanStep::Ship);
    }

    fn problems() -> impl Strategy<Value = (DirtyCurve, PlanInputs, PlanState)> {
        let part = (1u64..400, 0.002f64..30.0);
        let parts = proptest::collection::vec(part, 1..4);
        (parts, 20u64..1000, 0.02f64..2.0, 0.0f64..0.5, 0.5f64..4.0, 1u64..2000).prop_map(
            |(parts, link, stall, floor, pace, start)| {
                let part = |(mb, time): (u64, f64)| Component {
                    set: Bytes(mb * 1_000_000),
                    time: CpuTime(time),
                };
                let terms = PlanInputs {
                    cpu_demand: CpuDemand(pace),
                    floor: CpuDemand(floor * pace),
                    link: ByteRate::mb(link),
                    shipment: Some(stall),
                    weight: 0.0,
                };
                (DirtyCurve::new(parts.into_iter().map(part)), terms, from_start(start))
            },
        )
    }

    proptest! {
        #[test]
        fn aggression_never_makes_it_slower_nor_gentler(
            (curve, terms, start) in problems(), dials in (0.0f64..1.0, 0.0f64..1.0),
        ) {
            let (low, high) = (dials.0.min(dials.1), dials.0.max(dials.1));
            let at = |dial: f64| {
                let weight = time_weight(Aggression::new(dial).unwrap());
                plan(&curve, PlanInputs { weight, ..terms }, start)
            };
            let (Some(gentle), Some(fast)) = (at(low), at(high)) else { return Ok(()) };
            // Passes that end between nodes cost up to a node.
            let slack = |value: f64| value * 1.1 + 0.02;
            prop_assert!(fast.cost.total <= slack(gentle.cost.total), "{gentle:?} {fast:?}");
            prop_assert!(gentle.cost.lost.0 <= slack(fast.cost.lost.0), "{gentle:?} {fast:?}");
        }

        #[test]
        fn a_plan_keeps_its_terms((curve, terms, start) in problems()) {
            let found = plan(&curve, terms, start);
            if let Some(found) = found {
                prop_assert!(found.cost.shipment <= terms.shipment.unwrap() * 1.0001);
                let floor = terms.floor.0 / terms.cpu_demand.0;
                prop_assert!(found.cost.least_share >= floor * 0.999, "{found:?}");
            }
        }

        #[test]
        fn there_is_no_plan_where_it_is_plain_that_there_is_none((curve, terms, start) in problems()) {
            if cannot_land(&curve, &terms, &start) {
                prop_assert_eq!(plan(&curve, terms, start), None);
            }
        }

        #[test]
        fn there_is_a_plan_for_all_but_the_pathological((curve, terms, start) in problems()) {
            // Near the border the grid is too coarse to tell.
            let easier = PlanInputs { floor: CpuDemand(terms.floor.0 * 1.2), ..terms };
            if classify(&curve.scaled(1.1), &easier) != Class::Pathological {
                prop_assert!(plan(&curve, terms, start).is_some());
            }
        }
    }
}
