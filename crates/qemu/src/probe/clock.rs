//! The CPU time of a guest's vCPUs, together with the wall clock.

use std::time::{Duration, Instant};

use landfall_core::units::CpuDemand;

use crate::cgroup::scheduler_tick;
use crate::procfs::SchedStatFile;
use crate::vcpus;

/// Reads the CPU time of all vCPUs of a guest.
#[derive(Debug)]
pub(super) struct CpuClock {
    tids: Vec<i32>,
    /// The files of the threads, kept open. `None` if they cannot all be open at once.
    files: Option<Vec<SchedStatFile>>,
}

/// What the clocks showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuReading {
    /// The wall clock.
    pub(super) at: Instant,
    /// CPU time of all vCPUs together, since they were made.
    pub(super) cpu: Duration,
}

/// A span of time: how long it was, and how much CPU time the guest used in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuSpan {
    pub(super) wall: Duration,
    /// CPU time of all vCPUs together.
    pub(super) cpu: Duration,
    /// Standard error of `cpu`.
    pub(super) error: Duration,
}

impl CpuClock {
    /// Returns a clock of these vCPU threads.
    pub(super) fn open(tids: &[i32]) -> CpuClock {
        let files: Result<Vec<_>, _> = tids.iter().map(|tid| SchedStatFile::open(*tid)).collect();
        CpuClock { tids: tids.to_vec(), files: files.ok() }
    }

    /// Returns the time and the CPU time of all vCPUs; `None` if a counter cannot be read.
    pub(super) fn read(&self) -> Option<CpuReading> {
        let cpu: Option<Duration> = match &self.files {
            Some(files) => files.iter().map(|file| Some(file.read().ok()?.cpu_time)).sum(),
            None => vcpus::read_vcpu_counters(&self.tids, None).iter().map(|vcpu| vcpu.cpu).sum(),
        };
        Some(CpuReading { at: Instant::now(), cpu: cpu? })
    }

    /// Returns the span between two readings.
    pub(super) fn span(&self, from: CpuReading, to: CpuReading) -> CpuSpan {
        // The counter of a running thread is up to a tick behind, uniformly distributed, at either end.
        let behind = scheduler_tick().div_f64(6f64.sqrt());
        CpuSpan {
            wall: to.at.saturating_duration_since(from.at),
            cpu: to.cpu.saturating_sub(from.cpu),
            error: behind.mul_f64((self.tids.len() as f64).sqrt()),
        }
    }
}

impl CpuReading {
    /// Returns what the clocks showed at a moment between this reading and a later one, in proportion.
    pub(super) fn between(self, later: CpuReading, at: Instant) -> CpuReading {
        let wall = later.at.saturating_duration_since(self.at);
        let gone = at.saturating_duration_since(self.at);
        let part = match wall.is_zero() {
            true => 0.0,
            false => gone.div_duration_f64(wall).min(1.0),
        };
        let cpu = self.cpu + later.cpu.saturating_sub(self.cpu).mul_f64(part);
        CpuReading { at: self.at + wall.mul_f64(part), cpu }
    }
}

impl CpuSpan {
    /// Returns the number of CPUs that the guest used on average; `None` for an empty span.
    pub(super) fn pace(self) -> Option<CpuDemand> {
        (!self.wall.is_zero()).then(|| CpuDemand(self.cpu.div_duration_f64(self.wall)))
    }

    /// Returns the relative standard error of the CPU time.
    pub(super) fn relative_error(self) -> f64 {
        match self.cpu.is_zero() {
            true => 0.0,
            false => self.error.div_duration_f64(self.cpu),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_between_two_readings_has_its_part_of_the_cpu_time() {
        let at = Instant::now();
        let ms = Duration::from_millis;
        let from = CpuReading { at, cpu: ms(100) };
        let to = CpuReading { at: at + ms(8), cpu: ms(104) };
        let middle = from.between(to, at + ms(4));
        assert_eq!((middle.at, middle.cpu), (at + ms(4), ms(102)));
        assert_eq!(from.between(to, at + ms(9)).cpu, ms(104));
        assert_eq!(from.between(from, at + ms(9)).cpu, ms(100));
    }

    #[test]
    fn a_thread_that_is_gone_leaves_no_reading() {
        assert!(CpuClock::open(&[i32::MAX]).read().is_none());
        let own = rustix::thread::gettid().as_raw_nonzero().get();
        assert!(CpuClock::open(&[own]).read().is_some());
    }
}
