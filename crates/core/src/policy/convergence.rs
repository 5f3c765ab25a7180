//! Whether less remains from one sync of the dirty bitmap to the next.

use crate::telemetry::view::View;
use crate::units::Bytes;

/// What a sync must leave less than the best one before to count as progress: a best that creeps down
/// by noise would keep a stuck migration going endlessly. KubeVirt's stall detection takes 4 %, which near
/// the fixed point of the passes is what noise makes: whether one pass more was taken was luck.
const MARGIN: f64 = 0.1;

/// What the first pass must leave less than it sent: a guest that dirtied four fifths of it meanwhile
/// will do so again. Not as little as between later syncs, for the first pass also sends what was
/// never going to be dirtied.
const FIRST_MARGIN: f64 = 0.2;

/// Follows the syncs of one migration.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ConvergenceTracker {
    seen: u64,
    best: Option<Bytes>,
    without_progress: u32,
}

/// What a sync showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Convergence {
    /// There was none since the last sample.
    None,
    /// Much less remains than at the best sync before.
    Progress,
    /// No less remains; this many in a row by now.
    Stuck(u32),
}

impl ConvergenceTracker {
    /// Takes in a view and says what is new in it.
    ///
    /// The first sync, at the end of the bulk pass, is progress if the guest dirtied a good deal less
    /// than was sent meanwhile.
    pub(super) fn on_view(&mut self, view: &View) -> Convergence {
        let Some(interval) = view.last_sync.filter(|_| view.syncs > self.seen) else {
            return Convergence::None;
        };
        self.seen = view.syncs;
        let to_beat = match self.best {
            Some(best) => best.as_f64() * (1.0 - MARGIN),
            None => interval.sent.as_f64() * (1.0 - FIRST_MARGIN),
        };
        if interval.remaining_after.as_f64() < to_beat {
            self.best = Some(interval.remaining_after);
            self.without_progress = 0;
            Convergence::Progress
        } else {
            // The best stays what it was: many small steps are progress as well, after a while.
            self.best.get_or_insert(interval.remaining_after);
            self.without_progress += 1;
            Convergence::Stuck(self.without_progress)
        }
    }

    /// How many syncs in a row have left not a good deal less than the best before them.
    pub(super) fn syncs_without_progress(&self) -> u32 {
        self.without_progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};

    #[test]
    fn the_same_amount_left_again_is_no_progress_and_less_is() {
        let (mut trend, mut view) = (ConvergenceTracker::default(), view());
        assert_eq!(trend.on_view(&view), Convergence::Stuck(1), "96 of 100 MB dirtied again");
        assert_eq!(trend.on_view(&view), Convergence::None, "no further sync");
        for (n, dirtied, expected) in [
            (2, 96, Convergence::Stuck(2)),
            (3, 60, Convergence::Progress),
            (4, 59, Convergence::Stuck(1)),
        ] {
            view.syncs = n;
            view.last_sync = Some(interval(1000 * n, dirtied, 100));
            assert_eq!(trend.on_view(&view), expected, "interval {n}");
        }
    }
}
