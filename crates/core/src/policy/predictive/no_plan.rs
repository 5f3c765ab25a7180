//! The stages in which no plan lands the guest: giving up, no plan yet, the tightest hold.
//!
//! Early estimates may be wrong. So the first pass runs at full speed; the next ones are held as tightly
//! as the requirements allow, as most plans would; and only a guest that no curve within the errors lands
//! for several syncs is given up.

use super::{Predictive, Stage};
use crate::decision::{Decision, Finish};
use crate::planner::{Constraints, remedies};
use crate::telemetry::view::{Phase, View};

/// A guest that not even the most optimistic curve can land is given up after so many syncs.
const SURE: u64 = 3;

/// The stage of a guest that no plan lands.
pub(super) fn stage(view: &View) -> Stage {
    match view.phase {
        _ if view.syncs >= SURE => Stage::GivingUp,
        Phase::FirstPass => Stage::NoPlanYet,
        _ => Stage::TightestHold,
    }
}

/// Cancels, and names what conflicts and what would resolve it.
pub(super) fn give_up(view: &View) -> Decision {
    Decision::finish(Finish::Cancel, remedies::conflict(view))
}

impl Predictive {
    pub(super) fn hold_tightest(&mut self, view: &View) -> Decision {
        let tightest = Constraints::all(&view.requirements).tightest(view);
        self.hold_all(view, tightest)
    }
}
