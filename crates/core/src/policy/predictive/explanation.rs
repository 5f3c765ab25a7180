//! How the choice between holding and pausing came out, in words for the report.

use std::time::Duration;

use super::Predictive;
use super::current_plan::plan_state;
use super::plan_cache::longest_pass;
use crate::planner::{Constraints, Plan, PlanInputs, PlanState, STEERING_NODES, ValueTable};
use crate::requirements::Requirement;
use crate::telemetry::view::{Phase, View};
use crate::units::show_duration;

impl Predictive {
    /// Explains the choice, once.
    pub(super) fn explain(&mut self, view: &View, plan: &Plan) {
        if self.explanation.is_none() {
            self.explanation = explanation(view, plan);
        }
    }
}

/// Compares a plan with a pause of any length, with the figures.
fn explanation(view: &View, plan: &Plan) -> Option<String> {
    let seconds = |time: f64| show_duration(Duration::from_secs_f64(time.clamp(0.0, 1e9)));
    let any_stall =
        Constraints::all(&view.requirements).without(Requirement::MaxStall).plan_inputs(view)?;
    let unheld = PlanInputs { floor: any_stall.cpu_demand, ..any_stall };
    let (from, _) = plan_state(view, &unheld)?;
    let curve = view.estimate()?.curve.clone();
    let pause = ValueTable::new(curve, unheld, longest_pass(&from, &unheld), STEERING_NODES)
        .plan(PlanState { may_ship: view.phase == Phase::Iterating, ..from })?;
    let limit = show_duration(view.requirements.max_stall);
    let (lost, paused) = (seconds(plan.cost.lost.0), seconds(pause.cost.lost.0));
    Some(if plan.is_free() {
        format!("pausing to ship the rest loses {lost} of work; no hold was needed or loses less")
    } else {
        format!(
            "held to {:.1} % at the least, which loses {lost} of work in all; pausing instead would \
             lose {paused} and stall the guest for {}{}",
            plan.cost.least_share * 100.0,
            seconds(pause.cost.shipment),
            if pause.cost.shipment > view.requirements.max_stall.as_secs_f64() {
                format!(", longer than --max-stall {limit}")
            } else {
                String::new()
            }
        )
    })
}
