//! Measures a running guest before a migration, from outside: points of its dirty curve, how much of
//! its memory has contents, how much CPU it takes.
//!
//! QEMU's `calc-dirty-rate` takes checksums of pages drawn at random and compares them a while
//! later. That works under every accelerator (the dirty bitmap's way gives 0 under TCG), needs no
//! dirty logging and so does not slow the guest: what it costs are the checksums, a few microseconds
//! each, in a thread of their own. It is done over growing spans until the curve is seen to be flat
//! or the time is used up; what time is left goes into a second look over the short ones.
//!
//! What it does not see: blocks of memory below 128 MiB, which QEMU leaves out; writes that leave a
//! page as it was. What it does to the host: pages of shared memory (`share=on`) that nobody had
//! touched yet are allocated by being looked at; in private memory they are not.
//!
//! Nothing is changed in the guest or in QEMU, so there is nothing to put back: a probe that is
//! dropped leaves QEMU to end one measurement, of at most 5 s, by itself.

mod contents;
mod sampling;

use std::time::{Duration, Instant};

use landfall_core::model::prior::{PROBE_SPANS, Pace, Prior};
use landfall_core::model::{CpuTime, Point};
use landfall_core::units::{Bytes, Share};
use tokio::time::{sleep, timeout};

use crate::cgroup::least_honest_quota;
use crate::monitor::{DirtyRate, Grain, Machine};
use crate::qmp::QmpError;
use crate::vcpus;
use sampling::{Sampling, pooled};

/// Spans up to this are measured a second time where the budget allows it. A guest that works in
/// phases of fractions of a second shows a different point each time, and only the difference tells
/// (`docs/theory.md`).
const AGAIN: Duration = Duration::from_millis(500);

/// How often QEMU is asked whether it is done. An answer takes it a fifth of a millisecond.
const ASK: Duration = Duration::from_millis(5);

/// What a probe may take beyond its budget before it is cut off with what it has.
const GRACE: Duration = Duration::from_secs(1);

/// What a probe found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    /// Whatever could be measured; empty where nothing could. The link is not looked at.
    pub prior: Prior,
    /// Share of the guest's memory that the points speak of; `None` where that is not known.
    pub covered: Option<Share>,
    /// Why something is missing, in words for the operator.
    pub notes: Vec<String>,
}

/// Probes a running guest for about `budget`. Refuses nothing: what cannot be measured is missing,
/// and a note says why.
pub async fn probe(machine: &mut Machine, budget: Duration) -> Found {
    let mut found = Found::default();
    match timeout(budget + GRACE, found.measure(machine, budget)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => found.notes.push(format!("the probe ended early: {error}")),
        Err(_) => found.notes.push("the probe was cut off: QEMU took too long".to_owned()),
    }
    found
}

impl Found {
    /// Fills itself in step by step, so that what is known stays when it is cut off.
    async fn measure(&mut self, machine: &mut Machine, budget: Duration) -> Result<(), QmpError> {
        let tids = machine.vcpu_threads().await?;
        let backends = machine.memory_backends().await?;
        // One that does not say is taken to be like most.
        self.prior.emulated = machine.is_emulated().await.unwrap_or_default();
        let process = match vcpus::find_qemu_process(&tids) {
            Ok(process) => process,
            Err(error) => {
                // CPU time is that of threads on this host.
                self.notes.push(error.to_string());
                return Ok(());
            }
        };
        // Before any page is sampled, which may allocate some.
        self.prior.memory = Some(backends.iter().copied().sum()).filter(|all| *all > Bytes(0));
        let sizes = backends.clone();
        let read =
            tokio::task::spawn_blocking(move || contents::nonzero_memory(process.pid, &sizes));
        self.prior.contents = read.await.ok().flatten();
        if self.prior.contents.is_none() {
            self.notes.push(format!(
                "how much memory has contents is not known: /proc/{}/smaps shows no mapping that is \
                 the guest's memory",
                process.pid
            ));
        }
        let sampling = Sampling::of(&backends);
        self.covered = sampling.covered_share();
        let clock = Clock { tids: &tids };
        let start = clock.look();
        let measured = self.points(machine, &clock, sampling, budget).await;
        self.prior.pace = start.and_then(|start| clock.since(start)).and_then(|span| span.pace());
        measured
    }

    async fn points(
        &mut self,
        machine: &mut Machine,
        clock: &Clock<'_>,
        sampling: Sampling,
        budget: Duration,
    ) -> Result<(), QmpError> {
        let Some(pages_per_gib) = sampling.pages_per_gib() else {
            self.notes.push(
                "the dirty curve is not known: QEMU samples no block of memory below 128 MiB"
                    .into(),
            );
            // The pace wants a while to be seen in.
            sleep(PROBE_SPANS[3].min(budget)).await;
            return Ok(());
        };
        let grain = match machine.dirty_rate(Grain::Milliseconds).await {
            Ok(_) => Grain::Milliseconds,
            Err(QmpError::Refused { .. }) => Grain::Seconds,
            Err(error) => return Err(error),
        };
        let Some(mut left) = wait_for_others(machine, grain, budget).await? else {
            self.notes.push("somebody else has QEMU measure the dirty rate".to_owned());
            return Ok(());
        };
        let growing = PROBE_SPANS.into_iter().filter(|span| grain.takes(*span));
        let again = growing.clone().rev().filter(|span| *span <= AGAIN);
        let mut spans = Vec::new();
        for asked in growing.chain(again) {
            // What QEMU needs besides, for its checksums, does not count: it is within the grace.
            let Some(rest) = left.checked_sub(asked) else { continue };
            left = rest;
            let Some(start) = clock.look() else { break };
            machine.sample_dirty_rate(asked, grain, pages_per_gib).await?;
            sleep(asked).await;
            let measured = result(machine, grain).await?;
            let Some(span) = clock.since(start) else { break };
            let DirtyRate::Measured {
                mib_per_second: Some(rate),
                span: took,
                pages_per_gib: pages,
            } = measured
            else {
                self.notes.push("QEMU measured no dirty rate".to_owned());
                break;
            };
            // A measurement that somebody else began meanwhile is not of this span.
            if pages != pages_per_gib || took < asked || took > span.wall + grain.step() {
                self.notes.push("another measurement of the dirty rate came between".to_owned());
                continue;
            }
            let point = sampling.point(rate, took, span);
            match spans.iter().position(|known| *known == asked) {
                Some(at) => self.prior.points[at] = pooled(self.prior.points[at], point),
                None => {
                    spans.push(asked);
                    self.prior.points.push(point);
                    if is_flat(&self.prior.points) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

impl Grain {
    fn takes(self, span: Duration) -> bool {
        span >= self.step()
    }

    fn step(self) -> Duration {
        match self {
            Grain::Milliseconds => Duration::from_millis(1),
            Grain::Seconds => Duration::from_secs(1),
        }
    }
}

/// Waits until no measurement is going on, and tells what is left of the budget then; `None` where it
/// is used up.
async fn wait_for_others(
    machine: &mut Machine,
    grain: Grain,
    budget: Duration,
) -> Result<Option<Duration>, QmpError> {
    let begun = Instant::now();
    // Asking does not count where nobody is waited for: whole spans fill a budget to the brim.
    let mut waited = Duration::ZERO;
    while machine.dirty_rate(grain).await? == DirtyRate::Measuring {
        sleep(ASK).await;
        waited = begun.elapsed();
        if waited >= budget {
            return Ok(None);
        }
    }
    Ok(Some(budget - waited))
}

/// Waits for the end of a measurement.
async fn result(machine: &mut Machine, grain: Grain) -> Result<DirtyRate, QmpError> {
    loop {
        match machine.dirty_rate(grain).await? {
            DirtyRate::Measuring => sleep(ASK).await,
            ended => return Ok(ended),
        }
    }
}

/// Whether the last two points tell that the curve has flattened: no growth beyond their errors,
/// where growth in proportion would have shown.
fn is_flat(points: &[Point]) -> bool {
    let [.., before, last] = points else { return false };
    let error = |point: &Point| point.error * point.dirtied.as_f64();
    let doubt = 2.0 * error(before).hypot(error(last));
    let grown = last.dirtied.as_f64() - before.dirtied.as_f64();
    let in_proportion = before.dirtied.as_f64() * (last.cpu.0 / before.cpu.0 - 1.0);
    grown <= doubt && in_proportion > 2.0 * doubt
}

/// The CPU time of the guest's vCPUs, and the time.
struct Clock<'a> {
    tids: &'a [i32],
}

/// A stretch of time: how long, and how much CPU the guest took in it.
#[derive(Debug, Clone, Copy)]
struct Span {
    wall: Duration,
    cpu: Duration,
    /// Standard error of that.
    error: Duration,
}

impl Clock<'_> {
    /// `None` where the kernel does not tell, or a vCPU has gone.
    fn look(&self) -> Option<(Instant, Duration)> {
        let counters = vcpus::read_vcpu_counters(self.tids, None);
        let cpu: Option<Duration> = counters.iter().map(|vcpu| vcpu.cpu).sum();
        Some((Instant::now(), cpu?))
    }

    fn since(&self, (then, before): (Instant, Duration)) -> Option<Span> {
        let (now, cpu) = self.look()?;
        // A running thread's counter is up to a tick behind, evenly spread, at either end.
        let behind = least_honest_quota().div_f64(6f64.sqrt());
        Some(Span {
            wall: now.duration_since(then),
            cpu: cpu.saturating_sub(before),
            error: behind.mul_f64((self.tids.len() as f64).sqrt()),
        })
    }
}

impl Span {
    fn pace(self) -> Option<Pace> {
        (!self.wall.is_zero()).then(|| Pace(self.cpu.div_duration_f64(self.wall)))
    }

    /// The CPU time in a part of the span.
    fn cpu_in(self, part: Duration) -> CpuTime {
        CpuTime(self.pace().map_or(0.0, |pace| pace.0 * part.as_secs_f64()))
    }

    /// Relative standard error of the CPU time.
    fn relative_error(self) -> f64 {
        match self.cpu.is_zero() {
            true => 0.0,
            false => self.error.div_duration_f64(self.cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::units::Bytes;

    fn point(cpu: f64, mib: u64, error: f64) -> Point {
        Point { cpu: CpuTime(cpu), dirtied: Bytes::mib(mib), error }
    }

    #[test]
    fn a_curve_that_no_longer_grows_is_flat() {
        assert!(is_flat(&[point(0.05, 96, 0.02), point(0.1, 97, 0.02)]));
        assert!(!is_flat(&[point(0.05, 40, 0.02), point(0.1, 70, 0.02)]));
        assert!(!is_flat(&[point(0.05, 96, 0.02)]));
    }

    #[test]
    fn points_too_rough_to_tell_growth_from_none_are_not_called_flat() {
        assert!(!is_flat(&[point(0.05, 1, 0.5), point(0.1, 1, 0.5)]));
        assert!(!is_flat(&[point(0.0, 0, 0.0), point(0.0, 0, 0.0)]));
    }
}
