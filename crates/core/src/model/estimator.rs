//! Keeps the estimate of a guest's curve up to date: takes in each new point, drops old ones, and
//! drops all when the guest starts to write in another way.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::fit::log_ratio;
use super::{CurvePoint, DirtyCurve, fit};
use crate::model::prior::Prior;
use crate::units::Bytes;

/// What is known of a guest's curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The likeliest curve.
    pub curve: DirtyCurve,
    /// Its relative standard error where it was measured.
    pub error: f64,
    /// How many points it is made of.
    pub points: usize,
    /// How often the guest was found to write in another way.
    pub changes: u32,
}

/// Makes estimates of points.
#[derive(Debug, Clone, Default)]
pub struct Estimator {
    points: VecDeque<CurvePoint>,
    changes: u32,
    measured: bool,
    /// All the memory the guest writes, if that is known.
    most: Option<Bytes>,
    /// The fit of the present points: the most expensive step of a sample, so it is kept.
    current: Option<Estimate>,
}

/// Points kept in all, and of about the same CPU time. Near its threshold QEMU syncs its bitmap twenty
/// times a second; those points of short times must not displace the points of long ones.
const KEPT: usize = 16;
const KEPT_ALIKE: usize = 3;

/// CPU times that are less than so many times apart are about the same.
const NEAR_RATIO: f64 = 2.0;

/// A curve can be relied on at times that are less than so many times apart from a measured one.
const NEAR: f64 = 3.0;

/// A measurement this many standard errors off means that the guest writes in another way.
const SURPRISE: f64 = 4.0;

/// A point of before the migration was measured while no dirty log was kept, by sampling; it gives
/// way to those of the migration itself (`docs/theory.md`).
const BEFORE: f64 = 0.08;

/// The least relative error of a curve: no guest stays quite the same.
const LEAST_ERROR: f64 = 0.02;

/// Factors by which the error of a point grows with every later one: more where the later one is of the
/// same times.
const AGEING: f64 = 1.05;
const AGEING_ALIKE: f64 = 1.5;

impl Estimator {
    /// Starts with the prior.
    pub fn new(prior: &Prior) -> Estimator {
        let before = |point: &CurvePoint| CurvePoint { error: point.error.hypot(BEFORE), ..*point };
        let points: VecDeque<CurvePoint> = prior.points.iter().map(before).collect();
        // Memory without contents was never written, and probably is not now.
        let written = points.iter().map(|point| point.dirtied).max().unwrap_or_default();
        let most = prior.contents.map(|contents| contents.max(written));
        let mut estimator = Estimator { points, most, ..Estimator::default() };
        estimator.current = estimator.fitted();
        estimator
    }

    /// Takes in a point that a sync of the migration has shown.
    pub fn add_point(&mut self, point: CurvePoint) {
        if let Some(surprise) = self.surprise(&point)
            && surprise > SURPRISE
        {
            self.points.clear();
            self.changes += 1;
        }
        let alike = |old: &CurvePoint| log_ratio(old.cpu, point.cpu) < NEAR_RATIO;
        for old in &mut self.points {
            old.error *= if alike(old) { AGEING_ALIKE } else { AGEING };
        }
        let crowded = self.points.iter().filter(|old| alike(old)).count() >= KEPT_ALIKE;
        let oldest = self.points.iter().position(alike).filter(|_| crowded);
        if let Some(oldest) = oldest {
            self.points.remove(oldest);
        } else if self.points.len() >= KEPT {
            self.points.pop_front();
        }
        self.points.push_back(point);
        self.measured = true;
        self.most = self.most.map(|most| most.max(point.dirtied));
        self.current = self.fitted();
    }

    /// How many standard errors a point is off the curve; `None` where the curve was never measured near
    /// it.
    fn surprise(&self, point: &CurvePoint) -> Option<f64> {
        let near = |known: &CurvePoint| log_ratio(known.cpu, point.cpu) < NEAR;
        if !self.measured || !self.points.iter().any(near) {
            return None;
        }
        let now = self.current.as_ref()?;
        let (expected, found) = (now.curve.dirtied_bytes(point.cpu.0), point.dirtied.as_f64());
        let scale = expected.max(found).max(1e6);
        Some((found - expected).abs() / scale / now.error.hypot(point.error).hypot(BEFORE))
    }

    /// The present estimate; `None` before the first point.
    pub fn estimate(&self) -> Option<Estimate> {
        self.current.clone()
    }

    fn fitted(&self) -> Option<Estimate> {
        if self.points.is_empty() {
            return None;
        }
        let points: Vec<CurvePoint> = self.points.iter().copied().collect();
        let curve = fit(&points, self.most);
        let error = spread(&curve, &points);
        Some(Estimate { curve, error, points: points.len(), changes: self.changes })
    }
}

/// How far the points lie from the curve, weighted by how sure they are, and never less than what
/// they themselves admit, for a curve can go through few points exactly.
fn spread(curve: &DirtyCurve, points: &[CurvePoint]) -> f64 {
    let (mut weights, mut off) = (0.0, 0.0);
    for point in points {
        let found = point.dirtied.as_f64().max(1e6);
        let residual = (curve.dirtied_bytes(point.cpu.0) - point.dirtied.as_f64()) / found;
        let weight = 1.0 / (point.error * point.error).max(1e-6);
        weights += weight;
        off += weight * residual * residual;
    }
    (off / weights).sqrt().hypot((1.0 / weights).sqrt()).max(LEAST_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Component;
    use crate::units::CpuTime;

    #[test]
    fn many_looks_at_short_times_do_not_drive_out_what_is_known_of_long_ones() {
        let (truth, mut estimator) = (guest(100), Estimator::default());
        estimator.add_point(point(&truth, 4.0));
        for _ in 0..40 {
            estimator.add_point(point(&truth, 0.05));
        }
        let off = estimator.estimate().unwrap().curve.dirtied_bytes(4.0) / truth.dirtied_bytes(4.0);
        assert!((0.9..1.1).contains(&off), "{off}");
    }

    fn guest(mib: u64) -> DirtyCurve {
        DirtyCurve::new([Component { set: Bytes::mib(mib), time: CpuTime(1.0) }])
    }

    fn point(of: &DirtyCurve, cpu: f64) -> CurvePoint {
        CurvePoint { cpu: CpuTime(cpu), dirtied: of.dirtied(CpuTime(cpu)), error: 0.03 }
    }

    #[test]
    fn each_point_makes_it_surer() {
        let (truth, mut estimator) = (guest(100), Estimator::default());
        assert_eq!(estimator.estimate(), None);
        let mut errors = Vec::new();
        for cpu in [2.0, 1.0, 0.5, 0.3] {
            estimator.add_point(point(&truth, cpu));
            errors.push(estimator.estimate().unwrap().error);
        }
        assert!(errors[3] < errors[0], "{errors:?}");
        let found = estimator.estimate().unwrap();
        assert_eq!(found.changes, 0);
        let off = found.curve.dirtied_bytes(0.7) / truth.dirtied_bytes(0.7);
        assert!((0.93..1.07).contains(&off), "{off}");
    }

    #[test]
    fn a_guest_that_changes_its_ways_is_learnt_anew() {
        let (busy, quiet, mut estimator) = (guest(100), guest(10), Estimator::default());
        for cpu in [2.0, 1.0, 0.5] {
            estimator.add_point(point(&busy, cpu));
        }
        estimator.add_point(point(&quiet, 0.4));
        let found = estimator.estimate().unwrap();
        assert_eq!((found.changes, found.points), (1, 1));
        let off = found.curve.dirtied_bytes(0.4) / quiet.dirtied_bytes(0.4);
        assert!((0.9..1.1).contains(&off), "{off}");
    }

    #[test]
    fn what_was_sampled_before_gives_way_to_what_the_migration_shows() {
        let (sampled, truth) = (guest(120), guest(100));
        let before: Vec<CurvePoint> = [0.1, 0.5, 2.0].map(|cpu| point(&sampled, cpu)).to_vec();
        let mut estimator = Estimator::new(&Prior { points: before, ..Prior::default() });
        for cpu in [2.0, 1.0, 0.6] {
            estimator.add_point(point(&truth, cpu));
        }
        let off = estimator.estimate().unwrap().curve.dirtied_bytes(1.0) / truth.dirtied_bytes(1.0);
        assert!((0.95..1.07).contains(&off), "{off}");
    }
}
