//! Turns what two looks at the same pages show into a point of the dirty curve, with its error.

use landfall_core::model::CurvePoint;
use landfall_core::units::{Bytes, CpuTime};

use super::clock::CpuSpan;
use super::sampler::PageLook;

/// Returns how much of `covered` has contents, by a look at pages spread over it; `None` if there were no
/// pages. A page in swap counts: it was written once.
pub(super) fn nonzero_memory(pages: &[PageLook], covered: Bytes) -> Option<Bytes> {
    let has_contents = |page: &&PageLook| !matches!(page, PageLook::Absent | PageLook::Present(0));
    let found = pages.iter().filter(has_contents).count() as f64;
    (!pages.is_empty()).then(|| Bytes((found / pages.len() as f64 * covered.as_f64()) as u64))
}

/// Returns whether a page was dirtied between two looks.
///
/// A page that has appeared counts as dirtied, also one that came back from swap, which may only have been
/// read. One that is gone does not.
fn is_dirtied(before: PageLook, after: PageLook) -> bool {
    matches!(after, PageLook::Present(_)) && before != after
}

/// Returns the point that two looks at the same pages give, spread over `covered` of memory and `span` apart;
/// `None` if no pages were looked at.
///
/// The error is at most that of a binomial draw; the even spread makes the true one smaller. If no page has
/// changed, the point is half of what one page stands for, with an error as large.
pub(super) fn curve_point(
    before: &[PageLook],
    after: &[PageLook],
    covered: Bytes,
    span: CpuSpan,
) -> Option<CurvePoint> {
    let samples = before.len().min(after.len()) as f64;
    let dirtied =
        before.iter().zip(after).filter(|(one, other)| is_dirtied(**one, **other)).count();
    let dirtied = (dirtied as f64).max(0.5);
    // A sample without a clean page is no certainty.
    let clean = (samples - dirtied).max(0.5) / samples;
    let drawn = (clean / dirtied).sqrt().min(1.0);
    (samples > 0.0).then(|| CurvePoint {
        cpu: CpuTime(span.cpu.as_secs_f64()),
        dirtied: Bytes((dirtied / samples * covered.as_f64()) as u64),
        error: drawn.hypot(span.relative_error()),
    })
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
    use super::PageLook::{Absent, Present, Swapped};
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const SPAN: CpuSpan = CpuSpan {
        wall: Duration::from_millis(100),
        cpu: Duration::from_millis(100),
        error: Duration::ZERO,
    };

    fn point(before: &[PageLook], after: &[PageLook]) -> CurvePoint {
        curve_point(before, after, Bytes::mib(256), SPAN).unwrap()
    }

    #[test]
    fn the_error_is_that_of_the_draw() {
        let before = [Present(1); 4096];
        let mut after = before;
        after[..1024].fill(Present(2));
        let quarter = point(&before, &after);
        assert_eq!(quarter.dirtied, Bytes::mib(64));
        assert!((quarter.error - (0.25f64 * 0.75 / 4096.0).sqrt() / 0.25).abs() < 1e-9);
        let idle = point(&before, &before);
        assert!(idle.error >= 1.0 && idle.dirtied <= Bytes::mib(1), "{idle:?}");
        let all = point(&before, &[Present(2); 4096]);
        assert!(all.error > 0.0 && all.dirtied == Bytes::mib(256), "{all:?}");
    }

    #[test]
    fn pages_that_appear_are_dirtied_and_those_that_vanish_are_not() {
        let all = [Absent, Swapped, Present(0), Present(1)];
        for (before, after) in all.iter().flat_map(|one| all.map(|other| (*one, other))) {
            let expected = matches!(after, Present(_)) && before != after;
            assert_eq!(is_dirtied(before, after), expected, "{before:?} {after:?}");
        }
    }

    #[test]
    fn zeros_and_what_was_never_written_are_no_contents() {
        let pages = [Absent, Present(0), Present(5), Swapped];
        assert_eq!(nonzero_memory(&pages, Bytes::mib(8)), Some(Bytes::mib(4)));
        assert_eq!(nonzero_memory(&[], Bytes::mib(8)), None);
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

    proptest! {
        #[test]
        fn no_looks_make_nonsense(
            before in proptest::collection::vec(0u64..4, 0..200),
            after in proptest::collection::vec(0u64..4, 0..200),
            mib in 0u64..1 << 22, cpu: u32,
        ) {
            let look = |pages: Vec<u64>| -> Vec<PageLook> {
                pages.into_iter().map(|n| [Absent, Swapped, Present(0), Present(n)][n as usize]).collect()
            };
            let span = CpuSpan { cpu: Duration::from_micros(cpu.into()), error: Duration::from_millis(2), ..SPAN };
            let (before, after) = (look(before), look(after));
            let point = curve_point(&before, &after, Bytes::mib(mib), span);
            prop_assert_eq!(point.is_none(), before.is_empty() || after.is_empty());
            if let Some(point) = point {
                prop_assert!(point.cpu.0.is_finite() && point.error.is_finite());
                prop_assert!(point.dirtied <= Bytes::mib(mib));
            }
        }
    }
}
