//! A vCPU that runs and stands still by turns, in closed form.
//!
//! A quota lets it run for so long in every period; auto-converge lets it run for 10 ms and makes it
//! sleep. What is used by any moment is a formula, so nothing has to be stepped through.
//! All times here are seconds since the start of the migration.

/// Runs for `on`, stands still for `off`, and so on from `since`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Duty {
    since: f64,
    on: f64,
    off: f64,
    /// CPU seconds per second while it runs.
    rate: f64,
}

impl Duty {
    /// Never stands still.
    pub(crate) fn free(since: f64, rate: f64) -> Duty {
        Duty { since, on: f64::INFINITY, off: 0.0, rate }
    }

    /// Runs first.
    pub(crate) fn run_first(since: f64, on: f64, off: f64, rate: f64) -> Duty {
        Duty { since, on, off, rate }
    }

    /// Stands still first.
    pub(crate) fn sleep_first(since: f64, on: f64, off: f64, rate: f64) -> Duty {
        Duty { since: since - on, on, off, rate }
    }

    /// Whole cycles until `t`, and the time since the last of them.
    fn position(&self, t: f64) -> (f64, f64) {
        let elapsed = t - self.since;
        let cycle = self.on + self.off;
        if !cycle.is_finite() {
            return (0.0, elapsed);
        }
        // A moment a rounding error before a boundary is at it: events are planned for boundaries.
        let cycles = (elapsed / cycle + 1e-9) as u64 as f64;
        (cycles, (elapsed - cycles * cycle).max(0.0))
    }

    /// CPU seconds from the beginning of the first cycle until `t`.
    pub(crate) fn used(&self, t: f64) -> f64 {
        let (cycles, rest) = self.position(t);
        if cycles == 0.0 {
            return rest.min(self.on) * self.rate;
        }
        (cycles * self.on + rest.min(self.on)) * self.rate
    }

    /// Gaps that have ended by `t`.
    pub(crate) fn gaps(&self, t: f64) -> f64 {
        self.position(t).0
    }

    /// How long a gap is.
    pub(crate) fn gap(&self) -> f64 {
        self.off
    }

    /// How long it has stood still at `t`; 0 while it runs.
    pub(crate) fn still(&self, t: f64) -> f64 {
        (self.position(t).1 - self.on).max(0.0)
    }

    /// When it runs next: `t` itself, or the end of the gap.
    pub(crate) fn runs_next(&self, t: f64) -> f64 {
        let (_, rest) = self.position(t);
        if rest < self.on { t } else { t + (self.on + self.off - rest) }
    }

    /// Most of its CPU that it gets in the long run, as a rate.
    pub(crate) fn mean(&self) -> f64 {
        if self.on.is_infinite() { self.rate } else { self.rate * self.on / (self.on + self.off) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_formula_gives_what_stepping_through_gives(
            on in 0.001f64..0.1, off in 0.001f64..1.0, rate in 0.1f64..4.0, until in 0.0f64..3.0,
        ) {
            let duty = Duty::run_first(0.0, on, off, rate);
            let (mut t, mut used, mut gaps) = (0.0, 0.0, 0.0);
            while t < until {
                used += rate * on.min(until - t);
                t += on + off;
                if t <= until { gaps += 1.0 }
            }
            prop_assert!((duty.used(until) - used).abs() < 1e-6);
            prop_assert!((duty.gaps(until) - gaps).abs() < 1e-9);
        }
    }

    #[test]
    fn a_sleeper_sleeps_before_it_runs() {
        let duty = Duty::sleep_first(1.0, 0.010, 0.990, 1.0);
        let used = |t| duty.used(t) - duty.used(1.0);
        assert!(used(1.99).abs() < 1e-9);
        assert!((used(2.0) - 0.010).abs() < 1e-9);
        assert!((duty.still(1.5) - 0.5).abs() < 1e-9);
        assert!((duty.runs_next(1.5) - 1.99).abs() < 1e-9);
    }
}
