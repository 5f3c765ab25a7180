//! The stages in which too little is known to plan: learning, blind, awaiting the link.
//!
//! While the curve is not known, or only the link's limit is, the guest is left alone: every hold would
//! be planned for another guest or another link. Where the kernel gives no CPU counters the curve stays
//! unknown, and `progressive` steers, which needs none.

use super::Predictive;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::telemetry::view::View;

impl Predictive {
    /// Lets `progressive` decide.
    pub(super) fn fall_back(&mut self, view: &View) -> Decision {
        self.fallback.decide(view)
    }
}
