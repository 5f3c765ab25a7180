//! Measures a running guest before a migration, from outside: points of its dirty curve, how much of its
//! memory has contents, how much CPU it uses.
//!
//! The probe takes checksums of pages spread over the guest's memory and compares them a while later. That
//! works under every accelerator, needs no dirty logging, and leaves the guest's memory as it is: only pages
//! that are present are read ([`sampler`] says how, and what is left to chance). QEMU's own `calc-dirty-rate`
//! reads pages that are not present too, and so populates them: a guest on huge pages without reservation
//! ends when the pool is used up, and memory that was given back is there again
//! (`docs/measurements/looks.md`).
//!
//! QEMU tells where the guest's memory is (`x-query-ramblock`), and the process's memory map has to agree.
//! QEMU 7.2 does not tell, and then the guest's memory is told from other mappings by its size. All
//! blocks that a migration transfers count: RAM, DIMMs, virtio-mem, video memory, ROMs.
//!
//! The probe measures over growing spans until the curve is seen to be flat or the budget is used up. What is
//! left of the budget goes into a second measurement over the short spans. The looks run in a thread of their
//! own, are sized to take less than a quarter of one CPU after the first, and never wait for QEMU. A probe that is dropped leaves at most one
//! look behind, which ends by itself within a fraction of a second.
//!
//! The probe does not see writes that leave a page as it was, and in shared memory neither pages that QEMU
//! itself has not touched: those that only another process has written (vhost-user). Nothing is changed in
//! the guest or in QEMU, so nothing has to be put back.

mod clock;
mod estimate;
mod regions;
mod sampler;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::{PROBE_SPANS, Prior};
use landfall_core::units::{Bytes, Share};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, sleep_until, timeout};

use crate::cgroup::is_scheduler_replaced;
use crate::identity::{IdentityError, find_guest_process};
use crate::monitor::QemuMonitor;
use crate::procfs::maps::{Mapping, read_mappings};
use crate::procfs::{ProcError, Process};
use crate::qmp::QmpError;
use crate::ram_blocks::RamBlock;
use clock::{CpuClock, CpuReading, CpuSpan};
use estimate::{curve_point, nonzero_memory, pool_points};
use regions::GuestMemory;
use sampler::{ClosedFile, GuestLook, MemorySampler};

/// Spans up to this are measured a second time if the budget allows it. A guest that works in phases of
/// fractions of a second shows a different point each time, and only the difference tells
/// (`docs/theory.md`).
const MAX_REPEATED_SPAN: Duration = Duration::from_millis(500);

/// The most pages of one look. The standard error of a part p of the memory is at most the square root of
/// p(1-p)/pages: 0.4 % of the memory. By the cost of a page in `docs/measurements/looks.md` they take some
/// 50 ms and the checksums.
const MAX_PAGES: u64 = 16384;

/// The fewest pages of one look, whatever they take.
const MIN_PAGES: u64 = 256;

/// The pages of the look for contents. Contents in one stretch are then known to within 1/8192 of the memory,
/// scattered ones to half a percentage point.
const CONTENTS_PAGES: u64 = 8192;

/// The part of a span that each of its two looks may take in CPU time. Chosen so that looks, which follow one
/// another without a rest, take 2/8 in 1 + 1/8: less than a quarter of one CPU.
const LOOK_SHARE: f64 = 1.0 / 8.0;

/// How long the guest's CPU demand is measured where its memory cannot be looked at.
const DEMAND_SPAN: Duration = Duration::from_millis(500);

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
    /// QEMU's monitor failed.
    #[error("the probe ended early: {0}")]
    MonitorFailed(QmpError),
    /// The probe took longer than its budget and a second.
    #[error("the probe was cut off: QEMU or the kernel took too long")]
    CutOff,
    /// It is not certain which process the guest is, and nothing of another is looked at.
    #[error(transparent)]
    UnknownProcess(IdentityError),
    /// The memory map of QEMU has no mapping where QEMU says that the guest's memory is, or none of its size.
    #[error(
        "the dirty curve and how much memory has contents are not known: /proc/{pid}/maps shows no \
         mapping that is the guest's memory"
    )]
    MemoryNotFound {
        /// The QEMU process.
        pid: i32,
    },
    /// The memory map of QEMU cannot be read.
    #[error("the dirty curve and how much memory has contents are not known: {0}")]
    MapUnreadable(ProcError),
    /// The kernel does not let landfall read the memory of QEMU.
    #[error(
        "the dirty curve and how much memory has contents are not known, and the forecast is the wider \
         for it: cannot open {path}: {source}; a look at a guest's memory takes the right to trace QEMU: \
         root, CAP_SYS_PTRACE, or QEMU's own user where kernel.yama.ptrace_scope is 0", path = path.display()
    )]
    MayNotTrace {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Some blocks of memory are not mapped where QEMU says, are those of a device, or cannot be read.
    #[error(
        "the dirty curve and the contents are without {size} of the guest's memory, which cannot be looked \
         at in QEMU's memory map: {blocks:?}"
    )]
    BlocksLeftOut {
        /// How much.
        size: Bytes,
        /// QEMU's names of the blocks.
        blocks: Vec<String>,
    },
    /// The CPU time of a vCPU cannot be read.
    #[error(
        "the dirty curve is not known: the CPU time of the vCPUs cannot be read from their schedstat below \
         /proc; the kernel needs CONFIG_SCHED_INFO"
    )]
    NoCpuTime,
    /// A program has replaced the kernel's scheduler.
    #[error(
        "a program has replaced this host's scheduler (/sys/kernel/sched_ext): it need not keep the quotas \
         that hold vCPUs, so that a guest may lose less than forecast, and take longer to land or not land"
    )]
    SchedulerReplaced,
    /// QEMU has ended.
    #[error("the probe ended early: QEMU, process {pid}, has ended")]
    QemuEnded {
        /// The QEMU process.
        pid: i32,
    },
}

/// Probes a running guest for about `budget`. Never fails: what cannot be measured is missing, and a note
/// says why.
///
/// `vouched` is the process that the operator says the guest is, where another program serves its monitor.
pub async fn probe_guest(
    monitor: &mut QemuMonitor,
    vouched: Option<i32>,
    budget: Duration,
) -> ProbeResult {
    let mut result = ProbeResult::default();
    match timeout(budget + GRACE, result.measure(monitor, vouched, budget)).await {
        Ok(Ok(())) => {}
        Ok(Err(note)) => result.notes.push(note),
        Err(_) => result.notes.push(ProbeNote::CutOff),
    }
    result
}

impl ProbeResult {
    /// Fills itself in step by step, so that what is known stays when the probe is cut off.
    async fn measure(
        &mut self,
        monitor: &mut QemuMonitor,
        vouched: Option<i32>,
        budget: Duration,
    ) -> Result<(), ProbeNote> {
        let tids = monitor.query_vcpu_threads().await.map_err(ProbeNote::MonitorFailed)?;
        let memory = MemoryQuery::ask(monitor).await.map_err(ProbeNote::MonitorFailed)?;
        // A QEMU that does not say counts as one with hardware acceleration, as most have.
        self.prior.emulated = monitor.query_is_emulated().await.unwrap_or_default();
        let process =
            find_guest_process(monitor, &tids, vouched).map_err(ProbeNote::UnknownProcess)?;
        self.prior.memory = Some(memory.total()).filter(|all| *all > Bytes(0));
        if is_scheduler_replaced() {
            self.notes.push(ProbeNote::SchedulerReplaced);
        }
        let clock = CpuClock::open(&tids);
        let start = clock.read();
        match self.open_memory(process, memory).await {
            Ok(sampler) => {
                let mut looks = Looks::new(process.pid, sampler, clock);
                let measured = self.measure_memory(&mut looks, budget).await;
                self.set_demand(start, &looks.clock);
                measured
            }
            Err(note) => {
                sleep(DEMAND_SPAN.min(budget)).await;
                self.set_demand(start, &clock);
                Err(note)
            }
        }
    }

    fn set_demand(&mut self, start: Option<CpuReading>, clock: &CpuClock) {
        let span = start.zip(clock.read()).map(|(start, now)| clock.span(start, now));
        self.prior.cpu_demand = span.and_then(CpuSpan::pace);
    }

    /// Finds and opens the guest's memory.
    async fn open_memory(
        &mut self,
        process: Process,
        query: MemoryQuery,
    ) -> Result<MemorySampler, ProbeNote> {
        let pid = process.pid;
        let ended = ProbeNote::QemuEnded { pid };
        let open = move || {
            let mappings = read_mappings(pid).map_err(ProbeNote::MapUnreadable)?;
            let memory = query.find(&mappings).ok_or(ProbeNote::MemoryNotFound { pid })?;
            let sampler = MemorySampler::open(pid, &memory).map_err(|closed| match closed {
                closed if closed.is_gone() => ProbeNote::QemuEnded { pid },
                ClosedFile { path, source } => ProbeNote::MayNotTrace { path, source },
            })?;
            Ok((memory, sampler))
        };
        let (memory, sampler) = spawn_blocking(open).await.unwrap_or(Err(ended))?;
        // The files are those of the process that has the vCPUs, and not of a later one with its id.
        if !process.is_alive() {
            return Err(ProbeNote::QemuEnded { pid });
        }
        let covered = memory.covered();
        self.covered = Some(Share::clamped(covered.as_f64() / memory.total.as_f64().max(1.0)));
        if !memory.left_out.is_empty() {
            let size = Bytes(memory.total.0.saturating_sub(covered.0));
            self.notes.push(ProbeNote::BlocksLeftOut { size, blocks: memory.left_out });
        }
        Ok(sampler)
    }

    /// Measures how much memory has contents, and points of the dirty curve.
    async fn measure_memory(
        &mut self,
        looks: &mut Looks,
        budget: Duration,
    ) -> Result<(), ProbeNote> {
        let covered = looks.sampler.covered();
        let chosen = looks.choose_pages(CONTENTS_PAGES);
        let look = looks.look(&chosen).await?;
        self.prior.contents = nonzero_memory(&look.pages, covered);
        let mut left = budget;
        let repeated = PROBE_SPANS.into_iter().rev().filter(|span| *span <= MAX_REPEATED_SPAN);
        let mut spans = Vec::new();
        for span in PROBE_SPANS.into_iter().chain(repeated) {
            // The time that the looks take is not counted: it is within the grace.
            let Some(rest) = left.checked_sub(span) else { continue };
            left = rest;
            let point = looks.measure_point(span).await?;
            match spans.iter().position(|known| *known == span) {
                Some(at) => self.prior.points[at] = pool_points(self.prior.points[at], point),
                None => {
                    spans.push(span);
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

/// What QEMU says about the guest's memory.
enum MemoryQuery {
    /// Its blocks, with their addresses.
    Blocks(Vec<RamBlock>),
    /// The sizes of its backends: all that is known from a QEMU that tells no addresses.
    Backends(Vec<Bytes>),
}

impl MemoryQuery {
    async fn ask(monitor: &mut QemuMonitor) -> Result<MemoryQuery, QmpError> {
        let blocks = monitor.query_ram_blocks().await?.unwrap_or_default();
        if !blocks.is_empty() && blocks.iter().all(|block| block.address.is_some()) {
            return Ok(MemoryQuery::Blocks(blocks));
        }
        Ok(MemoryQuery::Backends(monitor.query_memory_backends().await?))
    }

    fn total(&self) -> Bytes {
        let sizes: Vec<Bytes> = match self {
            MemoryQuery::Blocks(blocks) => blocks.iter().map(|block| block.used).collect(),
            MemoryQuery::Backends(sizes) => sizes.clone(),
        };
        sizes.into_iter().fold(Bytes(0), |sum, size| Bytes(sum.0.saturating_add(size.0)))
    }

    fn find(&self, mappings: &[Mapping]) -> Option<GuestMemory> {
        match self {
            MemoryQuery::Blocks(blocks) => GuestMemory::by_address(blocks, mappings),
            MemoryQuery::Backends(sizes) => GuestMemory::by_size(sizes, mappings),
        }
    }
}

/// Takes looks at a guest, in a thread of their own, and keeps what they cost.
struct Looks {
    pid: i32,
    sampler: Arc<MemorySampler>,
    clock: Arc<CpuClock>,
    /// CPU time of the latest look for each page.
    page_cost: Duration,
    /// How many looks pages were chosen for: each chooses others.
    chosen: u64,
}

impl Looks {
    fn new(pid: i32, sampler: MemorySampler, clock: CpuClock) -> Looks {
        let (sampler, clock) = (Arc::new(sampler), Arc::new(clock));
        Looks { pid, sampler, clock, page_cost: Duration::ZERO, chosen: 0 }
    }

    fn choose_pages(&mut self, count: u64) -> Arc<[u64]> {
        self.chosen += 1;
        self.sampler.choose_pages(count, self.chosen).into()
    }

    /// Looks at pages.
    async fn look(&mut self, pages: &Arc<[u64]>) -> Result<GuestLook, ProbeNote> {
        let (sampler, clock) = (Arc::clone(&self.sampler), Arc::clone(&self.clock));
        let asked = Arc::clone(pages);
        let look = spawn_blocking(move || sampler.look(&asked, &clock)).await;
        let look = look.ok().and_then(Result::ok).ok_or(ProbeNote::QemuEnded { pid: self.pid })?;
        self.page_cost = look.cost / (look.pages.len() as u32).max(1);
        Ok(look)
    }

    /// Returns how many pages can be looked at in the part of a span that a look may take.
    fn pages_for(&self, span: Duration) -> u64 {
        let pages = span.mul_f64(LOOK_SHARE).as_nanos() / self.page_cost.as_nanos().max(1);
        u64::try_from(pages).unwrap_or(u64::MAX).clamp(MIN_PAGES, MAX_PAGES)
    }

    /// Measures what is dirtied in a span.
    async fn measure_point(&mut self, span: Duration) -> Result<CurvePoint, ProbeNote> {
        let pages = self.choose_pages(self.pages_for(span));
        let start = Instant::now();
        let before = self.look(&pages).await?;
        sleep_until((start + span).into()).await;
        let after = self.look(&pages).await?;
        let (from, to) = before.at.zip(after.at).ok_or(ProbeNote::NoCpuTime)?;
        let span = self.clock.span(from, to);
        let point = curve_point(&before.pages, &after.pages, self.sampler.covered(), span);
        point.ok_or(ProbeNote::MemoryNotFound { pid: self.pid })
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

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::units::CpuTime;

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
