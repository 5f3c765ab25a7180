//! From what QEMU says of its samples to a point of the dirty curve, with its error.

use std::time::Duration;

use landfall_core::model::{CpuTime, CurvePoint};
use landfall_core::units::{Bytes, Share};

use super::Span;

/// Blocks below this are left out (QEMU, `MIN_RAMBLOCK_SIZE` in `migration/dirtyrate.h`).
const LEAST_BLOCK: Bytes = Bytes::mib(128);

/// Pages of each GiB that QEMU takes samples of, at least and at most (`MIN_SAMPLE_PAGE_COUNT`,
/// `MAX_SAMPLE_PAGE_COUNT` there).
const PAGES_PER_GIB: (u64, u64) = (128, 16384);

/// Samples wanted in all. The error of a part p of the memory is the square root of p(1-p)/samples,
/// 0.4 % of the memory at worst. A checksum takes a few microseconds, so they all take some 50 ms at
/// either end of a span.
const SAMPLES: u64 = 16384;

const GIB: u64 = 1 << 30;

/// What of a guest's memory QEMU samples.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampling {
    covered: Bytes,
    total: Bytes,
}

impl Sampling {
    /// Of a guest with memory backends of these sizes.
    pub(super) fn of(backends: &[Bytes]) -> Sampling {
        let large = backends.iter().filter(|size| **size >= LEAST_BLOCK);
        Sampling { covered: large.copied().sum(), total: backends.iter().copied().sum() }
    }

    /// How much of the guest's memory it can see; `None` where QEMU names none.
    pub(super) fn covered_share(self) -> Option<Share> {
        let share = || Share::clamped(self.covered.as_f64() / self.total.as_f64());
        (self.total > Bytes(0)).then(share)
    }

    /// How many pages of each GiB to ask for; `None` where there is nothing to sample.
    pub(super) fn pages_per_gib(self) -> Option<u64> {
        let wanted = (SAMPLES as f64 * GIB as f64 / self.covered.as_f64()) as u64;
        (self.covered > Bytes(0)).then(|| wanted.clamp(PAGES_PER_GIB.0, PAGES_PER_GIB.1))
    }

    /// Samples that are taken.
    fn samples(self) -> f64 {
        self.covered.as_f64() / GIB as f64 * self.pages_per_gib().unwrap_or_default() as f64
    }

    /// The point that a rate of `mib_per_second` over a time `took` makes.
    ///
    /// `span` holds the measurement and what went before and after it in QEMU; its CPU time is taken
    /// in proportion. Each page is looked at twice in the same order, so the time between its two
    /// looks is the one QEMU tells, however long the looking takes. QEMU rounds down to whole MiB
    /// per second: the middle is taken, and half a MiB per second to either side is an error.
    pub(super) fn point(self, mib_per_second: u64, took: Duration, span: Span) -> CurvePoint {
        let mib = |n: f64| n * Bytes::mib(1).as_f64();
        let covered = self.covered.as_f64();
        let dirtied = mib((mib_per_second as f64 + 0.5) * took.as_secs_f64()).min(covered);
        let samples = self.samples().max(1.0);
        // That no sample, or every one, was dirty does not make it certain.
        let part = (dirtied / covered).clamp(1.0 / samples, 1.0 - 1.0 / samples.max(2.0));
        let drawn = covered * (part * (1.0 - part) / samples).sqrt();
        let rounded = mib(took.as_secs_f64()) / 12f64.sqrt();
        let error = (drawn.hypot(rounded) / dirtied.max(1.0)).hypot(span.relative_error());
        CurvePoint { cpu: span.cpu_in(took), dirtied: Bytes(dirtied as u64), error }
    }
}

/// Two measurements over the same span as one, with what they differ by in its error.
///
/// The error of a draw is all that a single one knows of. A guest in a quiet phase would make a
/// point that claims to be sure that little is dirtied.
pub(super) fn pooled(one: CurvePoint, other: CurvePoint) -> CurvePoint {
    let mean = |of: fn(&CurvePoint) -> f64| (of(&one) + of(&other)) / 2.0;
    let apart = |a: f64, b: f64| match (a + b) > 0.0 {
        true => (a - b).abs() / (a + b),
        false => 0.0,
    };
    let dirtied = |point: &CurvePoint| point.dirtied.as_f64();
    let rate = |point: &CurvePoint| dirtied(point) / point.cpu.0.max(f64::MIN_POSITIVE);
    // What different CPU times explain is no scatter: either the memory is the same, or the rate.
    let scatter = apart(dirtied(&one), dirtied(&other)).min(apart(rate(&one), rate(&other)));
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

    fn busy(wall: Duration) -> Span {
        Span { wall, cpu: wall, error: Duration::from_millis(2) }
    }

    #[test]
    fn the_error_is_that_of_the_draw_and_of_the_rounding() {
        let sampling = Sampling::of(&[Bytes::mib(256)]);
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
    fn two_measurements_that_agree_are_surer_than_one_and_two_that_differ_are_not() {
        let point =
            |cpu, mib| CurvePoint { cpu: CpuTime(cpu), dirtied: Bytes::mib(mib), error: 0.1 };
        let agreed = pooled(point(0.1, 20), point(0.1, 20));
        assert!(agreed.error < 0.08 && agreed.dirtied == Bytes::mib(20), "{agreed:?}");
        assert!(
            pooled(point(0.1, 20), point(0.05, 10)).error < 0.08,
            "half of it in half the time"
        );
        assert!(pooled(point(0.1, 20), point(0.05, 20)).error < 0.08, "the whole working set");
        assert!(pooled(point(0.1, 20), point(0.1, 1)).error > 0.8, "a quiet phase");
    }

    #[test]
    fn memory_in_small_blocks_is_not_seen() {
        let half = Sampling::of(&[Bytes::mib(128), Bytes::mib(64), Bytes::mib(64)]);
        assert_eq!(half.covered_share(), Some(Share::clamped(0.5)));
        assert_eq!(Sampling::of(&[Bytes::mib(64)]).pages_per_gib(), None);
        assert_eq!(Sampling::of(&[]).covered_share(), None);
    }

    #[test]
    fn a_large_guest_is_not_sampled_more_than_a_small_one() {
        let large = Sampling::of(&[Bytes::mib(64 << 10)]);
        assert_eq!(large.pages_per_gib(), Some(256));
    }

    proptest! {
        #[test]
        fn no_answer_makes_nonsense(
            rate: u64, took in 0u64..100_000, mib in 0u64..1 << 22, wall in 0u64..100_000, cpu: u32,
        ) {
            let wall = Duration::from_millis(wall);
            let span = Span { cpu: Duration::from_micros(cpu.into()), ..busy(wall) };
            let point = Sampling::of(&[Bytes::mib(mib)]).point(rate, Duration::from_millis(took), span);
            prop_assert!(point.cpu.0.is_finite() && !point.error.is_nan());
            prop_assert!(point.dirtied <= Bytes::mib(mib));
        }
    }
}
