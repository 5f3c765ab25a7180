//! What a migration would cost that has not begun, by the planner alone: from the first page on, for the
//! likeliest guest and for guests that write more or less.
//!
//! The policy plans at every pass, from where the migration stands. Here it is planned once, which takes
//! some tens of microseconds, so that many settings can be tried while a person waits.

use std::time::Duration;

use super::{
    Constraints, HURRY_WEIGHTS, Plan, PlanInputs, PlanState, STEERING_NODES, ValueTable,
    share_for_cpu, time_weight,
};
use crate::model::DirtyCurve;
use crate::quota::Quota;
use crate::requirements::Aggression;
use crate::switch_over;
use crate::telemetry::view::View;
use crate::units::{ByteRate, CpuDemand, Share};

/// A possible guest and link, in standard errors from the likeliest: above zero the guest writes more and
/// the link carries less.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CurveCase(pub f64);

impl CurveCase {
    pub(super) const NOMINAL: CurveCase = CurveCase(0.0);
    /// The optimistic case: a policy starts as long as it lands this guest.
    pub(super) const OPTIMISTIC: CurveCase = CurveCase(-2.0);
    /// The pessimistic case: a remedy counts as proven if it lands this guest.
    pub(super) const PESSIMISTIC: CurveCase = CurveCase(1.5);

    fn times(self, error: f64) -> f64 {
        if self.0 < 0.0 { 1.0 / (1.0 - self.0 * error) } else { 1.0 + self.0 * error }
    }
}

/// A plan, and what it was made for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Prospect {
    pub(super) plan: Plan,
    pub(super) terms: PlanInputs,
}

/// The plan from the first page on that keeps what is allowed; `None` where none does, or too little is
/// known.
pub(super) fn prospect(view: &View, allowed: &Constraints, case: CurveCase) -> Option<Prospect> {
    let problem = Problem::of(view, allowed, case)?;
    let left = allowed.max_time.map_or(f64::INFINITY, |limit| limit.as_secs_f64());
    let weights = [problem.terms.weight].into_iter().chain(HURRY_WEIGHTS);
    let mut late = None;
    for found in weights.filter_map(|weight| problem.solve(weight)) {
        if found.total() <= left {
            return Some(found);
        }
        // The switch-over may make it slightly late; it would be started all the same.
        late = late.or(Some(found).filter(|found| found.plan.cost.total <= left));
    }
    late
}

/// The plan that ends soonest of those that keep what is allowed. If that is not in time, none is.
pub(super) fn soonest(view: &View, allowed: &Constraints, case: CurveCase) -> Option<Prospect> {
    let found = Problem::of(view, allowed, case)?.solve(1.0)?;
    let in_time = |limit: Duration| found.plan.cost.total <= limit.as_secs_f64();
    allowed.max_time.is_none_or(in_time).then_some(found)
}

/// The plan that only pauses: the guest is never held, and stands still for as long as it takes.
pub(super) fn pause(view: &View) -> Option<Prospect> {
    let any = Constraints { min_cpu: Share::NONE, max_stall: None, max_time: None };
    let mut problem = Problem::of(view, &any, CurveCase::NOMINAL)?;
    problem.terms.floor = problem.terms.cpu_demand;
    problem.solve(problem.terms.weight)
}

/// Relative standard error of a link where only its limit is known.
pub const LINK_ERROR: f64 = 0.03;

struct Problem {
    curve: DirtyCurve,
    terms: PlanInputs,
    from: PlanState,
    /// Seconds until then.
    begun: f64,
}

impl Problem {
    fn of(view: &View, allowed: &Constraints, case: CurveCase) -> Option<Problem> {
        let guest = view.estimate()?;
        let curve = guest.curve.scaled(case.times(guest.error));
        // No link carries more than its limit.
        let less = case.times(view.link_error.unwrap_or(LINK_ERROR)).max(1.0);
        let link = ByteRate((view.link?.0 / less).max(1.0));
        // The optimistic case assumes no error, like the policy, which starts in that hope.
        let error = if case.0 < 0.0 { 0.0 } else { guest.error };
        let terms = allowed.plan_inputs_for(view, &curve, error)?;
        let remaining = view.contents.unwrap_or(view.total);
        let terms = PlanInputs { link, ..terms };
        let (from, begun) = PlanState::once_known(remaining, &terms);
        // A guest that lands unaided is left alone at every aggression.
        let alone = terms.floor == terms.cpu_demand;
        let weight = if alone { time_weight(Aggression::LEAST) } else { terms.weight };
        Some(Problem { curve, terms: PlanInputs { weight, ..terms }, from, begun })
    }

    fn solve(&self, weight: f64) -> Option<Prospect> {
        let terms = PlanInputs { weight, ..self.terms };
        let longest = self.from.remaining.as_f64() + self.begun * terms.link.0;
        let mut plan =
            ValueTable::new(self.curve.clone(), terms, longest, STEERING_NODES).plan(self.from)?;
        plan.cost.total += self.begun;
        Some(Prospect { plan, terms })
    }
}

impl Prospect {
    /// The whole migration.
    pub(super) fn total(&self) -> f64 {
        self.plan.cost.total + self.switch_over()
    }

    /// The guest's CPU time lost.
    pub(super) fn lost(&self) -> f64 {
        self.plan.cost.lost.0 + self.terms.cpu_demand.0 * self.switch_over()
    }

    /// The longest stall: that of the switch-over, or a gap of the tightest hold.
    pub(super) fn longest_stall(&self, view: &View) -> f64 {
        let gap = self.hold(view).map_or(0.0, |hold| hold.gap().as_secs_f64());
        gap.max(self.plan.cost.shipment + self.switch_over())
    }

    /// Bytes on the wire.
    pub(super) fn sent(&self) -> f64 {
        self.plan.cost.total * self.terms.link.0
    }

    /// The tightest hold on the way; `None` for a plan without one.
    fn hold(&self, view: &View) -> Option<Quota> {
        if self.plan.is_free() {
            return None;
        }
        let share =
            share_for_cpu(view, CpuDemand(self.plan.cost.least_share * self.terms.cpu_demand.0));
        Quota::for_share(share, Quota::PERIODS.1, view.levers.tick)
    }

    fn switch_over(&self) -> f64 {
        switch_over::BEYOND_SHIPMENT.as_secs_f64()
    }
}
