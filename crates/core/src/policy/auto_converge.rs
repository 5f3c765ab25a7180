//! QEMU's own auto-converge, asked for before the start and then left to itself: the baseline.

use super::{Needs, Policy};
use crate::decision::Decision;
use crate::telemetry::view::View;
use crate::units::Moment;

/// Asks the hypervisor for its own throttle and holds no vCPU itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct AutoConverge;

impl Policy for AutoConverge {
    fn name(&self) -> &'static str {
        "auto-converge"
    }

    fn needs(&self) -> Needs {
        Needs { auto_converge: true, ..Needs::default() }
    }

    fn decide(&mut self, _: &View) -> Decision {
        Decision::leave_alone("QEMU's auto-converge has the guest")
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        Some(Moment::NEVER)
    }
}
