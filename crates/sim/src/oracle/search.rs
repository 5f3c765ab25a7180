//! The best of a family of plans, each tried on the run itself: free until a moment, then held
//! to a share until what is left fits the stall; or, where any stall is allowed, stopped at that moment.
//! First over the whole range, then more finely around the best.

use std::time::Duration;

use landfall_core::decision::{Decision, Finish, Hold, Tuning};
use landfall_core::planner::{Constraints, PlanInputs};
use landfall_core::policy::{Needs, Policy};
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::{ByteRate, Moment, Share};

use super::kept;
use crate::rng::Seed;
use crate::run::{Setup, run};

/// Longest wait, as a multiple of the time that sending everything once takes: more gains nothing.
const PATIENCE: f64 = 4.0;

/// Moments and shares that are tried all over.
const MOMENTS: u32 = 32;
const SHARES: u32 = 5;

/// Each of so many rounds about the best halves the distance to its neighbours.
const ROUNDS: u32 = 4;

/// Seconds of CPU that the best of the plans loses; `None` where none lands within what is allowed.
pub(super) fn least(
    setup: &Setup,
    terms: &PlanInputs,
    allowed: &Constraints,
    seed: Seed,
) -> Option<f64> {
    let lost = |from: f64, depth: f64| {
        let mut plan = Clairvoyant::new(from, depth, terms, allowed);
        kept(&run(setup, &mut plan, seed), allowed)
    };
    let end = PATIENCE * setup.guest.contents.as_f64() / terms.link.0;
    // Where any stall will do nothing is held.
    let depths = if allowed.max_stall.is_some() { SHARES } else { 0 };
    let mut best: Option<(f64, f64, f64)> = None;
    let attempt = |best: &mut Option<(f64, f64, f64)>, from: f64, depth: f64| {
        if let Some(lost) = lost(from, depth)
            && best.is_none_or(|(least, ..)| lost < least)
        {
            *best = Some((lost, from, depth));
        }
    };
    for depth in (0..=depths).map(|n| f64::from(n) / f64::from(depths.max(1))) {
        for n in 0..=MOMENTS {
            attempt(&mut best, end * f64::from(n) / f64::from(MOMENTS), depth);
        }
    }
    let (mut step, mut deeper) = (end / f64::from(MOMENTS), 1.0 / f64::from(SHARES));
    for _ in 0..ROUNDS {
        (step, deeper) = (step / 2.0, deeper / 2.0);
        let (_, from, depth) = best?;
        for (off, more) in [(-step, 0.0), (step, 0.0), (0.0, -deeper), (0.0, deeper)] {
            let (from, depth) = (from + off, depth + more);
            if from >= 0.0 && (0.0..=1.0).contains(&depth) && (more == 0.0 || depths > 0) {
                attempt(&mut best, from, depth);
            }
        }
    }
    best.map(|(lost, ..)| lost)
}

/// One of the plans that are tried.
#[derive(Debug)]
struct Clairvoyant {
    from: Moment,
    share: Share,
    /// Longest stall; `None` where any will do.
    stall: Option<Duration>,
}

/// The downtime limit under which QEMU lets every pass run to its end.
const WHOLE_PASSES: Duration = Duration::from_millis(1);

/// Part of the link's rate at which its buffers stay empty.
const UNHURRIED: f64 = 0.9;

/// Least share that is tried, of what the guest wants.
const LEAST: f64 = 1e-3;

impl Clairvoyant {
    /// Holds from so many seconds on: not at all at a depth of 0, as tight as may be at 1.
    fn new(from: f64, depth: f64, terms: &PlanInputs, allowed: &Constraints) -> Clairvoyant {
        let least = (terms.floor.0 / terms.cpu_demand.0).max(LEAST);
        Clairvoyant {
            from: Moment(Duration::try_from_secs_f64(from).unwrap_or_default()),
            share: Share::clamped(least.powf(depth)),
            stall: allowed.max_stall,
        }
    }
}

impl Policy for Clairvoyant {
    fn name(&self) -> &'static str {
        "clairvoyant"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        let with = |hold, tuning| Decision {
            tuning,
            ..Decision::hold_all(view.vcpus.len(), hold, "as planned")
        };
        let whole = Tuning { downtime_limit: Some(WHOLE_PASSES), ..Tuning::default() };
        if view.now < self.from {
            return with(Hold::Free, whole);
        }
        let Some(stall) = self.stall else {
            return match view.phase {
                Phase::Iterating => Decision::finish(Finish::Ship, "as planned"),
                _ => with(Hold::Free, whole),
            };
        };
        // QEMU's own rule lands it as soon as what is left fits.
        let tuning = Tuning {
            downtime_limit: Some(stall.mul_f64(UNHURRIED)),
            max_bandwidth: view.link.map(|link| ByteRate(link.0 * UNHURRIED)),
            ..Tuning::default()
        };
        let share = match self.share.get() {
            share if share >= 1.0 => Hold::Free,
            _ => view.quota_for(self.share).map_or(Hold::Free, Hold::Quota),
        };
        with(share, tuning)
    }
}
