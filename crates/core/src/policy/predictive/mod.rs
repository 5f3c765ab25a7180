//! The default policy: steers by the guest's dirty curve instead of by steps.
//!
//! **Problem.** A guest has to land within the requirements and lose as little work as possible. What
//! each way to the end would cost is known: the curve says what a pass leaves after so much of the
//! guest's CPU time, and [`crate::planner`] finds the cheapest sequence of passes. But curve and link
//! are estimates that change on the way, plans that are nearly equal alternate with the noise, the link is not known at
//! first, and some guests land best if nothing is done.
//!
//! **Approach.** At every sample the policy is in one [`Stage`]. It replans at the start of every pass,
//! and within a pass when the plan's inputs change; the plan, and a few conditions on guest and link,
//! choose the stage ([`Predictive::next_stage`], the only place where it changes), and the stage makes
//! the decision. A plan holds the guest late, hard and short, because a pass at full speed costs no work;
//! it pauses the guest where that loses less than a hold and the stall allows it.
//!
//! **Stages,** in the order in which they are tried. The first whose condition holds is next, whatever
//! the stage before:
//!
//! | stage | condition | file |
//! |---|---|---|
//! | idle | no pass is under way | here |
//! | blind | after the first sync the curve is still unknown: no CPU counters | `learning.rs` |
//! | learning | the curve is not known yet | `learning.rs` |
//! | giving-up | no plan lands the guest, not even with the most optimistic curve, for three syncs | `no_plan.rs` |
//! | no-plan-yet | the same, in the first pass | `no_plan.rs` |
//! | tightest-hold | the same, later | `no_plan.rs` |
//! | awaiting-link | there is a plan, but only the link's limit is known | `learning.rs` |
//! | congested | the link is slower than it was, and waiting costs less than the plan | `congestion.rs` |
//! | unaided | the plan holds nothing, and QEMU's own rule lands the guest too | `unaided.rs` |
//! | shipping | the plan ships now | `shipping.rs` |
//! | finishing-pass | the plan holds nothing any more, but this pass is held and nearly over | `holding.rs` |
//! | full-speed | the plan leaves this pass at full speed | `full_speed.rs` |
//! | holding | the plan gives the guest less CPU time in this pass than it wants | `holding.rs` |
//!
//! **Properties.**
//! - While it steers, it keeps QEMU's own downtime limit at next to nothing: QEMU would otherwise sync
//!   its bitmap as soon as what remains *of the pass* fits the limit, and each sync finds again
//!   what the guest wrote twice. A pass that runs to its end leaves `D(c)`, and that is what has
//!   to fit.
//! - Where no plan keeps all of the requirements, they are given up one by one in the operator's order
//!   (`--give-way`); where none may be, the policy says so before the start, or as soon as it is
//!   known, with what would resolve it.
//! - Draining the link is independent of the stage ([`drain`]): in the last moments before a shipment
//!   the link gets a little less than it carries.

mod congestion;
mod current_plan;
mod drain;
mod explanation;
mod full_speed;
mod holding;
mod learning;
mod no_plan;
mod plan_cache;
mod shipping;
mod stage;
mod unaided;

use super::convergence::ConvergenceTracker;
use super::{Needs, Policy, PreflightRefusal, Progressive};
use crate::decision::{Decision, Tuning};
use crate::planner::{PlanStep, remedies};
use crate::requirements::{Aggression, Requirements};
use crate::telemetry::view::{Phase, View};
use crate::units::Share;
use congestion::Congestion;
use current_plan::{ChosenPlan, CurrentPlan, Search};
use drain::Drain;
use holding::LastHold;
use plan_cache::PlanCache;
use shipping::ShippingAttempts;
use unaided::NearMisses;

pub use stage::Stage;

/// See the module.
#[derive(Debug, Default)]
pub struct Predictive {
    stage: Stage,
    plan_cache: PlanCache,
    /// The plan for the pass under way, while its inputs stay as they were.
    current_plan: Option<CurrentPlan>,
    /// What the operator asked for at the last sample.
    settings: Option<(Requirements, Aggression)>,
    schedule: Schedule,
    convergence: ConvergenceTracker,
    congestion: Congestion,
    drain: Drain,
    last_hold: LastHold,
    shipping: ShippingAttempts,
    near_misses: NearMisses,
    /// Steers where the kernel does not say how much CPU the guest had.
    fallback: Progressive,
    explanation: Option<String>,
}

/// Whether the migration is being steered, and by when it was to land.
#[derive(Debug, Default)]
struct Schedule {
    /// The guest was or is to be held or shipped: it does not land by QEMU's own rule alone.
    steering: bool,
    /// The syncs there will be when it was to land, as it was planned at first.
    due: Option<u64>,
}

impl Policy for Predictive {
    fn name(&self) -> &'static str {
        "predictive"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        match self.find_plan(view) {
            // Nothing lands only where guest and link are known, so there is a conflict to name.
            Search::NothingLands => {
                remedies::doubt(view).map_or(Ok(()), |conflict| Err(Box::new(conflict).into()))
            }
            Search::Found(_) | Search::TooLittleKnown => Ok(()),
        }
    }

    fn explanation(&self) -> Option<String> {
        self.explanation.clone()
    }

    fn stage(&self) -> Option<&'static str> {
        Some(self.stage.name())
    }

    fn decide(&mut self, view: &View) -> Decision {
        if is_pass(view) {
            self.observe(view);
        }
        let (stage, plan) = self.next_stage(view);
        self.stage = stage;
        match plan {
            Some(plan) => self.execute(view, &plan),
            None => self.decide_without_plan(view),
        }
    }
}

impl Predictive {
    /// Takes in what a view shows besides the plan's inputs.
    fn observe(&mut self, view: &View) {
        self.shipping.on_view(view);
        self.on_settings_changed(view);
        self.congestion.on_view(view);
        self.convergence.on_view(view);
    }

    /// Drops the state that depends on the settings, if they changed since the last sample.
    fn on_settings_changed(&mut self, view: &View) {
        let settings = (&view.requirements, view.aggression);
        let before = self.settings.as_ref().filter(|(asked, dial)| (asked, *dial) != settings);
        if let Some((before, _)) = before {
            (self.current_plan, self.schedule.due) = (None, None);
            if before.max_bandwidth != view.requirements.max_bandwidth {
                (self.drain, self.congestion) = Default::default();
            }
        }
        if before.is_some() || self.settings.is_none() {
            self.settings = Some((view.requirements.clone(), view.aggression));
        }
    }

    /// Chooses the stage: the table in the module's documentation, row by row. With the plan that it
    /// carries out, where it rests on one.
    fn next_stage(&mut self, view: &View) -> (Stage, Option<ChosenPlan>) {
        if !is_pass(view) {
            return (Stage::Idle, None);
        }
        let plan = match self.plan_for_pass(view) {
            Search::TooLittleKnown if view.syncs > 1 => return (Stage::Blind, None),
            Search::TooLittleKnown => return (Stage::Learning, None),
            Search::NothingLands => return (no_plan::stage(view), None),
            Search::Found(plan) => plan,
        };
        let stage = match plan.plan.step {
            _ if awaits_link(view) => Stage::AwaitingLink,
            _ if self.should_wait_for_link(view, &plan) => Stage::Congested,
            _ if self.lands_unaided(view, &plan) => Stage::Unaided,
            PlanStep::Ship => Stage::Shipping,
            PlanStep::Free if self.is_finishing_held_pass(view, &plan) => Stage::FinishingPass,
            PlanStep::Free => Stage::FullSpeed,
            PlanStep::Hold(_) => Stage::Holding,
        };
        (stage, Some(plan))
    }

    fn decide_without_plan(&mut self, view: &View) -> Decision {
        match self.stage {
            Stage::Blind => self.fall_back(view),
            Stage::GivingUp => no_plan::give_up(view),
            Stage::TightestHold => self.hold_tightest(view),
            stage => Decision::leave_alone(stage.reason()),
        }
    }

    fn execute(&mut self, view: &View, plan: &ChosenPlan) -> Decision {
        match self.stage {
            Stage::Congested => self.wait_out_congestion(view),
            Stage::Unaided => self.leave_unaided(view, plan),
            Stage::Shipping => self.ship(view, plan),
            Stage::FinishingPass => self.finish_held_pass(view, plan),
            Stage::FullSpeed => self.run_at_full_speed(view, plan),
            Stage::Holding => self.hold_to_budget(view, plan),
            stage => Decision::leave_alone(stage.reason()),
        }
    }

    /// Notes that a plan is being carried out that QEMU's own rule would not.
    fn commit_to(&mut self, view: &View, plan: &ChosenPlan) {
        if view.phase == Phase::Iterating || !plan.plan.is_free() {
            self.schedule.steering = true;
            let due = view.syncs + u64::from(plan.plan.cost.passes);
            self.schedule.due.get_or_insert(due);
        }
    }

    /// The weight of time when the migration is overdue and gets nowhere. Passes that each leave a
    /// little more than was planned are cheap one by one, and never end: so the more there are in a row
    /// that leave not a good deal less than the best before, the more time weighs.
    fn urgency(&self, view: &View) -> f64 {
        let overdue = self.schedule.due.map_or(0, |due| view.syncs.saturating_sub(due));
        let stuck = u64::from(self.convergence.syncs_without_progress());
        (0.25 * (overdue.min(stuck) / 2) as f64).min(1.0)
    }

    /// A decision that holds all vCPUs to a share, with the parameters that go with steering.
    fn hold_all(&mut self, view: &View, share: Share) -> Decision {
        let hold = self.last_hold.change_to(view, share);
        let tuning = Tuning {
            downtime_limit: self.schedule.steering.then_some(stage::WHOLE_PASSES),
            max_bandwidth: self.drain.limit(),
            ..Tuning::default()
        };
        Decision { tuning, ..Decision::hold_all(view.vcpus.len(), hold, self.stage.reason()) }
    }
}

/// Whether a pass is under way, so that there is something to decide.
fn is_pass(view: &View) -> bool {
    matches!(view.phase, Phase::FirstPass | Phase::Iterating)
}

/// Whether nothing is done yet because only the link's limit is known.
fn awaits_link(view: &View) -> bool {
    view.phase == Phase::FirstPass && view.link_error.is_none()
}
