//! The stages in which the guest is held: to the CPU time that the plan gives it in this pass, and to
//! the end of a pass that is nearly over.
//!
//! Every change of a quota refills it, so a hold changes only when that is worth more than it gives
//! away: by at least a tenth, by more than a quota's worth of CPU time, and not in the last stretch.

use super::current_plan::time_to_send;
use super::{ChosenPlan, Predictive};
use crate::decision::{Decision, Hold};
use crate::planner::{PlanStep, share_for_cpu};
use crate::quota::Quota;
use crate::switch_over;
use crate::telemetry::view::View;
use crate::units::{CpuDemand, Share};

/// A hold is not changed for less than this part of it.
const WORTH_CHANGING: f64 = 0.1;

/// In the last stretch of a pass, in seconds, the hold stays as it is: what is left to give is within
/// the error.
const LAST_STRETCH: f64 = 0.2;

/// The last hold, and the pass it was in.
#[derive(Debug, Default)]
pub(super) struct LastHold(Option<(u64, Share)>);

impl LastHold {
    /// Whether the guest is held.
    pub(super) fn is_held(&self) -> bool {
        self.share().is_some()
    }

    /// The share to which the guest is held; `None` where it is not.
    pub(super) fn share(&self) -> Option<Share> {
        self.0.map(|(_, share)| share).filter(|share| *share < Share::FULL)
    }

    /// Changes the hold, or leaves it where the change is not worth it.
    pub(super) fn change_to(&mut self, view: &View, share: Share) -> Hold {
        let share = match self.0 {
            Some((_, held)) if is_near(held, share) => held,
            _ => share,
        };
        self.0 = Some((view.syncs, share));
        view.quota_for(share).map_or(Hold::Free, Hold::Quota)
    }

    /// The share that was chosen in this pass, where the pass is nearly over. What is left of it may
    /// cost no work any more; but until that shows, the next pass would begin with the guest let go,
    /// and dirty again what the hold has kept clean.
    fn to_end_of_pass(&self, view: &View, chosen: &ChosenPlan) -> Option<Share> {
        let (_, share) = self.0.filter(|(pass, _)| *pass == view.syncs)?;
        (time_to_send(view, &chosen.inputs) < LAST_STRETCH).then_some(share)
    }

    /// The hold until the guest stands still: one of short periods, for a vCPU that is held notices
    /// that it is to stop when it next runs.
    pub(super) fn until_stopped(&self, view: &View) -> Option<Quota> {
        let held = self.share()?;
        let least = Quota::least(view.levers.tick).div_duration_f64(switch_over::LAST_PERIOD);
        view.quota_for(held.max(Share::clamped(least)))
    }
}

impl Predictive {
    /// Whether the plan holds nothing any more, but this pass is held and nearly over.
    pub(super) fn is_finishing_held_pass(&self, view: &View, chosen: &ChosenPlan) -> bool {
        let share = self.last_hold.to_end_of_pass(view, chosen);
        share.is_some_and(|share| share < Share::FULL)
    }

    /// Leaves the hold as it is.
    pub(super) fn finish_held_pass(&mut self, view: &View, chosen: &ChosenPlan) -> Decision {
        self.commit_to(view, chosen);
        let share = self.last_hold.to_end_of_pass(view, chosen).unwrap_or(Share::FULL);
        self.hold_all(view, share)
    }

    /// Gives the guest the CPU time that the plan has for it in this pass, evenly over what is left
    /// of the pass.
    pub(super) fn hold_to_budget(&mut self, view: &View, chosen: &ChosenPlan) -> Decision {
        self.commit_to(view, chosen);
        self.explain(view, &chosen.plan);
        self.drain.start_if_near_end(view, &chosen.plan);
        let share = self.last_hold.to_end_of_pass(view, chosen);
        let share = share.unwrap_or_else(|| self.share_for_budget(view, chosen));
        self.hold_all(view, share)
    }

    fn share_for_budget(&self, view: &View, chosen: &ChosenPlan) -> Share {
        let PlanStep::Hold(budget) = chosen.plan.step else { return Share::FULL };
        let left = (budget - view.cpu_since_sync.unwrap_or_default()).0.max(0.0);
        let time = time_to_send(view, &chosen.inputs).max(LAST_STRETCH);
        match self.last_hold.share() {
            Some(held) if gives(view, held, time, left) => held,
            _ => share_for_cpu(view, CpuDemand(left / time)).max(chosen.constraints.tightest(view)),
        }
    }
}

/// Whether a hold gives so much CPU, in seconds, in a time, give or take a quota: a new quota is
/// granted whole, so that to change the hold for less gives more away than it mends.
fn gives(view: &View, held: Share, time: f64, cpu: f64) -> bool {
    let each = Quota::least(view.levers.tick).as_secs_f64();
    let (all, quotas) =
        (view.vcpus.len() as f64 * held.get() * time, view.vcpus.len() as f64 * each);
    (all - cpu).abs() <= 1.5 * quotas
}

fn is_near(held: Share, wanted: Share) -> bool {
    let (held, wanted) = (held.get(), wanted.get());
    (held - wanted).abs() <= WORTH_CHANGING * wanted && (held < 1.0) == (wanted < 1.0)
}
