//! The stage in which the guest is paused and the rest sent.
//!
//! What is dirty has to fit the stall. It is more than is known to be: the curve says what was dirtied
//! since the last sync, and the last quota of a held guest may yet be used.

use std::time::Duration;

use super::{ChosenPlan, Predictive};
use crate::decision::{Decision, Finish, Hold, Tuning};
use crate::planner::Constraints;
use crate::switch_over;
use crate::telemetry::view::{Phase, View};
use crate::units::{Bytes, CpuTime};

/// After each shipment that turned out not to fit, so much less is shipped: at the edge, what a held
/// guest writes in one quota decides.
const ONE_MORE_TRY: f64 = 0.85;

/// The shipments that were decided.
#[derive(Debug, Default)]
pub(super) struct ShippingAttempts {
    /// The pass in which shipping was decided last.
    pass: Option<u64>,
    /// How often QEMU then found too much.
    failed: u32,
}

impl ShippingAttempts {
    /// Notes a sync after the last attempt: it failed.
    pub(super) fn on_view(&mut self, view: &View) {
        if self.pass.is_some_and(|pass| pass < view.syncs) {
            self.pass = None;
            self.failed += 1;
        }
    }

    /// The part of what fits that is shipped now.
    fn margin(&self) -> f64 {
        ONE_MORE_TRY.powi(self.failed.min(8) as i32)
    }
}

impl Predictive {
    /// Whether what is dirty now may be shipped at once.
    pub(super) fn fits_now(&self, view: &View, constraints: &Constraints) -> bool {
        let rate = self.drain.shipping_rate(view);
        let (Some(dirty), Some(link)) = (self.dirty_when_stopped(view), rate) else {
            return false;
        };
        let margin = self.shipping.margin();
        let fits =
            |stall| dirty.as_f64() <= margin * link.over(switch_over::drained(stall)).as_f64();
        view.phase == Phase::Iterating && constraints.max_stall.is_none_or(fits)
    }

    /// What is dirty when the guest stands still, if that is decided now: the last hold is a new quota,
    /// which each vCPU may yet use.
    fn dirty_when_stopped(&self, view: &View) -> Option<Bytes> {
        let quota = self.last_hold.until_stopped(view).map_or(Duration::ZERO, |quota| quota.quota);
        view.dirty_after(CpuTime(quota.as_secs_f64() * view.vcpus.len() as f64))
    }

    pub(super) fn ship(&mut self, view: &View, chosen: &ChosenPlan) -> Decision {
        self.commit_to(view, chosen);
        self.explain(view, &chosen.plan);
        self.shipping.pass = Some(view.syncs);
        let tuning = Tuning {
            downtime_limit: chosen.constraints.max_stall.map(switch_over::drained),
            // QEMU's own idea of the rate is that of its last 100 ms.
            switchover_bandwidth: self.drain.shipping_rate(view),
            ..Tuning::default()
        };
        let hold = self.last_hold.until_stopped(view).map(Hold::Quota);
        let holds = hold.map_or(Vec::new(), |hold| vec![hold; view.vcpus.len()]);
        Decision { tuning, holds, ..Decision::finish(Finish::Ship, self.stage.reason()) }
    }
}
