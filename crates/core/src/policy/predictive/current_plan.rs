//! The plan of the pass under way: found, kept while its inputs stay as they were, replaced.

use std::sync::Arc;

use super::plan_cache::{optimistic_plan, time_left};
use super::{Predictive, awaits_link};
use crate::model::Estimate;
use crate::planner::{Constraints, Plan, PlanCost, PlanInputs, PlanState, PlanStep};
use crate::telemetry::view::{Phase, View};

/// A plan, what it was made of, and which of the requirements it keeps.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChosenPlan {
    pub(super) plan: Plan,
    pub(super) inputs: PlanInputs,
    pub(super) constraints: Constraints,
}

/// What a search for a plan came to.
pub(super) enum Search {
    /// The cheapest plan.
    Found(ChosenPlan),
    /// No plan keeps the requirements, not even with the most optimistic curve.
    NothingLands,
    /// The curve, the link or the guest's CPU time is not known.
    TooLittleKnown,
}

/// The plan that was chosen for a pass, and on what grounds.
#[derive(Debug)]
pub(super) struct CurrentPlan {
    pass: (Phase, u64),
    estimate: Arc<Estimate>,
    chosen: ChosenPlan,
    /// What comes after this pass, in seconds.
    rest: f64,
}

impl CurrentPlan {
    fn new(view: &View, chosen: ChosenPlan) -> Option<CurrentPlan> {
        let estimate = Arc::clone(view.estimate()?);
        let rest = chosen.plan.cost.total - time_to_send(view, &chosen.inputs);
        Some(CurrentPlan { pass: (view.phase, view.syncs), estimate, chosen, rest })
    }

    /// The plan, with the time that is left by now.
    fn as_of_now(&self, view: &View) -> ChosenPlan {
        let ChosenPlan { plan, inputs, .. } = self.chosen;
        let total = self.rest + time_to_send(view, &inputs);
        let plan = Plan { cost: PlanCost { total, ..plan.cost }, ..plan };
        ChosenPlan { plan, ..self.chosen }
    }

    /// Whether its grounds still hold: plans made at every sample would alternate with the noise.
    fn is_valid(&self, view: &View) -> bool {
        let same_inputs = || {
            let now = self.chosen.constraints.plan_inputs(view);
            now.is_some_and(|now| are_alike(&self.chosen.inputs, &now))
        };
        self.pass == (view.phase, view.syncs)
            && view.estimate().is_some_and(|estimate| Arc::ptr_eq(estimate, &self.estimate))
            && same_inputs()
    }
}

impl Predictive {
    /// The plan that was chosen for this pass, while its grounds hold and nothing can be shipped; or
    /// else the best there is now.
    pub(super) fn plan_for_pass(&mut self, view: &View) -> Search {
        let current = self.current_plan.take().filter(|current| current.is_valid(view));
        if let Some(current) = current {
            let kept = current.as_of_now(view);
            let fits = self.fits_now(view, &current.chosen.constraints);
            self.current_plan = Some(current);
            return match fits.then(|| self.find_plan(view)) {
                Some(Search::Found(found)) if found.plan.step == PlanStep::Ship => {
                    Search::Found(found)
                }
                _ => Search::Found(kept),
            };
        }
        let search = self.find_plan(view);
        // A plan that cannot be carried out yet gets worse meanwhile.
        if let Search::Found(chosen) = search
            && !awaits_link(view)
        {
            self.current_plan = CurrentPlan::new(view, chosen);
        }
        search
    }

    /// Finds the cheapest plan that keeps all requirements; or else all but the first that may give
    /// way, and so on.
    pub(super) fn find_plan(&mut self, view: &View) -> Search {
        self.try_find_plan(view).unwrap_or(Search::TooLittleKnown)
    }

    fn try_find_plan(&mut self, view: &View) -> Option<Search> {
        let estimate = Arc::clone(view.estimate()?);
        let mut constraints = Constraints::all(&view.requirements);
        let mut inputs = constraints.plan_inputs(view)?;
        let given_up = view.requirements.give_way.iter().map(Some);
        for (level, given_up) in [None].into_iter().chain(given_up).enumerate() {
            if let Some(&given_up) = given_up {
                constraints = constraints.without(given_up);
                inputs = constraints.plan_inputs(view)?;
            }
            inputs.weight = inputs.weight.max(self.urgency(view));
            let (state, begun) = plan_state(view, &inputs)?;
            let from = PlanState { may_ship: self.fits_now(view, &constraints), ..state };
            let left = time_left(&constraints, view) - begun;
            let found = |plan| Search::Found(ChosenPlan { plan, inputs, constraints });
            if let Some(plan) = self.plan_cache.plan_in_time(level, &estimate, inputs, from, left) {
                return Some(found(plan));
            }
            // Nothing is given up while it may yet be kept.
            let plan = optimistic_plan(&estimate, inputs, from, left, &constraints, view);
            if let Some(plan) = plan {
                return Some(found(plan));
            }
        }
        Some(Search::NothingLands)
    }
}

/// How long what is left of the pass takes, in seconds.
pub(super) fn time_to_send(view: &View, inputs: &PlanInputs) -> f64 {
    view.remaining_in_pass().as_f64() / inputs.link.0
}

/// Where the migration stands, or will once it can be steered, and how many seconds from now that is.
pub(super) fn plan_state(view: &View, inputs: &PlanInputs) -> Option<(PlanState, f64)> {
    let remaining = view.remaining_in_pass();
    match view.phase {
        Phase::Setup => Some(PlanState::once_known(remaining, inputs)),
        _ => Some((PlanState { remaining, used: view.cpu_since_sync?, may_ship: false }, 0.0)),
    }
}

/// Whether the inputs of two plans are so much alike that one plan will do for both.
fn are_alike(one: &PlanInputs, other: &PlanInputs) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 0.1 * a.abs().max(b.abs());
    near(one.cpu_demand.0, other.cpu_demand.0)
        && near(one.floor.0, other.floor.0)
        && near(one.link.0, other.link.0)
}
