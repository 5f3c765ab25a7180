//! Turns QEMU's dirty rate by page sampling into a point of the dirty curve, with its error.

use std::time::Duration;

use landfall_core::model::CurvePoint;
use landfall_core::units::{Bytes, CpuTime, Share};

use super::CpuSpan;

/// QEMU leaves out smaller blocks (`MIN_RAMBLOCK_SIZE` in `migration/dirtyrate.h`).
const MIN_RAMBLOCK_SIZE: Bytes = Bytes::mib(128);

/// The smallest number of sampled pages per GiB that QEMU accepts (`migration/dirtyrate.h`).
const MIN_SAMPLE_PAGE_COUNT: u64 = 128;

/// The largest number of sampled pages per GiB that QEMU accepts (`migration/dirtyrate.h`).
const MAX_SAMPLE_PAGE_COUNT: u64 = 16384;

/// The number of samples to ask for in all. The standard error of a part p of the memory is the square root
/// of p(1-p)/samples: at most 0.4 % of the memory. A checksum takes a few microseconds, so all of them take
/// some 50 ms at either end of a span.
const WANTED_SAMPLES: u64 = 16384;

const GIB: u64 = 1 << 30;

/// The part of a guest's memory that QEMU samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageSampling {
    covered: Bytes,
    total: Bytes,
}

impl PageSampling {
    /// Returns it for a guest with memory backends of these sizes.
    pub(super) fn for_backends(backends: &[Bytes]) -> PageSampling {
        let large = backends.iter().filter(|size| **size >= MIN_RAMBLOCK_SIZE);
        PageSampling { covered: large.copied().sum(), total: backends.iter().copied().sum() }
    }

    /// Returns the share of the guest's memory that is sampled; `None` if QEMU names no memory.
    pub(super) fn covered_share(self) -> Option<Share> {
        let share = || Share::clamped(self.covered.as_f64() / self.total.as_f64());
        (self.total > Bytes(0)).then(share)
    }

    /// Returns the number of pages per GiB to ask for; `None` if there is nothing to sample.
    pub(super) fn pages_per_gib(self) -> Option<u64> {
        let wanted = (WANTED_SAMPLES as f64 * GIB as f64 / self.covered.as_f64()) as u64;
        (self.covered > Bytes(0))
            .then(|| wanted.clamp(MIN_SAMPLE_PAGE_COUNT, MAX_SAMPLE_PAGE_COUNT))
    }

    /// Returns the number of samples that QEMU takes.
    fn sample_count(self) -> f64 {
        self.covered.as_f64() / GIB as f64 * self.pages_per_gib().unwrap_or_default() as f64
    }

    /// Returns the point for a rate of `mib_per_second` that QEMU measured over `took`.
    ///
    /// `span` contains the measurement and what QEMU did before and after it; its CPU time is taken in
    /// proportion. QEMU reads each page twice, in the same order, so the time between the two readings is
    /// the one that QEMU reports, however long the reading takes. QEMU rounds down to whole MiB per second:
    /// the point is half a MiB per second higher, and the rounding is part of its error.
    pub(super) fn point(self, mib_per_second: u64, took: Duration, span: CpuSpan) -> CurvePoint {
        let mib = |n: f64| n * Bytes::mib(1).as_f64();
        let covered = self.covered.as_f64();
        let dirtied = mib((mib_per_second as f64 + 0.5) * took.as_secs_f64()).min(covered);
        let samples = self.sample_count().max(1.0);
        // A sample without a dirty page, or without a clean one, is no certainty.
        let part = (dirtied / covered).clamp(1.0 / samples, 1.0 - 1.0 / samples.max(2.0));
        let drawn = covered * (part * (1.0 - part) / samples).sqrt();
        let rounded = mib(took.as_secs_f64()) / 12f64.sqrt();
        let error = (drawn.hypot(rounded) / dirtied.max(1.0)).hypot(span.relative_error());
        CurvePoint { cpu: span.cpu_in(took), dirtied: Bytes(dirtied as u64), error }
    }
}

/// Returns two measurements over the same span as one point, whose error includes their difference.
///
/// A single measurement knows its sampling error only. A guest in a quiet phase would otherwise give a point
/// that claims certainty about a low dirty rate.
pub(super) fn pool_points(one: CurvePoint, other: CurvePoint) -> CurvePoint {
    let mean = |of: fn(&CurvePoint) -> f64| (of(&one) + of(&other)) / 2.0;
    let relative_difference = |a: f64, b: f64| match (a + b) > 0.0 {
        true => (a - b).abs() / (a + b),
        false => 0.0,
    };
    let dirtied = |point: &CurvePoint| point.dirtied.as_f64();
    let rate = |point: &CurvePoint| dirtied(point) / point.cpu.0.max(f64::MIN_POSITIVE);
    // A difference that the CPU times explain is no scatter: then the dirtied memory is the same, or the
    // rate is.
    let scatter = relative_difference(dirtied(&one), dirtied(&other))
        .min(relative_difference(rate(&one), rate(&other)));
    CurvePoint {
        cpu: CpuTime(mean(|point| point.cpu.0)),
        dirtied: Bytes(mean(|point| point.dirtied.as_f64()) as u64),
        error: (mean(|point| point.error) / 2f64.sqrt()).hypot(scatter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn busy(wall: Duration) -> CpuSpan {
        CpuSpan { wall, cpu: wall, error: Duration::from_millis(2) }
    }

    #[test]
    fn the_error_is_that_of_the_draw_and_of_the_rounding() {
        let sampling = PageSampling::for_backends(&[Bytes::mib(256)]);
        assert_eq!(sampling.pages_per_gib(), Some(16384));
        // A quarter of the memory in 0.1 s: of 4096 samples, 27.7 more or less.
        let point =
            sampling.point(640, Duration::from_millis(100), busy(Duration::from_millis(110)));
        let drawn = (0.25f64 * 0.75 / 4096.0).sqrt() / 0.25;
        assert!((point.cpu.0 - 0.1).abs() < 1e-9);
        assert!((point.error / drawn - 1.0).abs() < 0.25, "{}", point.error);
        // 0 MiB/s over 5 s is anything up to 5 MiB.
        let idle = sampling.point(0, Duration::from_secs(5), busy(Duration::from_secs(5)));
        assert!(idle.error > 0.5 && idle.dirtied < Bytes::mib(3), "{idle:?}");
    }

    #[test]
    fn two_measurements_that_agree_have_a_smaller_error_and_two_that_differ_a_larger_one() {
        let point =
            |cpu, mib| CurvePoint { cpu: CpuTime(cpu), dirtied: Bytes::mib(mib), error: 0.1 };
        let agreed = pool_points(point(0.1, 20), point(0.1, 20));
        assert!(agreed.error < 0.08 && agreed.dirtied == Bytes::mib(20), "{agreed:?}");
        assert!(
            pool_points(point(0.1, 20), point(0.05, 10)).error < 0.08,
            "half of it in half the time"
        );
        assert!(pool_points(point(0.1, 20), point(0.05, 20)).error < 0.08, "the whole working set");
        assert!(pool_points(point(0.1, 20), point(0.1, 1)).error > 0.8, "a quiet phase");
    }

    #[test]
    fn memory_in_small_blocks_is_not_seen() {
        let half = PageSampling::for_backends(&[Bytes::mib(128), Bytes::mib(64), Bytes::mib(64)]);
        assert_eq!(half.covered_share(), Some(Share::clamped(0.5)));
        assert_eq!(PageSampling::for_backends(&[Bytes::mib(64)]).pages_per_gib(), None);
        assert_eq!(PageSampling::for_backends(&[]).covered_share(), None);
    }

    #[test]
    fn a_large_guest_is_not_sampled_more_than_a_small_one() {
        let large = PageSampling::for_backends(&[Bytes::mib(64 << 10)]);
        assert_eq!(large.pages_per_gib(), Some(256));
    }

    proptest! {
        #[test]
        fn no_answer_makes_nonsense(
            rate: u64, took in 0u64..100_000, mib in 0u64..1 << 22, wall in 0u64..100_000, cpu: u32,
        ) {
            let wall = Duration::from_millis(wall);
            let span = CpuSpan { cpu: Duration::from_micros(cpu.into()), ..busy(wall) };
            let point = PageSampling::for_backends(&[Bytes::mib(mib)]).point(rate, Duration::from_millis(took), span);
            prop_assert!(point.cpu.0.is_finite() && !point.error.is_nan());
            prop_assert!(point.dirtied <= Bytes::mib(mib));
        }
    }
}
