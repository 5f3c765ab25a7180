//! The proposal of the 2015 thread (qemu-devel, March 2015, "Migration auto-converge problem").
//!
//! > We could start with no throttle and see how far we get, then progressively apply a tighter
//! > grip on the VM until we make satisfactory progress, then continue on until we hit our "Just
//! > pause it and ship the rest" threshold.
//! >
//! > That way we allow ourselves the ability to throttle very naughty guests very aggressively (To
//! > the point of effectively even paused) without disturbing the niceness of our largely idle
//! > guests.
//!
//! Progress is a good deal less left after a sync than at the best before. Each sync without progress
//! tightens the grip by a factor; a guest that calms down gets a looser one back; when the next grip would
//! be tighter than the threshold, the guest is paused and the rest shipped. `--min-cpu` is the
//! user's say in how far throttling may go.

use super::convergence::{Convergence, ConvergenceTracker};
use super::pause_and_ship::{HOPELESS_SYNCS, cannot_ship};
use super::{Needs, Policy};
use crate::decision::{Decision, Finish, Hold};
use crate::telemetry::view::{Phase, View};
use crate::units::{Moment, Share};

/// The "just pause it" threshold: holding a guest tighter than this is a pause in all but name, and
/// loses more work than one.
const PAUSE_BELOW: f64 = 0.05;

/// A looser grip is given back when, even if the guest's dirty rate rose in proportion, a pass would
/// leave at most this much of what it set out to send.
const CALM: f64 = 0.5;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Progressive {
    convergence: ConvergenceTracker,
    grip: Share,
    stuck_at_tightest: u32,
}

impl Default for Progressive {
    fn default() -> Self {
        Progressive {
            convergence: ConvergenceTracker::default(),
            grip: Share::FULL,
            stuck_at_tightest: 0,
        }
    }
}

impl Policy for Progressive {
    fn name(&self) -> &'static str {
        "progressive"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        if view.phase != Phase::Iterating {
            return Decision::leave_alone("the first pass goes on with the guest at full speed");
        }
        match self.convergence.on_view(view) {
            Convergence::None => self.hold(view, "as before"),
            Convergence::Progress => self.progress(view),
            Convergence::Stuck(_) => self.stuck(view),
        }
    }

    fn valid_until(&self, _: &View) -> Option<Moment> {
        Some(Moment::NEVER)
    }
}

impl Progressive {
    fn progress(&mut self, view: &View) -> Decision {
        self.stuck_at_tightest = 0;
        let looser = self.grip.get() / factor(view);
        if self.grip == Share::FULL || !calm(view, looser / self.grip.get()) {
            return self.hold(view, "what remains gets less");
        }
        self.grip = Share::clamped(looser);
        self.hold(view, "the guest has calmed down: a looser grip")
    }

    fn stuck(&mut self, view: &View) -> Decision {
        let tighter = Share::clamped(self.grip.get() * factor(view));
        let tightest = view.tightest_share();
        let pause_now = tighter.get() < PAUSE_BELOW || tighter < tightest;
        if pause_now && view.fits_downtime() {
            self.grip = Share::FULL;
            return Decision::finish(
                Finish::Ship,
                "no grip above the threshold makes progress: pausing to ship the rest",
            );
        }
        if self.grip > tightest {
            self.grip = tighter.max(tightest);
            return self.hold(view, "what remains gets no less: a tighter grip");
        }
        self.stuck_at_tightest += 1;
        if self.stuck_at_tightest < HOPELESS_SYNCS {
            return self.hold(view, "no less remains even with the tightest grip");
        }
        Decision::finish(
            Finish::Cancel,
            format!("the tightest grip is {tightest}; {}", cannot_ship(view)),
        )
    }

    fn hold(&self, view: &View, why: &str) -> Decision {
        let hold = view.quota_for(self.grip).map_or(Hold::Free, Hold::Quota);
        Decision::hold_all(view.vcpus.len(), hold, format!("{why} (grip {})", self.grip))
    }
}

/// How much of the grip is left after a tightening: half at aggression 0, an eighth at 1.
fn factor(view: &View) -> f64 {
    0.5f64.powf(1.0 + 2.0 * view.aggression.get())
}

/// Whether a grip looser by `ratio` would still leave a pass with much less than it sent, on the
/// pessimistic assumption that the dirty rate rises in proportion to the CPU (a real curve is
/// concave, so it rises less).
fn calm(view: &View, ratio: f64) -> bool {
    let (Some(dirty), Some(link)) = (view.dirty_rate(), view.link) else { return false };
    (dirty / link).is_some_and(|share_of_link| share_of_link * ratio <= CALM)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};
    use crate::requirements::Requirement;
    use crate::units::Bytes;

    /// Feeds syncs that each found so many MB dirty (of 100 MB sent) and lists the grips, a pause
    /// as 0 and a cancellation as -1.
    fn grips(view: &mut View, dirtied_mb: &[u64]) -> Vec<f64> {
        let mut policy = Progressive::default();
        let mut decide = |(n, &mb): (usize, &u64)| {
            view.syncs = n as u64 + 1;
            view.last_sync = Some(interval(1000 * (n as u64 + 1), mb, 100));
            view.remaining = Bytes(mb * 1_000_000);
            let decision = policy.decide(view);
            match decision.finish {
                None => decision.hold(0).share().get(),
                Some(Finish::Ship) => 0.0,
                Some(_) => -1.0,
            }
        };
        dirtied_mb.iter().enumerate().map(&mut decide).collect()
    }

    #[test]
    fn a_guest_that_makes_progress_is_never_gripped() {
        assert_eq!(grips(&mut view(), &[75, 60, 40, 20]), [1.0; 4]);
    }

    #[test]
    fn a_pathological_guest_is_gripped_tighter_and_then_paused() {
        let mut view = view();
        view.requirements.give_way = vec![Requirement::MaxStall];
        assert_eq!(grips(&mut view, &[96, 96, 96]), [0.25, 0.0625, 0.0]);
    }

    #[test]
    fn without_leave_to_stall_it_tries_the_tightest_grip_and_then_gives_up() {
        let shares = grips(&mut view(), &[96; 8]);
        let tightest = view().tightest_share().get();
        assert_eq!(shares[..2], [0.25, 0.0625]);
        assert!((shares[2] - tightest).abs() < 1e-6, "{shares:?}");
        assert_eq!(shares[5], -1.0, "{shares:?}");
    }

    #[test]
    fn a_guest_that_calms_down_gets_its_cpu_back() {
        let shares = grips(&mut view(), &[96, 96, 12, 5]);
        assert_eq!(shares, [0.25, 0.0625, 0.25, 1.0]);
    }

    #[test]
    fn the_floor_bounds_the_grip() {
        let mut view = view();
        view.requirements.min_cpu = Share::clamped(0.2);
        let shares = grips(&mut view, &[96; 4]);
        assert_eq!(shares[0], 0.25);
        assert!(shares[1..].iter().all(|share| (share - 0.2).abs() < 1e-3), "{shares:?}");
    }

    #[test]
    fn where_the_vcpus_cannot_be_held_it_goes_straight_to_the_pause() {
        let mut view = view();
        view.levers.quota = false;
        view.requirements.give_way = vec![Requirement::MaxStall];
        assert_eq!(grips(&mut view, &[96]), [0.0]);
    }
}
