//! Draining the link: towards the end, a little less is sent than the link carries, so that its buffers
//! are empty when the guest stands still.

use crate::planner::Plan;
use crate::switch_over;
use crate::telemetry::view::View;
use crate::units::ByteRate;

/// Part of its former rate at which a link that is being drained is taken to be the same link.
const STILL_THERE: f64 = 0.9 * switch_over::DRAIN;

/// Whether the link is being drained.
#[derive(Debug, Default)]
pub(super) struct Drain {
    /// The link's rate when its buffers began to be drained.
    from: Option<ByteRate>,
}

impl Drain {
    /// Starts to drain where the plan is so near its end that the buffers are empty by then.
    pub(super) fn start_if_near_end(&mut self, view: &View, plan: &Plan) {
        let Some(link) = reliable_rate(view).filter(|_| self.from.is_none()) else { return };
        // Draining takes time, and time under a hold costs work: a held guest drains in its last pass only.
        let last = plan.is_free() || plan.cost.passes <= 1;
        let left = plan.cost.total - plan.cost.shipment;
        let ends = last && left <= switch_over::time_to_drain(link).as_secs_f64();
        self.from = ends.then_some(link);
    }

    /// What the link is given while it is being drained.
    pub(super) fn limit(&self) -> Option<ByteRate> {
        self.from.map(|link| ByteRate(link.0 * switch_over::DRAIN))
    }

    /// The rate at which the rest would be shipped: while the link is being drained, what leaves says
    /// no more about it than that it is still there.
    pub(super) fn shipping_rate(&self, view: &View) -> Option<ByteRate> {
        let now = reliable_rate(view)?;
        let before = self.from.filter(|link| now.0 >= STILL_THERE * link.0);
        Some(before.map_or(now, |link| ByteRate(link.0.max(now.0))))
    }
}

/// The rate of the link that can be relied on for the moment: a standard error below the measured one.
fn reliable_rate(view: &View) -> Option<ByteRate> {
    Some(ByteRate(view.link?.0 * (1.0 - view.link_error.unwrap_or(0.0).min(0.5))))
}
