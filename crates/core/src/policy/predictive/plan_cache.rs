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
pub(super) struct PlanCache(Vec<Option<(Arc<Estimate>, ValueTable)>>);

impl PlanCache {
    fn table_at(
        &mut self,
        level: usize,
        estimate: &Arc<Estimate>,
        inputs: PlanInputs,
        longest: f64,
    ) -> &ValueTable {
        let fresh = |(of, table): &(Arc<Estimate>, ValueTable)| {
            Arc::ptr_eq(of, estimate) && differ_little(table.terms(), &inputs)
        };
        if self.0.len() <= level {
            self.0.resize_with(level + 1, || None);
        }
        let kept = self.0[level].take().filter(fresh);
        let make = || ValueTable::new(estimate.curve.clone(), inputs, longest, STEERING_NODES);
        let (_, table) =
            self.0[level].insert(kept.unwrap_or_else(|| (Arc::clone(estimate), make())));
        table
    }

    /// The plan at the weight that the aggression gives, or at a greater one if only that ends in time.
    pub(super) fn plan_in_time(
        &mut self,
        level: usize,
        estimate: &Arc<Estimate>,
        inputs: PlanInputs,
        from: PlanState,
        left: f64,
    ) -> Option<Plan> {
        if cannot_land(&estimate.curve, &inputs, &from) {
            return None;
        }
        let longest = longest_pass(&from, &inputs);
        let plan = self.table_at(level, estimate, inputs, longest).plan(from)?;
        first_in_time(plan, &estimate.curve, inputs, from, left)
    }
}

/// A plan if it ends in time, or else the first that does of those in which time weighs more.
fn first_in_time(
    plan: Plan,
    curve: &DirtyCurve,
    inputs: PlanInputs,
    from: PlanState,
    left: f64,
) -> Option<Plan> {
    let hurried = |weight| {
        let inputs = PlanInputs { weight, ..inputs };
        ValueTable::new(curve.clone(), inputs, longest_pass(&from, &inputs), STEERING_NODES)
            .plan(from)
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

/// The plan for the most optimistic curve that the measurements allow.
pub(super) fn optimistic_plan(
    estimate: &Estimate,
    inputs: PlanInputs,
    from: PlanState,
    left: f64,
    allowed: &Constraints,
    view: &View,
) -> Option<Plan> {
    let curve = estimate.curve.scaled(1.0 / (1.0 + HOPE * estimate.error));
    let weight = inputs.weight;
    let inputs = allowed.plan_inputs_for(view, &curve, 0.0).unwrap_or(inputs);
    let inputs = PlanInputs { weight, ..inputs };
    if cannot_land(&curve, &inputs, &from) {
        return None;
    }
    let plan = ValueTable::new(curve.clone(), inputs, longest_pass(&from, &inputs), STEERING_NODES)
        .plan(from)?;
    first_in_time(plan, &curve, inputs, from, left)
}

/// How many standard errors below the likeliest the most optimistic curve is.
const HOPE: f64 = 2.0;

/// The longest pass there may be, in bytes: one that gives the guest as much CPU time as the one under
/// way, what it has had included.
pub(super) fn longest_pass(from: &PlanState, inputs: &PlanInputs) -> f64 {
    from.remaining.as_f64() + from.used.0 / inputs.cpu_demand.0 * inputs.link.0
}

/// Whether two sets of inputs differ by less than their errors.
fn differ_little(one: &PlanInputs, other: &PlanInputs) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 0.03 * a.abs().max(b.abs());
    near(one.cpu_demand.0, other.cpu_demand.0)
        && near(one.floor.0, other.floor.0)
        && near(one.link.0, other.link.0)
        && near(one.shipment.unwrap_or(-1.0), other.shipment.unwrap_or(-1.0))
        && one.weight == other.weight
}
