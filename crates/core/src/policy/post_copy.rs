//! One pass of pre-copy, then let the guest run at the destination and fetch its pages on demand.

use super::convergence::{Convergence, ConvergenceTracker};
use super::{Needs, Policy};
use crate::decision::{Decision, Finish};
use crate::telemetry::view::{Phase, View};
use crate::units::Moment;

/// Changes over to post-copy once pre-copy makes no progress. It ends in bounded time whatever the
/// guest does; it costs a slow guest while pages are fetched, and the guest itself if the link is
/// lost, so it runs only with `--post-copy allow`.
#[derive(Debug, Clone, Copy, Default)]
pub struct PostCopy {
    convergence: ConvergenceTracker,
    stuck: bool,
}

impl Policy for PostCopy {
    fn name(&self) -> &'static str {
        "post-copy"
    }

    fn needs(&self) -> Needs {
        Needs { post_copy: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        if view.phase != Phase::Iterating {
            return Decision::leave_alone("nothing to decide in this phase");
        }
        match self.convergence.on_view(view) {
            Convergence::Stuck(_) => self.stuck = true,
            Convergence::Progress => self.stuck = false,
            Convergence::None => {}
        }
        if self.stuck {
            Decision::finish(Finish::PostCopy, "what remains gets no less: on to post-copy")
        } else {
            Decision::leave_alone("what remains gets less by itself")
        }
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        (!self.stuck).then_some(Moment::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};

    #[test]
    fn pre_copy_goes_on_while_it_makes_progress() {
        let (mut policy, mut view) = (PostCopy::default(), view());
        view.last_sync = Some(interval(1000, 20, 100));
        assert_eq!(policy.decide(&view).finish, None);
        (view.syncs, view.last_sync) = (2, Some(interval(2000, 20, 20)));
        assert_eq!(policy.decide(&view).finish, Some(Finish::PostCopy));
    }
}
