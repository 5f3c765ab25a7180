//! The quota of the CFS bandwidth controller: how a share of a CPU becomes CPU time in a period.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units::Share;

/// A quota of CPU time in every period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// CPU time granted in a period.
    pub quota: Duration,
    /// The period.
    pub period: Duration,
}

impl Quota {
    /// Shortest and longest period the kernel takes (`kernel/sched/core.c`, `tg_set_cfs_bandwidth`).
    pub const PERIODS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

    /// Shortest period used: below it the share comes out several points too low
    /// (`docs/measurements/cgroup-v1-kernel-6.18.md`).
    pub const SHORTEST: Duration = Duration::from_millis(20);

    /// `quota` of CPU time in every `period`.
    pub const fn new(quota: Duration, period: Duration) -> Self {
        Quota { quota, period }
    }

    /// The quota that gives a share with the shortest gaps that can be relied on.
    ///
    /// A thread is charged at the scheduler's tick, so it overruns its quota by up to a `tick`. A
    /// quota below that is paid back in whole periods, which makes gaps several periods long; so
    /// no quota is below a tick, and the period is as short as that allows, because the period bounds
    /// the stall. `None` for a share so small that its longest gap would exceed `longest_gap`, or
    /// that needs a period beyond the kernel's.
    pub fn for_share(share: Share, longest_gap: Duration, tick: Duration) -> Option<Quota> {
        let share = share.get();
        if share <= 0.0 {
            return None;
        }
        let period = Self::SHORTEST.as_secs_f64().max(Self::least(tick).as_secs_f64() / share);
        if period > Self::PERIODS.1.as_secs_f64() {
            return None;
        }
        // The kernel counts whole microseconds; rounding up the quota keeps a floor a floor.
        let period = (period * 1e6).floor();
        let micros = |us: f64| Duration::from_micros(us as u64);
        let quota = Quota { quota: micros((period * share).ceil()), period: micros(period) };
        (share >= 1.0 || quota.longest_gap(tick) <= longest_gap).then_some(quota)
    }

    /// The smallest share that [`Quota::for_share`] can give with gaps of at most `longest_gap`.
    pub fn least_share(longest_gap: Duration, tick: Duration) -> Share {
        let gap = longest_gap.saturating_sub(tick);
        let least = Self::least(tick);
        let share = if gap + least <= Self::SHORTEST {
            1.0 - gap.as_secs_f64() / Self::SHORTEST.as_secs_f64()
        } else {
            let period = (gap + least).min(Self::PERIODS.1);
            least.as_secs_f64() / period.as_secs_f64()
        };
        // Slightly above, so that rounding to microseconds does not exceed the gap.
        Share::clamped(share * 1.0002)
    }

    /// The least quota asked for: a tick, and a little more, for at just a tick one gap in ten was
    /// seen to skip a period.
    pub(crate) fn least(tick: Duration) -> Duration {
        tick + tick / 4
    }

    /// The share of a CPU this leaves.
    pub fn share(self) -> Share {
        Share::clamped(self.quota.as_secs_f64() / self.period.as_secs_f64())
    }

    /// How long a thread that wants to run all the time stands still in every period.
    pub fn gap(self) -> Duration {
        self.period.saturating_sub(self.quota)
    }

    /// How long it may stand still at most: it pays back what it overran, up to a tick.
    pub fn longest_gap(self, tick: Duration) -> Duration {
        self.gap() + tick
    }
}

impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} per {:?}", self.quota, self.period)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TICK: Duration = Duration::from_millis(4);

    proptest! {
        #[test]
        fn a_quota_gives_the_share_asked_for_within_the_gap_and_the_kernels_limits(
            share in 0.001f64..1.0, gap_ms in 1u64..2000,
        ) {
            let gap = Duration::from_millis(gap_ms);
            if let Some(quota) = Quota::for_share(Share::clamped(share), gap, TICK) {
                prop_assert!((quota.share().get() - share).abs() < 1e-4);
                prop_assert!(quota.share().get() >= share);
                prop_assert!(quota.longest_gap(TICK) <= gap);
                prop_assert!(quota.quota >= TICK);
                prop_assert!(quota.period >= Quota::SHORTEST && quota.period <= Quota::PERIODS.1);
            } else {
                prop_assert!(share < Quota::least_share(gap, TICK).get() + 1e-6);
            }
        }

        #[test]
        fn the_least_share_of_a_gap_can_be_given(gap_ms in 1u64..2000, tick_ms in 1u64..=10) {
            let (gap, tick) = (Duration::from_millis(gap_ms), Duration::from_millis(tick_ms));
            let least = Quota::least_share(gap, tick);
            prop_assert!(Quota::for_share(least, gap, tick).is_some());
        }
    }

    #[test]
    fn no_share_at_all_is_not_a_quota() {
        assert_eq!(Quota::for_share(Share::NONE, Duration::from_secs(10), TICK), None);
    }
}
