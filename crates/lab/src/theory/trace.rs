//! The CPU time of a guest's vCPUs at every moment, by the kernel's count.

use landfall_core::units::CpuTime;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use landfall_qemu::vcpus;

/// How often the kernel is asked. Its counter of a running thread moves at the scheduler's tick
/// (4 ms at 250 Hz), so more would show nothing new.
const STEP: Duration = Duration::from_millis(2);

/// A thread that reads the counters until it is dropped.
pub struct CpuTrace {
    points: Arc<Mutex<Vec<(Instant, f64)>>>,
    wanted: Arc<AtomicBool>,
}

impl CpuTrace {
    /// Starts to read the counters of these threads.
    pub fn start(tids: Vec<i32>) -> std::io::Result<CpuTrace> {
        let points = Arc::new(Mutex::new(Vec::new()));
        let wanted = Arc::new(AtomicBool::new(true));
        let (its_points, still_wanted) = (points.clone(), wanted.clone());
        thread::Builder::new().name("trace".to_owned()).spawn(move || {
            while still_wanted.load(Ordering::Relaxed) {
                let counters = vcpus::read_vcpu_counters(&tids, None);
                let cpu: Option<Duration> = counters.iter().map(|vcpu| vcpu.cpu).sum();
                if let Some(cpu) = cpu {
                    let mut points = its_points.lock().unwrap_or_else(PoisonError::into_inner);
                    points.push((Instant::now(), cpu.as_secs_f64()));
                }
                thread::sleep(STEP);
            }
        })?;
        Ok(CpuTrace { points, wanted })
    }

    /// CPU time used between two moments; `None` where there is no reading on either side of both.
    pub fn used(&self, from: Instant, to: Instant) -> Option<CpuTime> {
        let points = self.points.lock().unwrap_or_else(PoisonError::into_inner);
        Some(CpuTime(at(&points, to)? - at(&points, from)?))
    }
}

impl Drop for CpuTrace {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

/// The reading at a moment, on the line between the one before and the one after.
fn at(points: &[(Instant, f64)], moment: Instant) -> Option<f64> {
    let after = points.partition_point(|(at, _)| *at < moment);
    let (before, next) = (points.get(after.checked_sub(1)?)?, points.get(after)?);
    let part = (moment - before.0).div_duration_f64(next.0 - before.0);
    Some(before.1 + part * (next.1 - before.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_two_readings_the_counter_is_on_the_line() {
        let now = Instant::now();
        let points = [(now, 1.0), (now + Duration::from_millis(10), 2.0)];
        assert_eq!(at(&points, now + Duration::from_millis(5)), Some(1.5));
        assert_eq!(at(&points, now), None);
        assert_eq!(at(&points, now + Duration::from_millis(11)), None);
    }
}
