//! A guest under observation: its monitor, its CPU time, its own count of its work.

use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes, CpuTime};
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::qmp::QmpAddress;
use landfall_testguest::{GuestSpec, MigrationPair, RawQmp};
use serde::Serialize;
use tokio::time::sleep;

use super::error::TheoryError;
use super::throttle::{ThrottleSetting, Throttler};
use super::trace::CpuTrace;

/// How long the guest is watched undisturbed, for what it does in a second of its CPU time.
const UNDISTURBED: Duration = Duration::from_millis(1500);

/// For an answer of QEMU.
const PATIENCE: Duration = Duration::from_secs(10);

/// The trace is behind by a reading.
const TRACE_BEHIND: Duration = Duration::from_millis(8);

/// A guest at work, and the way to another place.
pub struct TheoryStage {
    /// It, its destination and the link.
    pub pair: MigrationPair,
    /// landfall's client on its monitor, which takes one client at a time.
    machine: Option<QemuMonitor>,
    /// The levers on it.
    pub throttler: Throttler,
    trace: CpuTrace,
    /// Beats in a second of CPU time while nothing disturbs it.
    beats_per_cpu: f64,
    /// Share of a CPU it takes then.
    pub pace: f64,
}

/// How distinct dirtied memory was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// `calc-dirty-rate`, comparing checksums of sampled pages.
    Sampling,
    /// Two looks of a running migration at the dirty bitmap.
    Syncs,
}

/// One measurement.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct StageObservation {
    /// By which means.
    pub means: Means,
    /// Under which hold.
    pub hold: ThrottleSetting,
    /// Wall time it was over.
    pub wall: Duration,
    /// The guest's CPU time meanwhile, by the kernel.
    pub cpu: CpuTime,
    /// Its work meanwhile, by its own beats, as the CPU time that work takes undisturbed.
    pub work: CpuTime,
    /// Distinct memory dirtied.
    pub dirtied: Bytes,
    /// Relative standard error of that.
    pub error: f64,
}

impl TheoryStage {
    /// Boots a guest and watches it for a while.
    pub async fn boot(spec: &GuestSpec, link: ByteRate) -> Result<TheoryStage, TheoryError> {
        let pair = MigrationPair::boot(spec, link)?;
        let (mut machine, _) =
            QemuMonitor::connect(&QmpAddress::Unix(pair.source.qmp_socket())).await?;
        let tids = machine.query_vcpu_threads().await?;
        let throttler = Throttler::new(&pair.source, &tids).await?;
        let trace = CpuTrace::start(tids)?;
        let mut stage = TheoryStage {
            pair,
            machine: Some(machine),
            throttler,
            trace,
            beats_per_cpu: f64::NAN,
            pace: f64::NAN,
        };
        sleep(TRACE_BEHIND).await;
        let from = Instant::now();
        sleep(UNDISTURBED).await;
        let to = Instant::now();
        sleep(TRACE_BEHIND).await;
        let cpu = stage.cpu(from, to).ok_or(TheoryError::NoCounters)?;
        stage.beats_per_cpu = stage.beats(from, to) / cpu.0;
        stage.pace = cpu.0 / (to - from).as_secs_f64();
        Ok(stage)
    }

    /// Its monitor, by landfall's client.
    pub async fn machine(&mut self) -> Result<&mut QemuMonitor, TheoryError> {
        let machine = match self.machine.take() {
            Some(machine) => machine,
            None => QemuMonitor::connect(&QmpAddress::Unix(self.pair.source.qmp_socket())).await?.0,
        };
        Ok(self.machine.insert(machine))
    }

    /// Its monitor, by the harness's client, for what landfall's does not ask.
    pub fn raw_machine(&mut self) -> Result<RawQmp, TheoryError> {
        self.machine = None;
        Ok(RawQmp::connect(&self.pair.source.qmp_socket(), PATIENCE)?)
    }

    /// CPU time of its vCPUs between two moments.
    pub fn cpu(&self, from: Instant, to: Instant) -> Option<CpuTime> {
        self.trace.used(from, to)
    }

    fn beats(&self, from: Instant, to: Instant) -> f64 {
        self.pair.source.heartbeats().timeline().beats_in(0, from, to).len() as f64
    }

    /// What was measured between two moments, once the trace has caught up with the later one.
    pub async fn observe(
        &self,
        means: Means,
        hold: ThrottleSetting,
        (from, to): (Instant, Instant),
        dirtied: Bytes,
        error: f64,
    ) -> Result<StageObservation, TheoryError> {
        while to.elapsed() < TRACE_BEHIND {
            sleep(TRACE_BEHIND).await;
        }
        Ok(StageObservation {
            means,
            hold,
            wall: to - from,
            cpu: self.cpu(from, to).ok_or(TheoryError::NoCounters)?,
            work: CpuTime(self.beats(from, to) / self.beats_per_cpu),
            dirtied,
            error,
        })
    }
}
