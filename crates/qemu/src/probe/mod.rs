//! Measures a running guest before a migration, from outside: points of its dirty curve, how much of its
//! memory has contents, how much CPU it uses.
//!
//! QEMU's `calc-dirty-rate` takes checksums of randomly chosen pages and compares them a while later. That
//! works under every accelerator (measuring by the dirty bitmap gives 0 under TCG). It needs no dirty
//! logging, so it does not slow the guest: it costs the checksums, a few microseconds each, in a thread of
//! their own. The probe measures over growing spans until the curve is seen to be flat or the budget is
//! used up. What is left of the budget goes into a second measurement over the short spans.
//!
//! The probe does not see memory blocks below 128 MiB, which QEMU leaves out, and writes that leave a page
//! as it was. In shared memory (`share=on`), sampling allocates pages that were never touched; in private
//! memory it does not.
//!
//! Nothing is changed in the guest or in QEMU, so nothing has to be put back. If a probe is dropped, QEMU
//! ends one measurement, of at most 5 s, by itself.

mod contents;
mod sampling;

use std::time::{Duration, Instant};

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::{PROBE_SPANS, Prior};
use landfall_core::units::{Bytes, CpuDemand, CpuTime, Share};
use tokio::time::{sleep, timeout};

use crate::cgroup::scheduler_tick;
use crate::monitor::{CalcTimeUnit, DirtyRateMeasurement, QemuMonitor};
use crate::qmp::QmpError;
use crate::vcpus::{self, VcpuThreadError};
use sampling::{PageSampling, pool_points};

/// Spans up to this are measured a second time if the budget allows it. A guest that works in phases of
/// fractions of a second shows a different point each time, and only the difference tells
/// (`docs/theory.md`).
const MAX_REPEATED_SPAN: Duration = Duration::from_millis(500);

/// The time between two questions whether QEMU is done. Answering takes QEMU a fifth of a millisecond.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The time that a probe may take beyond its budget before it is cut off with what it has.
const GRACE: Duration = Duration::from_secs(1);

/// What a probe has measured.
#[derive(Debug, Default)]
pub struct ProbeResult {
    /// What could be measured; everything else is empty. The link is not measured.
    pub prior: Prior,
    /// The share of the guest's memory that the points are about; `None` if that is not known.
    pub covered: Option<Share>,
    /// Why something is missing.
    pub notes: Vec<ProbeNote>,
}

/// Why a probe lacks something. Displayed as a sentence for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ProbeNote {
    /// QEMU's monitor failed; what had been measured before that stays.
    #[error("the probe ended early: {0}")]
    MonitorFailed(QmpError),
    /// The probe took longer than its budget and a second.
    #[error("the probe was cut off: QEMU took too long")]
    CutOff,
    /// The vCPU threads are not on this host, so that their CPU time cannot be read.
    #[error(transparent)]
    UnknownThreads(VcpuThreadError),
    /// The memory map of QEMU cannot be read, or shows no mapping of the size of the guest's memory.
    #[error(
        "how much memory has contents is not known: /proc/{pid}/smaps shows no mapping that is the \
         guest's memory"
    )]
    UnknownContents {
        /// The QEMU process.
        pid: i32,
    },
    /// All of the guest's memory blocks are too small for QEMU to sample.
    #[error("the dirty curve is not known: QEMU samples no block of memory below 128 MiB")]
    BlocksTooSmall,
    /// Another QMP client's measurement went on for the whole budget.
    #[error(
        "the dirty curve is not known: another QMP client has QEMU measure the dirty rate; probe again once it has ended"
    )]
    MeasuredByOther,
    /// QEMU ended a measurement without a rate.
    #[error("QEMU measured no dirty rate, so the dirty curve has no points beyond those shown")]
    NoDirtyRate,
    /// Another QMP client started a measurement during one of the probe's.
    #[error(
        "a point of the dirty curve is left out: another QMP client started a measurement at the same time"
    )]
    Interrupted,
}

/// Probes a running guest for about `budget`. Never fails: what cannot be measured is missing, and a note
/// says why.
pub async fn probe_guest(monitor: &mut QemuMonitor, budget: Duration) -> ProbeResult {
    let mut result = ProbeResult::default();
    match timeout(budget + GRACE, result.measure(monitor, budget)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => result.notes.push(ProbeNote::MonitorFailed(error)),
        Err(_) => result.notes.push(ProbeNote::CutOff),
    }
    result
}

impl ProbeResult {
    /// Fills itself in step by step, so that what is known stays when the probe is cut off.
    async fn measure(
        &mut self,
        monitor: &mut QemuMonitor,
        budget: Duration,
    ) -> Result<(), QmpError> {
        let tids = monitor.query_vcpu_threads().await?;
        let backends = monitor.query_memory_backends().await?;
        // A QEMU that does not say counts as one with hardware acceleration, as most have.
        self.prior.emulated = monitor.query_is_emulated().await.unwrap_or_default();
        let process = match vcpus::find_qemu_process(&tids) {
            Ok(process) => process,
            Err(error) => {
                self.notes.push(ProbeNote::UnknownThreads(error));
                return Ok(());
            }
        };
        // Before any page is sampled, which may allocate some.
        self.prior.memory = Some(backends.iter().copied().sum()).filter(|all| *all > Bytes(0));
        let (pid, blocks) = (process.pid, backends.clone());
        let read = tokio::task::spawn_blocking(move || contents::nonzero_memory(pid, &blocks));
        self.prior.contents = read.await.ok().flatten();
        if self.prior.contents.is_none() {
            self.notes.push(ProbeNote::UnknownContents { pid });
        }
        let sampling = PageSampling::for_backends(&backends);
        self.covered = sampling.covered_share();
        let clock = CpuClock { tids: &tids };
        let start = clock.read();
        let measured = self.measure_points(monitor, &clock, sampling, budget).await;
        let span = start.and_then(|start| clock.span_since(start));
        self.prior.cpu_demand = span.and_then(CpuSpan::pace);
        measured
    }

    /// Measures points of the dirty curve.
    async fn measure_points(
        &mut self,
        monitor: &mut QemuMonitor,
        clock: &CpuClock<'_>,
        sampling: PageSampling,
        budget: Duration,
    ) -> Result<(), QmpError> {
        let Some(pages_per_gib) = sampling.pages_per_gib() else {
            self.notes.push(ProbeNote::BlocksTooSmall);
            // The CPU demand needs some time to be measured over.
            sleep(PROBE_SPANS[3].min(budget)).await;
            return Ok(());
        };
        let unit = match monitor.query_dirty_rate(CalcTimeUnit::Millisecond).await {
            Ok(_) => CalcTimeUnit::Millisecond,
            Err(QmpError::Rejected { .. }) => CalcTimeUnit::Second,
            Err(error) => return Err(error),
        };
        let Some(mut left) = wait_for_other_measurement(monitor, unit, budget).await? else {
            self.notes.push(ProbeNote::MeasuredByOther);
            return Ok(());
        };
        let growing = PROBE_SPANS.into_iter().filter(|span| *span >= unit.duration());
        let repeated = growing.clone().rev().filter(|span| *span <= MAX_REPEATED_SPAN);
        let mut spans = Vec::new();
        for calc_time in growing.chain(repeated) {
            // The time that QEMU needs for its checksums is not counted: it is within the grace.
            let Some(rest) = left.checked_sub(calc_time) else { continue };
            left = rest;
            let Some(start) = clock.read() else { break };
            monitor.calc_dirty_rate(calc_time, unit, pages_per_gib).await?;
            sleep(calc_time).await;
            let measured = wait_for_result(monitor, unit).await?;
            let Some(span) = clock.span_since(start) else { break };
            let DirtyRateMeasurement::Measured {
                mib_per_second: Some(rate),
                calc_time: took,
                pages_per_gib: pages,
            } = measured
            else {
                self.notes.push(ProbeNote::NoDirtyRate);
                break;
            };
            // A measurement that another client started meanwhile is not of this span.
            if pages != pages_per_gib || took < calc_time || took > span.wall + unit.duration() {
                self.notes.push(ProbeNote::Interrupted);
                continue;
            }
            let point = sampling.point(rate, took, span);
            match spans.iter().position(|known| *known == calc_time) {
                Some(at) => self.prior.points[at] = pool_points(self.prior.points[at], point),
                None => {
                    spans.push(calc_time);
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

impl CalcTimeUnit {
    /// Returns one unit: the shortest measurement, and the resolution of its length.
    fn duration(self) -> Duration {
        match self {
            CalcTimeUnit::Millisecond => Duration::from_millis(1),
            CalcTimeUnit::Second => Duration::from_secs(1),
        }
    }
}

/// Waits until no measurement is going on. Returns what is left of the budget; `None` if it is used up.
async fn wait_for_other_measurement(
    monitor: &mut QemuMonitor,
    unit: CalcTimeUnit,
    budget: Duration,
) -> Result<Option<Duration>, QmpError> {
    let start = Instant::now();
    // The first question does not count: whole spans fill the budget exactly.
    let mut waited = Duration::ZERO;
    while monitor.query_dirty_rate(unit).await? == DirtyRateMeasurement::Measuring {
        sleep(POLL_INTERVAL).await;
        waited = start.elapsed();
        if waited >= budget {
            return Ok(None);
        }
    }
    Ok(Some(budget - waited))
}

/// Waits for the end of a measurement and returns it.
async fn wait_for_result(
    monitor: &mut QemuMonitor,
    unit: CalcTimeUnit,
) -> Result<DirtyRateMeasurement, QmpError> {
    loop {
        match monitor.query_dirty_rate(unit).await? {
            DirtyRateMeasurement::Measuring => sleep(POLL_INTERVAL).await,
            ended => return Ok(ended),
        }
    }
}

/// Returns whether the last two points show that the curve has flattened: they do not grow beyond their
/// errors, although growth in proportion to the CPU time would have shown.
fn is_flat(points: &[CurvePoint]) -> bool {
    let [.., before, last] = points else { return false };
    let error = |point: &CurvePoint| point.error * point.dirtied.as_f64();
    let doubt = 2.0 * error(before).hypot(error(last));
    let grown = last.dirtied.as_f64() - before.dirtied.as_f64();
    let in_proportion = before.dirtied.as_f64() * (last.cpu.0 / before.cpu.0 - 1.0);
    grown <= doubt && in_proportion > 2.0 * doubt
}

/// Reads the CPU time of a guest's vCPUs together with the wall clock.
struct CpuClock<'a> {
    tids: &'a [i32],
}

/// A span of time: how long it was, and how much CPU time the guest used in it.
#[derive(Debug, Clone, Copy)]
struct CpuSpan {
    wall: Duration,
    /// CPU time of all vCPUs together.
    cpu: Duration,
    /// Standard error of `cpu`.
    error: Duration,
}

impl CpuClock<'_> {
    /// Returns the time and the CPU time of all vCPUs; `None` if a counter cannot be read.
    fn read(&self) -> Option<(Instant, Duration)> {
        let counters = vcpus::read_vcpu_counters(self.tids, None);
        let cpu: Option<Duration> = counters.iter().map(|vcpu| vcpu.cpu).sum();
        Some((Instant::now(), cpu?))
    }

    /// Returns the span from an earlier reading until now.
    fn span_since(&self, (then, before): (Instant, Duration)) -> Option<CpuSpan> {
        let (now, cpu) = self.read()?;
        // The counter of a running thread is up to a tick behind, uniformly distributed, at either end.
        let behind = scheduler_tick().div_f64(6f64.sqrt());
        Some(CpuSpan {
            wall: now.duration_since(then),
            cpu: cpu.saturating_sub(before),
            error: behind.mul_f64((self.tids.len() as f64).sqrt()),
        })
    }
}

impl CpuSpan {
    /// Returns the number of CPUs that the guest used on average; `None` for an empty span.
    fn pace(self) -> Option<CpuDemand> {
        (!self.wall.is_zero()).then(|| CpuDemand(self.cpu.div_duration_f64(self.wall)))
    }

    /// Returns the CPU time in a part of the span, in proportion.
    fn cpu_in(self, part: Duration) -> CpuTime {
        CpuTime(self.pace().map_or(0.0, |pace| pace.0 * part.as_secs_f64()))
    }

    /// Returns the relative standard error of the CPU time.
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

    fn point(cpu: f64, mib: u64, error: f64) -> CurvePoint {
        CurvePoint { cpu: CpuTime(cpu), dirtied: Bytes::mib(mib), error }
    }

    #[test]
    fn a_curve_that_no_longer_grows_is_flat() {
        assert!(is_flat(&[point(0.05, 96, 0.02), point(0.1, 97, 0.02)]));
        assert!(!is_flat(&[point(0.05, 40, 0.02), point(0.1, 70, 0.02)]));
        assert!(!is_flat(&[point(0.05, 96, 0.02)]));
    }

    #[test]
    fn points_with_errors_larger_than_any_growth_are_not_called_flat() {
        assert!(!is_flat(&[point(0.05, 1, 0.5), point(0.1, 1, 0.5)]));
        assert!(!is_flat(&[point(0.0, 0, 0.0), point(0.0, 0, 0.0)]));
    }
}
