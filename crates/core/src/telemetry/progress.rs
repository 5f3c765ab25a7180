//! How far a migration is, for people: a percentage that never runs backwards, and the time left.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::Hold;
use crate::telemetry::view::{Phase, View};
use crate::units::{ByteRate, Bytes, Moment, Share};

/// Share of the bar that the first pass fills; the later passes share the rest. What a later pass
/// sends is not known beforehand, so the bar has to leave room for it.
const FIRST_PASS: f64 = 0.7;

/// Follows one migration.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    highest: f64,
    least_left: Option<Bytes>,
}

impl Progress {
    /// Share done, 0 to 1. Never less than before; 1 only when it is over.
    ///
    /// The first pass goes by what has been sent of all memory, the later ones by the least that
    /// ever remained: a sync that finds more dirty memory does not take anything back.
    pub fn fraction(&mut self, view: &View) -> f64 {
        let total = view.total.as_f64().max(1.0);
        let now = match view.phase {
            Phase::Setup => 0.0,
            Phase::FirstPass => {
                FIRST_PASS * (1.0 - view.remaining.as_f64() / total).clamp(0.0, 1.0)
            }
            Phase::Iterating => {
                let least = self.least_left.map_or(view.remaining, |left| left.min(view.remaining));
                self.least_left = Some(least);
                FIRST_PASS + 0.25 * (1.0 - least.as_f64() / total).clamp(0.0, 1.0)
            }
            Phase::SwitchOver | Phase::PostCopy => 0.97,
            Phase::Over => 1.0,
        };
        self.highest = self.highest.max(now);
        self.highest
    }
}

/// How far a migration is at one sample, for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressSnapshot {
    /// When.
    pub at: Moment,
    /// The phase.
    pub phase: Phase,
    /// Share of the migration that is done, 0 to 1; never less than before.
    pub done: f64,
    /// Pages known dirty and not yet sent.
    pub remaining: Bytes,
    /// Time until the end at these rates.
    pub time_left: Option<Duration>,
    /// The tightest hold in force.
    pub held_to: Option<Share>,
    /// Rate at which the guest dirtied memory in the last interval.
    pub dirty_rate: Option<ByteRate>,
    /// Rate at which guest pages leave.
    pub link: Option<ByteRate>,
    /// The reason of the last decision.
    #[serde(rename = "why")]
    pub reason: String,
}

impl ProgressSnapshot {
    /// Makes a snapshot of a view.
    pub fn of(view: &View, done: f64, time_left: Option<Duration>, why: &str) -> ProgressSnapshot {
        ProgressSnapshot {
            at: view.now,
            phase: view.phase,
            done,
            remaining: view.remaining,
            time_left,
            held_to: tightest_hold(view),
            dirty_rate: view.dirty_rate(),
            link: view.link,
            reason: why.to_owned(),
        }
    }
}

/// The tightest hold in force.
pub fn tightest_hold(view: &View) -> Option<Share> {
    let held = view.vcpus.iter().map(|vcpu| vcpu.hold).filter(|hold| *hold != Hold::Free);
    held.map(Hold::share).reduce(Share::min)
}

/// Time until the end if the dirty rate and the link stay as they are; `None` where the rates are
/// not known yet or it does not converge at these rates.
pub fn time_left(view: &View) -> Option<Duration> {
    let link = view.link?;
    let to_send = (view.remaining / link)?;
    match view.phase {
        Phase::SwitchOver | Phase::PostCopy => Some(to_send),
        Phase::FirstPass | Phase::Iterating => {
            // Passes shrink by the ratio of the rates: a geometric series down to what fits the stall.
            let ratio = view.dirty_rate().map_or(Some(0.0), |dirty| dirty / link)?;
            if ratio >= 1.0 {
                return None;
            }
            let fits = link.over(view.requirements.max_stall).as_f64();
            let left = (view.remaining.as_f64() - fits).max(0.0) / link.0 / (1.0 - ratio);
            Duration::try_from_secs_f64(left).ok()
        }
        Phase::Setup | Phase::Over => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_percentage_never_runs_backwards(
            looks in prop::collection::vec((0..6usize, 0u64..400_000_000), 1..50)
        ) {
            let phases = [Phase::Setup, Phase::FirstPass, Phase::Iterating, Phase::SwitchOver, Phase::PostCopy, Phase::Over];
            let mut progress = Progress::default();
            let mut last = 0.0;
            for (phase, remaining) in looks {
                let mut view = view();
                (view.phase, view.remaining) = (phases[phase], Bytes(remaining));
                let share = progress.fraction(&view);
                prop_assert!(share >= last && share <= 1.0);
                last = share;
            }
        }
    }

    #[test]
    fn no_time_left_is_named_where_it_does_not_converge() {
        let mut view = view();
        view.last_sync = Some(interval(1000, 120, 100));
        assert_eq!(time_left(&view), None);
        view.last_sync = Some(interval(1000, 50, 100));
        let left = time_left(&view).unwrap().as_secs_f64();
        assert!((left - (0.96 - 0.3) / 0.5).abs() < 0.01, "{left}");
    }
}
