//! From measurements to ratios: what was dirtied against what the curve of the free guest says.

use landfall_core::model::{CurvePoint, DirtyCurve, fit};
use landfall_core::units::{Bytes, CpuTime, PAGE};
use landfall_sim::Spread;
use serde::Serialize;

use super::stage::{Means, StageObservation};
use super::synced::CpuShares;
use super::throttle::ThrottleKind;

/// Below this the grain of the kernel's counter (a tick, 4 ms at 250 Hz) is a tenth of the CPU time.
const LEAST_CPU: f64 = 0.04;

/// All that was measured on one guest.
#[derive(Debug, Clone, Serialize)]
pub struct MeasuredGuest {
    /// Its kind.
    pub kind: &'static str,
    /// In words.
    pub about: &'static str,
    /// What was seen.
    pub seen: Vec<StageObservation>,
    /// The curve through the points of the free guest, taken by sampling.
    pub curve: DirtyCurve,
    /// Its CPU while a migration ran.
    pub pace: CpuShares,
}

impl MeasuredGuest {
    /// Fits the curve.
    pub fn new(
        kind: &'static str,
        about: &'static str,
        seen: Vec<StageObservation>,
        pace: CpuShares,
    ) -> MeasuredGuest {
        let free: Vec<&StageObservation> = seen.iter().filter(|one| one.is_reference()).collect();
        MeasuredGuest { kind, about, curve: fit(&means(&free), None), seen, pace }
    }

    /// Measured over what the curve says for so much CPU time; `None` where it says nothing.
    pub fn ratio(&self, one: &StageObservation, cpu: CpuTime) -> Option<f64> {
        let due = self.curve.dirtied(cpu).as_f64();
        (due > 0.0 && cpu.0 > 0.0).then(|| one.dirtied.as_f64() / due)
    }

    /// The ratios of some of the measurements: by the kernel's CPU time, and by the guest's own count
    /// of its work.
    pub fn ratios(&self, of: impl Fn(&StageObservation) -> bool) -> Ratios {
        let chosen = || self.seen.iter().filter(|one| of(one));
        Ratios {
            by_cpu: RatioSpread::of(chosen().filter_map(|one| self.ratio(one, one.cpu))),
            by_work: RatioSpread::of(chosen().filter_map(|one| self.ratio(one, one.work))),
        }
    }

    /// What dirty logging cost, from all passes of the migration.
    pub fn logging(&self) -> Logging {
        let usable = |one: &&StageObservation| one.means == Means::Syncs && one.cpu.0 >= LEAST_CPU;
        let of = || self.seen.iter().filter(usable);
        let speed = RatioSpread::of(of().map(|one| one.work.0 / one.cpu.0));
        let cost = |one: &StageObservation| {
            (one.cpu.0 - one.work.0) / (one.dirtied.as_f64() / PAGE.as_f64()).max(1.0) * 1e6
        };
        Logging { speed, cost_us: RatioSpread::of(of().map(cost)) }
    }
}

/// A point for each span that was measured over, from all its rounds.
///
/// The mean, with the scatter of the rounds for its error. Each round by itself would claim the error
/// of its draw alone: where a guest works in phases, a round in a quiet one would claim to know that
/// little is dirtied, and have the whole curve go through it.
fn means(free: &[&StageObservation]) -> Vec<CurvePoint> {
    let mut spans: Vec<u128> = free.iter().map(|one| span_of(one)).collect();
    spans.sort_unstable();
    spans.dedup();
    let point = |span: u128| {
        let rounds: Vec<_> = free.iter().filter(|one| span_of(one) == span).collect();
        let count = rounds.len() as f64;
        let mean = |of: &dyn Fn(&StageObservation) -> f64| {
            rounds.iter().map(|one| of(one)).sum::<f64>() / count
        };
        let dirtied = mean(&|one| one.dirtied.as_f64());
        let scatter =
            mean(&|one| (one.dirtied.as_f64() - dirtied).powi(2)).sqrt() / dirtied.max(1.0);
        let error = scatter.hypot(mean(&|one| one.error)) / count.sqrt();
        CurvePoint { cpu: CpuTime(mean(&|one| one.cpu.0)), dirtied: Bytes(dirtied as u64), error }
    };
    spans.into_iter().map(point).collect()
}

/// Which span was asked for: a measurement is a few ms over it at most.
fn span_of(one: &StageObservation) -> u128 {
    one.wall.as_millis() / 25
}

impl StageObservation {
    /// Whether the curve was fitted to it.
    pub fn is_reference(&self) -> bool {
        self.means == Means::Sampling && self.hold.lever == ThrottleKind::Free
    }
}

/// Ratios of measured to expected.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Ratios {
    /// Against the curve at the CPU time that the kernel counted.
    pub by_cpu: Option<RatioSpread>,
    /// Against the curve at the CPU time that the guest's work takes undisturbed.
    pub by_work: Option<RatioSpread>,
}

/// What dirty logging does to a guest.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Logging {
    /// Work in a second of CPU time, of what it is without logging.
    pub speed: Option<RatioSpread>,
    /// CPU time lost for each page dirtied for the first time since a look at the bitmap, in us.
    pub cost_us: Option<RatioSpread>,
}

/// How some numbers lie.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RatioSpread {
    /// How many.
    pub count: usize,
    /// The one in the middle.
    pub median: f64,
    /// Nineteen of twenty are no farther from 1.
    pub p95_off: f64,
    /// The least and the most.
    pub range: (f64, f64),
}

impl RatioSpread {
    /// Of the finite ones; `None` where there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<RatioSpread> {
        let values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
        let count = values.len();
        let Spread { low, median, high } = Spread::of(values.iter().copied())?;
        let mut off: Vec<f64> = values.iter().map(|value| (value - 1.0).abs()).collect();
        off.sort_by(f64::total_cmp);
        let p95_off = off[((count as f64 * 0.95).ceil() as usize).clamp(1, count) - 1];
        Some(RatioSpread { count, median, p95_off, range: (low, high) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_of_no_numbers_is_not_known_and_that_of_one_is_itself() {
        assert_eq!(RatioSpread::of([f64::NAN].into_iter()), None);
        let one = RatioSpread::of([1.5].into_iter()).unwrap();
        assert_eq!((one.median, one.p95_off, one.range), (1.5, 0.5, (1.5, 1.5)));
    }
}
