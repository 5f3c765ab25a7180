//! Finds the curve that goes through measured points.
//!
//! The problem: given measurements "so much distinct memory in so much CPU time", each with its
//! error, find sets of pages (on a fixed grid of time constants) whose sum comes nearest. It is a
//! least-squares problem in amounts that cannot be negative, which is convex and solved exactly. No
//! amount is negative, so the curve is concave and rises however noisy the points were.
//!
//! Where there are no points the curve has to come from somewhere: beyond both ends of what was
//! measured, points of little weight continue it with the slope that it has there, or, where that is
//! not known, that published guests have. All sets together are no more than the memory that has contents,
//! where that is known.

use serde::{Deserialize, Serialize};

use super::least_squares::{Equations, MOST_UNKNOWN};
use super::{Component, DirtyCurve};
use crate::units::{Bytes, CpuTime, PAGE};

/// One measurement of the curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The guest's CPU time meanwhile.
    pub cpu: CpuTime,
    /// Distinct memory it dirtied in it.
    pub dirtied: Bytes,
    /// Relative standard error of that: 0.05 is five parts in a hundred.
    pub error: f64,
}

/// Ratio of neighbouring time constants of the grid. Between two of them the sum of both is within a
/// hundredth of the true curve.
const RATIO: f64 = 2.0;

/// How far beyond the measured times the grid reaches, as a factor.
const GRID_REACH: f64 = 10.0;

/// Log-log slope of a curve where nothing is known: published guests have 0.57 to 0.67 beyond a
/// second and nearly 1 below it (Gudkov, qemu-devel 2023; `docs/theory.md`).
const SLOPE_BEFORE: f64 = 0.95;
const SLOPE_AFTER: f64 = 0.6;

/// Two points give a slope if their times differ at least by this factor.
const FAR: f64 = 1.5;

/// Relative error of an assumed point: any measurement outweighs it.
const ASSUMED: f64 = 0.6;

/// The same where the guest's memory is the bound.
const NEAR_MOST: f64 = 0.1;

/// The least relative error of a count of pages.
const GRAIN: f64 = 16.0 * PAGE.0 as f64;

const MOST_RUNGS: usize = MOST_UNKNOWN;

/// The curve nearest to the points; the idle one where there are none, or none with any CPU time.
///
/// `most` is all the memory the guest can write, if that is known.
pub fn fit(points: &[CurvePoint], most: Option<Bytes>) -> DirtyCurve {
    let known = |point: &&CurvePoint| point.cpu.0 > 0.0 && point.cpu.0.is_finite();
    let known = || points.iter().filter(known);
    let by_time = |a: &&CurvePoint, b: &&CurvePoint| a.cpu.0.total_cmp(&b.cpu.0);
    let (Some(&first), Some(&last)) = (known().min_by(by_time), known().max_by(by_time)) else {
        return DirtyCurve::IDLE;
    };
    let far = |from: CurvePoint| move |point: &&CurvePoint| log_ratio(from.cpu, point.cpu) >= FAR;
    let second = known().filter(far(first)).min_by(by_time);
    let before_last = known().filter(far(last)).max_by(by_time);
    let before = second.map_or(SLOPE_BEFORE, |second| slope(first, *second));
    let after = before_last.map_or(SLOPE_AFTER, |point| slope(*point, last).min(SLOPE_AFTER));
    let mut rungs = [0.0; MOST_RUNGS];
    let rungs = ladder(first.cpu.0 / GRID_REACH, last.cpu.0 * GRID_REACH, &mut rungs);
    let mut curve = Sets::on(rungs);
    for point in known() {
        curve.meet(point);
    }
    curve.meet(&continued(first, 1.0 / GRID_REACH, before));
    let beyond = continued(last, GRID_REACH, after);
    let beyond = match most {
        // Clamps to the guest's memory; a curve that nearly reaches it probably does.
        Some(most) if beyond.dirtied > most => {
            CurvePoint { dirtied: most, error: NEAR_MOST, ..beyond }
        }
        _ => beyond,
    };
    curve.meet(&beyond);
    let mut sets = curve.solve(&[0.0; MOST_RUNGS]);
    if let Some(most) = most.filter(|most| sets.iter().sum::<f64>() > most.as_f64()) {
        curve.come_to(most);
        sets = curve.solve(&sets);
        cut(&mut sets[..rungs.len()], most.as_f64());
    }
    let part =
        |(&time, &set): (&f64, &f64)| Component { set: Bytes(set as u64), time: CpuTime(time) };
    DirtyCurve::new(rungs.iter().zip(&sets).map(part))
}

/// Removes what exceeds the guest's memory, from the slowest sets first: they are the least known.
fn cut(sets: &mut [f64], most: f64) {
    let mut excess = sets.iter().sum::<f64>() - most;
    for set in sets.iter_mut().rev() {
        let cut = excess.clamp(0.0, *set);
        *set -= cut;
        excess -= cut;
    }
}

/// Log-log slope from one point to a later one, as far as a curve can have it.
fn slope(from: CurvePoint, to: CurvePoint) -> f64 {
    let rise = (to.dirtied.as_f64().max(1.0) / from.dirtied.as_f64().max(1.0)).ln();
    (rise / (to.cpu.0 / from.cpu.0).ln()).clamp(0.0, 1.0)
}

/// The ratio of the longer time to the shorter one.
pub(super) fn log_ratio(a: CpuTime, b: CpuTime) -> f64 {
    (a.0 / b.0).max(b.0 / a.0)
}

/// The point assumed at `factor` times the CPU time of another.
fn continued(from: CurvePoint, factor: f64, slope: f64) -> CurvePoint {
    CurvePoint {
        cpu: CpuTime(from.cpu.0 * factor),
        dirtied: Bytes((from.dirtied.as_f64() * factor.powf(slope)) as u64),
        error: ASSUMED,
    }
}

/// Time constants from `most` down to about `least`, as far as there is room, each [`RATIO`] times the
/// one before. Below the shortest a curve is straight.
fn ladder(least: f64, most: f64, rungs: &mut [f64; MOST_RUNGS]) -> &[f64] {
    let steps = (most / least).log2().ceil().max(1.0).min((MOST_RUNGS - 1) as f64);
    let rungs = &mut rungs[..steps as usize + 1];
    let mut time = most;
    for rung in rungs.iter_mut().rev() {
        *rung = time;
        time /= RATIO;
    }
    rungs
}

/// The equations for the sets on the grid, in MB.
struct Sets<'a> {
    rungs: &'a [f64],
    equations: Equations,
}

/// Unit of the amounts while they are being solved for.
const MB: f64 = 1e6;

impl<'a> Sets<'a> {
    fn on(rungs: &'a [f64]) -> Self {
        Sets { rungs, equations: Equations::of(rungs.len()) }
    }

    /// What is clean of a set is an exponential of time over its time constant. From one time constant down
    /// to the next it is squared, because the [`RATIO`] is 2: a part `d` that is dirty becomes `d * (2 - d)`.
    fn meet(&mut self, point: &CurvePoint) {
        let longest = self.rungs.last().copied().unwrap_or(f64::INFINITY);
        let (mut parts, mut part) = ([0.0; MOST_RUNGS], -(-point.cpu.0 / longest).exp_m1());
        for rung in parts[..self.rungs.len()].iter_mut().rev() {
            *rung = part;
            part *= 2.0 - part;
        }
        self.add(parts, point.dirtied, point.error.max(1e-3));
    }

    /// Adds the equation that all sets sum to this many bytes.
    fn come_to(&mut self, total: Bytes) {
        self.add([1.0; MOST_RUNGS], total, 1e-3);
    }

    /// Such a part of each set is `found` in all.
    fn add(&mut self, parts: [f64; MOST_RUNGS], found: Bytes, error: f64) {
        let found = found.as_f64();
        let weight = MB / (error * found + GRAIN);
        self.equations.add(&parts.map(|part| part * weight), found / MB * weight);
    }

    /// Bytes in the set of each node, which are about so many.
    fn solve(&self, about: &[f64; MOST_RUNGS]) -> [f64; MOST_RUNGS] {
        self.equations.solve(&about.map(|set| set / MB)).map(|set| set * MB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn point(cpu: f64, mb: f64) -> CurvePoint {
        CurvePoint { cpu: CpuTime(cpu), dirtied: Bytes((mb * MB) as u64), error: 0.02 }
    }

    fn off(curve: &DirtyCurve, points: &[CurvePoint]) -> f64 {
        let off = |p: &CurvePoint| (curve.dirtied_bytes(p.cpu.0) / p.dirtied.as_f64() - 1.0).abs();
        points.iter().map(off).fold(0.0, f64::max)
    }

    #[test]
    fn one_set_is_found_from_a_few_horizons() {
        let truth = DirtyCurve::new([Component { set: Bytes::mib(144), time: CpuTime(0.7) }]);
        let at = |cpu: f64| point(cpu, truth.dirtied_bytes(cpu) / MB);
        let curve = fit(&[0.05, 0.2, 0.8, 3.0].map(at), None);
        let between: Vec<CurvePoint> = [0.05, 0.1, 0.3, 1.0, 2.0, 3.0].map(at).to_vec();
        assert!(off(&curve, &between) < 0.05, "{}", off(&curve, &between));
    }

    #[test]
    fn a_guest_is_not_expected_to_write_more_memory_than_it_has() {
        let truth = DirtyCurve::new([Component { set: Bytes::mib(160), time: CpuTime(0.84) }]);
        let at = |cpu: f64| point(cpu, truth.dirtied_bytes(cpu) / MB);
        let curve = fit(&[0.05, 0.2, 0.5, 1.0].map(at), Some(Bytes::mib(164)));
        assert!(curve.working_set() <= Bytes::mib(164));
        assert!(
            (0.93..1.07).contains(&(curve.dirtied_bytes(4.0) / truth.dirtied_bytes(4.0))),
            "{}",
            curve.dirtied_bytes(4.0)
        );
    }

    #[test]
    fn the_published_memcached_curve_is_followed() {
        // Gudkov, qemu-devel 2023: MB/s over so many seconds.
        let rates = [(0.125, 528.0), (1.0, 472.0), (10.0, 180.0), (60.0, 99.0)];
        let points = rates.map(|(cpu, rate)| point(cpu, cpu * rate));
        assert!(off(&fit(&points, None), &points) < 0.1, "{}", off(&fit(&points, None), &points));
    }

    #[test]
    fn nothing_known_and_nothing_dirtied_is_an_idle_guest() {
        assert_eq!(fit(&[], None), DirtyCurve::IDLE);
        assert_eq!(fit(&[point(0.0, 5.0)], None), DirtyCurve::IDLE);
        assert!(fit(&[point(1.0, 0.0)], None).working_set() < Bytes(100_000));
    }

    proptest! {
        #[test]
        fn any_points_give_a_curve_without_nonsense(
            points in proptest::collection::vec((0.0001f64..1000.0, 0.0f64..1e6), 0..12),
        ) {
            let points: Vec<CurvePoint> = points.into_iter().map(|(cpu, mb)| point(cpu, mb)).collect();
            let curve = fit(&points, None);
            prop_assert!(curve.dirtied_bytes(1.0).is_finite());
            prop_assert!(curve.dirtied_bytes(1.0) <= curve.dirtied_bytes(2.0) + 1.0);
        }

        #[test]
        fn a_single_point_is_met(cpu in 0.001f64..100.0, mb in 1.0f64..1e5) {
            let only = [point(cpu, mb)];
            prop_assert!(off(&fit(&only, None), &only) < 0.1, "{}", off(&fit(&only, None), &only));
        }
    }
}
