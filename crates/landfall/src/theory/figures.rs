//! From measurements to ratios: what was dirtied against what the curve of the free guest says.

use landfall_core::curve::{CpuTime, DirtyCurve, Point, fit};
use landfall_core::units::PAGE;
use serde::Serialize;

use super::hold::{Hold, Lever};
use super::stage::{Means, Observation};
use super::synced::Pace;

/// Below this the grain of the kernel's counter (a tick, 4 ms at 250 Hz) is a tenth of the CPU time.
const LEAST_CPU: f64 = 0.04;

/// All that was measured on one guest.
#[derive(Debug, Clone, Serialize)]
pub struct Guest {
    /// Its kind.
    pub kind: &'static str,
    /// In words.
    pub about: &'static str,
    /// What was seen.
    pub seen: Vec<Observation>,
    /// The curve through the points of the free guest, taken by sampling.
    pub curve: DirtyCurve,
    /// Its CPU while a migration ran.
    pub pace: Pace,
}

impl Guest {
    /// Fits the curve.
    pub fn new(
        kind: &'static str,
        about: &'static str,
        seen: Vec<Observation>,
        pace: Pace,
    ) -> Guest {
        let free = seen.iter().filter(|one| one.is_reference());
        let point =
            |one: &Observation| Point { cpu: one.cpu, dirtied: one.dirtied, error: one.error };
        let points: Vec<Point> = free.map(point).collect();
        Guest { kind, about, curve: fit(&points), seen, pace }
    }

    /// Measured over what the curve says for so much CPU time; `None` where it says nothing.
    pub fn ratio(&self, one: &Observation, cpu: CpuTime) -> Option<f64> {
        let due = self.curve.dirtied(cpu).as_f64();
        (due > 0.0 && cpu.0 > 0.0).then(|| one.dirtied.as_f64() / due)
    }

    /// The ratios of some of the measurements: by the kernel's CPU time, and by the guest's own count
    /// of its work.
    pub fn ratios(&self, of: impl Fn(&Observation) -> bool) -> Ratios {
        let chosen = || self.seen.iter().filter(|one| of(one));
        Ratios {
            by_cpu: Spread::of(chosen().filter_map(|one| self.ratio(one, one.cpu))),
            by_work: Spread::of(chosen().filter_map(|one| self.ratio(one, one.work))),
        }
    }

    /// What dirty logging cost, from the passes without a hold.
    pub fn logging(&self) -> Logging {
        let usable = |one: &&Observation| {
            one.means == Means::Syncs && one.cpu.0 >= LEAST_CPU && one.hold == Hold::FREE
        };
        let of = || self.seen.iter().filter(usable);
        let speed = Spread::of(of().map(|one| one.work.0 / one.cpu.0));
        let cost = |one: &Observation| {
            (one.cpu.0 - one.work.0) / (one.dirtied.as_f64() / PAGE.as_f64()).max(1.0) * 1e6
        };
        Logging { speed, cost_us: Spread::of(of().map(cost)) }
    }
}

impl Observation {
    /// Whether the curve was fitted to it.
    pub fn is_reference(&self) -> bool {
        self.means == Means::Sampling && self.hold.lever == Lever::Free
    }
}

/// Ratios of measured to expected.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// Against the curve at the CPU time that the kernel counted.
    pub by_cpu: Option<Spread>,
    /// Against the curve at the CPU time that the guest's work takes undisturbed.
    pub by_work: Option<Spread>,
}

/// What dirty logging does to a guest.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Logging {
    /// Work in a second of CPU time, of what it is without logging.
    pub speed: Option<Spread>,
    /// CPU time lost for each page dirtied for the first time since a look at the bitmap, in us.
    pub cost_us: Option<Spread>,
}

/// How some numbers lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many.
    pub count: usize,
    /// The one in the middle.
    pub median: f64,
    /// Nineteen of twenty are no farther from 1.
    pub p95_off: f64,
    /// The least and the most.
    pub range: (f64, f64),
}

impl Spread {
    /// Of the finite ones; `None` where there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Spread> {
        let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let count = values.len();
        let median = (values[(count - 1) / 2] + values[count / 2]) / 2.0;
        let mut off: Vec<f64> = values.iter().map(|value| (value - 1.0).abs()).collect();
        off.sort_by(f64::total_cmp);
        let p95_off = off[((count as f64 * 0.95).ceil() as usize).clamp(1, count) - 1];
        Some(Spread { count, median, p95_off, range: (least, most) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_no_numbers_is_not_known_and_that_of_one_is_itself() {
        assert_eq!(Spread::of([f64::NAN].into_iter()), None);
        let one = Spread::of([1.5].into_iter()).unwrap();
        assert_eq!((one.median, one.p95_off, one.range), (1.5, 0.5, (1.5, 1.5)));
    }
}
