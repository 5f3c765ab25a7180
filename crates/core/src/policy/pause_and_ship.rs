//! One pass with the guest at full speed, then pause it and ship the rest.
//!
//! With nothing but work to lose, this loses least: a pass over `R` bytes leaves `D(u*R/B)`, so
//! once a pass leaves no less than the one before, any further one costs the guest time and gains
//! nothing (`DESIGN.md`, "The theory in one page"). It costs a long stall, which is why it needs
//! leave to break `--max-stall` where what remains does not fit it.

use super::Policy;
use super::convergence::{Convergence, ConvergenceTracker};
use crate::decision::{Decision, Finish};
use crate::telemetry::view::{Phase, View};
use crate::units::{Moment, show_duration};

/// How many syncs without progress show that waiting gains nothing.
pub(super) const HOPELESS_SYNCS: u32 = 3;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct PauseAndShip {
    convergence: ConvergenceTracker,
    stuck: u32,
}

impl Policy for PauseAndShip {
    fn name(&self) -> &'static str {
        "pause-and-ship"
    }

    fn decide(&mut self, view: &View) -> Decision {
        if view.phase != Phase::Iterating {
            return Decision::leave_alone("the first pass goes on with the guest at full speed");
        }
        match self.convergence.on_view(view) {
            Convergence::Stuck(times) => self.stuck = times,
            Convergence::Progress => self.stuck = 0,
            Convergence::None => {}
        }
        if self.stuck == 0 {
            return Decision::leave_alone("what remains gets less by itself");
        }
        if view.fits_downtime() {
            return Decision::finish(Finish::Ship, "what remains gets no less: pausing to ship it");
        }
        if self.stuck < HOPELESS_SYNCS {
            return Decision::leave_alone(cannot_ship(view));
        }
        Decision::finish(Finish::Cancel, cannot_ship(view))
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        (self.stuck == 0).then_some(Moment::NEVER)
    }
}

/// Why the rest cannot be shipped now, and what would allow it.
pub(super) fn cannot_ship(view: &View) -> String {
    let needed = view.downtime_if_shipped().map_or_else(
        || "a pause of unknown length".to_owned(),
        |stall| format!("a pause of about {}", show_duration(stall)),
    );
    format!(
        "what remains ({}) gets no less; shipping it takes {needed}, longer than --max-stall {}: \
         allow it with --give-way max-stall, or raise --max-stall or the bandwidth",
        view.remaining,
        show_duration(view.requirements.max_stall)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};
    use crate::requirements::Requirement;

    #[test]
    fn a_guest_that_dirties_all_again_is_paused_after_the_first_pass() {
        let mut view = view();
        view.requirements.give_way = vec![Requirement::MaxStall];
        let decision = PauseAndShip::default().decide(&view);
        assert_eq!(decision.finish, Some(Finish::Ship));
    }

    #[test]
    fn a_guest_that_lands_unaided_is_left_alone() {
        let mut view = view();
        view.requirements.give_way = vec![Requirement::MaxStall];
        view.last_sync = Some(interval(1000, 20, 100));
        assert_eq!(PauseAndShip::default().decide(&view).finish, None);
    }

    #[test]
    fn without_leave_to_stall_it_gives_up_with_the_remedy() {
        let (mut policy, mut view) = (PauseAndShip::default(), view());
        for n in 1..HOPELESS_SYNCS as u64 {
            view.syncs = n;
            assert_eq!(policy.decide(&view).finish, None);
        }
        view.syncs = HOPELESS_SYNCS as u64;
        let decision = policy.decide(&view);
        assert_eq!(decision.finish, Some(Finish::Cancel));
        assert!(decision.reason.contains("--give-way max-stall"), "{}", decision.reason);
    }
}
