//! What landfall's probe would find of a simulated guest before the start.
//!
//! It finds what the real one does (`landfall-qemu`'s `probe`): points of the dirty curve over
//! growing spans, each with the error of a draw of so many pages; contents and CPU demand; of the
//! link, the limit that QEMU has. A guest in phases shows what it writes in the first of them, and of what
//! comes after it nothing. The second look that a real probe takes over the short spans is left out.

use std::time::Duration;

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::{PROBE_SPANS, Prior};
use landfall_core::units::{ByteRate, Bytes, CpuTime};

use crate::guest::Guest;
use crate::memory::Memory;
use crate::rng::{Draws, Seed};

/// Pages that are looked at; of each GiB no more than as many (`MAX_SAMPLE_PAGE_COUNT` in QEMU's
/// `migration/dirtyrate.h`).
const SAMPLES: f64 = 16384.0;

/// Smaller blocks of memory QEMU leaves out (`MIN_RAMBLOCK_SIZE` there).
const LEAST_BLOCK: Bytes = Bytes::mib(128);

/// Probes a guest for `budget`, whose QEMU may send at `limit`. A probe of no time knows the limit.
pub(crate) fn probe(guest: &Guest, limit: ByteRate, budget: Duration, seed: Seed) -> Prior {
    let link = Some(limit);
    if budget.is_zero() {
        return Prior { link, ..Prior::default() };
    }
    let mut left = budget;
    let mut fits = |span: &Duration| match left.checked_sub(*span) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let draws = &mut Draws::of(seed);
    let spans = PROBE_SPANS.into_iter().filter(|span| fits(span));
    let seen = guest.memory >= LEAST_BLOCK;
    let points = spans.filter(|_| seen).map(|span| point(guest, span, seed, draws)).collect();
    Prior {
        points,
        contents: Some(guest.contents),
        memory: Some(guest.memory),
        cpu_demand: Some(guest.cpu_demand),
        link,
        emulated: false,
    }
}

/// What QEMU's sampling of pages says of one span.
fn point(guest: &Guest, span: Duration, seed: Seed, draws: &mut Draws) -> CurvePoint {
    let seconds = span.as_secs_f64();
    let cpu = CpuTime(guest.cpu_demand.0 * seconds);
    let memory = guest.memory.as_f64();
    let samples = SAMPLES * (memory / Bytes::mib(1024).as_f64()).min(1.0);
    let part = dirtied(guest, cpu, seed) / memory;
    let drawn = part + (part * (1.0 - part) / samples).max(0.0).sqrt() * normal(draws);
    // QEMU tells whole MiB per second, rounded down: the middle is taken.
    let mib = Bytes::mib(1).as_f64() * seconds;
    let told = (((drawn.clamp(0.0, 1.0) * memory / mib).floor() + 0.5) * mib).min(memory);
    // That no sample, or every one, was dirty does not make it certain.
    let part = (told / memory).clamp(1.0 / samples, 1.0 - 1.0 / samples);
    let error = (memory * (part * (1.0 - part) / samples).sqrt()).hypot(mib / 12f64.sqrt());
    CurvePoint { cpu, dirtied: Bytes(told as u64), error: error / told.max(1.0) }
}

/// Bytes that the guest dirties in its first `cpu`: what a look at the bitmap finds when everything
/// was sent before.
fn dirtied(guest: &Guest, cpu: CpuTime, seed: Seed) -> f64 {
    let mut memory = Memory::new(guest, seed);
    memory.send(memory.unsent_on_wire());
    memory.run(cpu.0);
    memory.sync()
}

/// A number with mean 0 and standard deviation 1: twelve even ones added up are near enough.
fn normal(draws: &mut Draws) -> f64 {
    (0..12).map(|_| draws.part()).sum::<f64>() - 6.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{CurvePhase, Order, Writer, Writes};
    use landfall_core::model::prior::PROBE_BUDGET;
    use landfall_core::model::{Component, DirtyCurve};
    use landfall_core::units::CpuDemand;

    const LIMIT: ByteRate = ByteRate::mb(100);

    fn curve(mib: u64, time: f64) -> DirtyCurve {
        DirtyCurve::new([Component { set: Bytes::mib(mib), time: CpuTime(time) }])
    }

    #[test]
    fn points_lie_on_the_curve_within_the_errors_that_they_state() {
        let truth = curve(400, 0.7);
        let guest = Guest {
            cpu_demand: CpuDemand(0.5),
            ..Guest::with_curve(Bytes::mib(1024), truth.clone())
        };
        let (mut off, mut count) = (0.0, 0.0);
        for seed in 0..100 {
            let prior = probe(&guest, LIMIT, PROBE_BUDGET, Seed(seed));
            assert_eq!(prior.points.len(), 5, "2 s more are not left of 3 s");
            assert_eq!((prior.cpu_demand, prior.link), (Some(CpuDemand(0.5)), Some(LIMIT)));
            for point in prior.points {
                let expected = truth.dirtied(point.cpu).as_f64();
                let errors = (point.dirtied.as_f64() / expected - 1.0) / point.error;
                assert!(errors.abs() < 5.0, "{point:?}, not {expected}");
                (off, count) = (off + errors * errors, count + 1.0);
            }
        }
        assert!((0.7..1.3).contains(&(off / count)), "{}", off / count);
    }

    #[test]
    fn a_guest_in_phases_shows_what_it_does_first() {
        let mut guest = Guest::with_curve(Bytes::mib(1024), DirtyCurve::IDLE);
        let quiet = CurvePhase { lasts: CpuTime(0.6), curve: curve(10, 0.1) };
        guest.writes = Writes::Curve(vec![quiet, CurvePhase::forever(curve(500, 0.1))]);
        let found = probe(&guest, LIMIT, PROBE_BUDGET, Seed(1)).points;
        assert!(found[3].dirtied < Bytes::mib(15), "{found:?}");
        assert!(found[4].dirtied > Bytes::mib(300), "{found:?}");
    }

    #[test]
    fn a_guest_page_by_page_shows_what_all_of_its_writers_touch() {
        let writer = |mib, order| Writer { set: Bytes::mib(mib), pages: 100_000.0, order };
        let writes = Writes::Pages(vec![writer(40, Order::Sweep), writer(40, Order::Random)]);
        let guest = Guest { writes, ..Guest::with_curve(Bytes::mib(256), DirtyCurve::IDLE) };
        let found = probe(&guest, LIMIT, PROBE_BUDGET, Seed(1)).points[4].dirtied;
        assert!((Bytes::mib(70)..Bytes::mib(90)).contains(&found), "{found:?}");
    }

    #[test]
    fn without_time_for_a_probe_only_the_limit_is_known() {
        let guest = Guest::with_curve(Bytes::mib(256), curve(100, 1.0));
        let known = Prior { link: Some(LIMIT), ..Prior::default() };
        assert_eq!(probe(&guest, LIMIT, Duration::ZERO, Seed(1)), known);
    }

    #[test]
    fn of_memory_in_small_blocks_nothing_is_sampled() {
        let guest = Guest::with_curve(Bytes::mib(64), curve(10, 1.0));
        let found = probe(&guest, LIMIT, PROBE_BUDGET, Seed(1));
        assert!(found.points.is_empty() && found.contents.is_some());
    }
}
