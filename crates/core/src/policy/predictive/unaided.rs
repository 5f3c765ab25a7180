//! The stage in which the guest lands by QEMU's own rule.
//!
//! It is left alone, but QEMU switches over no sooner than it must: it would stop the guest as soon as
//! what remains fits the limit, for all of the limit, where a pass or two more would leave next to
//! nothing.

use std::time::Duration;

use super::{ChosenPlan, Predictive};
use crate::decision::{Decision, Tuning};
use crate::telemetry::view::{SyncInterval, View};

/// Part of the link's rate that the fresh dirty rate of a guest must not exceed. A faster one that lands
/// unaided too lands with less to ship if its passes run to their ends.
const UNAIDED: f64 = 0.5;

/// A window of QEMU's rate limit, in seconds (`BUFFER_DELAY`).
const WINDOW: f64 = 0.1;

/// What a sync may leave to have nearly been shipped, as a multiple of what is shipped.
const NEARLY: f64 = 3.0;

/// How many syncs left so little that it was nearly shipped, and then was not.
#[derive(Debug, Default)]
pub(super) struct NearMisses {
    syncs: u64,
    count: u32,
}

impl NearMisses {
    /// Counts the last sync of a view, if it is new, of a guest of which so many bytes are shipped.
    fn count(&mut self, view: &View, shipped: f64) -> u32 {
        let near = |sync: &SyncInterval| sync.remaining_after.as_f64() < NEARLY * shipped;
        if view.syncs > self.syncs {
            self.syncs = view.syncs;
            self.count += u32::from(view.last_sync.as_ref().is_some_and(near));
        }
        self.count
    }
}

impl Predictive {
    /// Whether nothing needs to be done: the plan holds nothing, nothing is held, and QEMU's own rule
    /// lands the guest too. QEMU syncs again as soon as what remains fits the limit, so it lands a guest
    /// whose fresh dirty rate is below the link's, or whose memory fits the pause.
    pub(super) fn lands_unaided(&self, view: &View, chosen: &ChosenPlan) -> bool {
        if !chosen.plan.is_free() || self.last_hold.is_held() {
            return false;
        }
        let inputs = &chosen.inputs;
        let (Some(guest), Some(stall)) = (view.estimate(), inputs.shipment) else { return false };
        let fresh = guest.curve.dirtied_bytes(inputs.cpu_demand.0 * WINDOW) / WINDOW;
        fresh < UNAIDED * inputs.link.0
            || guest.curve.working_set().as_f64() <= 0.9 * inputs.link.0 * stall
    }

    /// Leaves the guest alone, with a downtime limit as short as lands it.
    pub(super) fn leave_unaided(&mut self, view: &View, chosen: &ChosenPlan) -> Decision {
        let inputs = &chosen.inputs;
        let alone = Decision::leave_alone(self.stage.reason());
        let known = view.estimate().zip(inputs.shipment).filter(|_| view.link_error.is_some());
        let Some((guest, most)) = known else { return alone };
        // What is dirtied in a window of the rate limit is always left.
        let least =
            0.02 + 1.5 * guest.curve.dirtied_bytes(inputs.cpu_demand.0 * WINDOW) / inputs.link.0;
        // If that is not enough, a longer downtime is allowed soon.
        let misses = self.near_misses.count(view, least * inputs.link.0);
        let patient = least * 2f64.powf(f64::from(misses) / 4.0);
        let downtime_limit = Duration::try_from_secs_f64(patient.min(most)).ok();
        self.drain.start_if_near_end(view, &chosen.plan);
        let max_bandwidth = self.drain.limit();
        let tuning = Tuning { downtime_limit, max_bandwidth, ..Tuning::default() };
        Decision { tuning, ..alone }
    }
}
