//! The plans: the cheapest, the cheapest in time, the cheapest that may yet be possible.

use std::sync::Arc;
use std::time::Duration;

use crate::model::{DirtyCurve, Estimate};
use crate::planner::{
    Constraints, HURRY_WEIGHTS, Plan, PlanInputs, PlanState, STEERING_NODES, ValueTable,
    cannot_land,
};
use crate::telemetry::view::View;

/// The tables of plans, kept as long as what they were made of stays the same: one for each level of
/// giving way that may have a plan.
#[derive(Debug, Default)]
pub(super) struct Tables(Vec<Option<(Arc<Estimate>, ValueTable)>>);

impl Tables {
    fn at(
        &mut self,
        level: usize,
        guest: &Arc<Estimate>,
        terms: PlanInputs,
        longest: f64,
    ) -> &ValueTable {
        let fresh = |(of, table): &(Arc<Estimate>, ValueTable)| {
            Arc::ptr_eq(of, guest) && alike(table.terms(), &terms)
        };
        if self.0.len() <= level {
            self.0.resize_with(level + 1, || None);
        }
        let kept = self.0[level].take().filter(fresh);
        let make = || ValueTable::new(guest.curve.clone(), terms, longest, STEERING_NODES);
        let (_, table) = self.0[level].insert(kept.unwrap_or_else(|| (Arc::clone(guest), make())));
        table
    }

    /// The plan at the weight that the aggression gives, or at a greater one if only that ends in time.
    pub(super) fn in_time(
        &mut self,
        level: usize,
        guest: &Arc<Estimate>,
        terms: PlanInputs,
        from: PlanState,
        left: f64,
    ) -> Option<Plan> {
        if cannot_land(&guest.curve, &terms, &from) {
            return None;
        }
        let longest = longest(&from, &terms);
        let plan = self.at(level, guest, terms, longest).plan(from)?;
        first_in_time(plan, &guest.curve, terms, from, left)
    }
}

/// A plan if it ends in time, or else the first that does of those in which time weighs more.
fn first_in_time(
    plan: Plan,
    curve: &DirtyCurve,
    terms: PlanInputs,
    from: PlanState,
    left: f64,
) -> Option<Plan> {
    let hurried = |weight| {
        let terms = PlanInputs { weight, ..terms };
        ValueTable::new(curve.clone(), terms, longest(&from, &terms), STEERING_NODES).plan(from)
    };
    let mut plans =
        [Some(plan)].into_iter().chain(HURRY_WEIGHTS.into_iter().map(hurried)).flatten();
    plans.find(|plan| plan.cost.total <= left)
}

/// What is left of the time allowed, in seconds.
pub(super) fn time_left(allowed: &Constraints, view: &View) -> f64 {
    let left = |limit: Duration| limit.saturating_sub(view.now.0).as_secs_f64();
    allowed.max_time.map_or(f64::INFINITY, left)
}

/// The plan for the most hopeful curve that what was seen still allows.
pub(super) fn hopeful(
    guest: &Estimate,
    terms: PlanInputs,
    from: PlanState,
    left: f64,
    allowed: &Constraints,
    view: &View,
) -> Option<Plan> {
    let curve = guest.curve.scaled(1.0 / (1.0 + HOPE * guest.error));
    let weight = terms.weight;
    let terms = allowed.plan_inputs_for(view, &curve, 0.0).unwrap_or(terms);
    let terms = PlanInputs { weight, ..terms };
    if cannot_land(&curve, &terms, &from) {
        return None;
    }
    let plan =
        ValueTable::new(curve.clone(), terms, longest(&from, &terms), STEERING_NODES).plan(from)?;
    first_in_time(plan, &curve, terms, from, left)
}

/// How many standard errors below the likeliest the most hopeful curve is.
const HOPE: f64 = 2.0;

/// The longest pass there may be, in bytes: one that gives the guest as much CPU time as the one under
/// way, what it has had included.
pub(super) fn longest(from: &PlanState, terms: &PlanInputs) -> f64 {
    from.remaining.as_f64() + from.used.0 / terms.cpu_demand.0 * terms.link.0
}

/// Whether two sets of terms differ by less than what they are known to.
fn alike(one: &PlanInputs, other: &PlanInputs) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 0.03 * a.abs().max(b.abs());
    near(one.cpu_demand.0, other.cpu_demand.0)
        && near(one.floor.0, other.floor.0)
        && near(one.link.0, other.link.0)
        && near(one.shipment.unwrap_or(-1.0), other.shipment.unwrap_or(-1.0))
        && one.weight == other.weight
}
