//! No help: pre-copy as it is, until it lands or the time is over.

use super::Policy;
use crate::decision::Decision;
use crate::telemetry::view::View;
use crate::units::Moment;

/// Leaves guest and migration alone. The measure for "never disturbed".
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Policy for Plain {
    fn name(&self) -> &'static str {
        "plain"
    }

    fn decide(&mut self, _: &View) -> Decision {
        Decision::leave_alone("no help asked for")
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        Some(Moment::NEVER)
    }
}
