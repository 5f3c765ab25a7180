//! The stage in which a pass runs at full speed: that costs no work, so holds come as late as possible.

use super::{ChosenPlan, Predictive};
use crate::decision::Decision;
use crate::telemetry::view::View;
use crate::units::Share;

impl Predictive {
    pub(super) fn run_at_full_speed(&mut self, view: &View, chosen: &ChosenPlan) -> Decision {
        self.commit_to(view, chosen);
        self.drain.start_if_near_end(view, &chosen.plan);
        self.hold_all(view, Share::FULL)
    }
}
