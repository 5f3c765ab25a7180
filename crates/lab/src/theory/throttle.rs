//! Throttles guests that the experiment has booted itself, in two ways.
//!
//! There is no guardian here: these guests end with this process, whatever ends it. If it is killed, an empty
//! control group may stay behind.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfall_core::units::Share;
use landfall_qemu::cgroup::{CpuLever, Quota, find_cpu_lever};
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::qmp::{QmpAddress, QmpError};
use landfall_testguest::Vm;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::error::TheoryError;

/// How a guest is throttled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ThrottleKind {
    /// Not at all.
    Free,
    /// By the CFS bandwidth controller.
    Quota,
    /// By QMP `stop` and `cont` in turns.
    Pause,
}

/// How a guest is throttled, and how much.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct ThrottleSetting {
    /// How.
    pub lever: ThrottleKind,
    /// The share of the CPU that it gets.
    pub share: Share,
    /// The period in which it gets that share.
    pub period: Duration,
}

impl ThrottleSetting {
    /// No throttle.
    pub const FREE: ThrottleSetting =
        ThrottleSetting { lever: ThrottleKind::Free, share: Share::FULL, period: Duration::ZERO };

    /// Returns a throttle to a percentage, in periods of so many milliseconds.
    pub fn new(lever: ThrottleKind, percent: u64, ms: u64) -> ThrottleSetting {
        let share = Share::clamped(percent as f64 / 100.0);
        ThrottleSetting { lever, share, period: Duration::from_millis(ms) }
    }
}

impl fmt::Display for ThrottleSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lever = match self.lever {
            ThrottleKind::Free => return f.pad("free"),
            ThrottleKind::Quota => "quota",
            ThrottleKind::Pause => "pause",
        };
        write!(f, "{lever} {} of {} ms", self.share, self.period.as_millis())
    }
}

/// Throttles one guest.
pub struct Throttler {
    quota: CpuLever,
    /// A monitor of the guest's QEMU, while the pauser does not use it.
    idle: Option<QemuMonitor>,
    pauser: Option<Pauser>,
}

struct Pauser {
    wanted: Arc<AtomicBool>,
    task: JoinHandle<(QemuMonitor, Result<(), QmpError>)>,
}

impl Throttler {
    /// Finds the control group of the threads; throttles nothing yet.
    pub async fn new(vm: &Vm, tids: &[i32]) -> Result<Throttler, TheoryError> {
        let pid = i32::try_from(vm.pid()).unwrap_or_default();
        let (machine, _) = QemuMonitor::connect(&QmpAddress::Unix(vm.raw_qmp_socket())).await?;
        Ok(Throttler { quota: find_cpu_lever(pid, tids)?, idle: Some(machine), pauser: None })
    }

    /// Throttles the guest in this way from now on.
    pub async fn set(&mut self, hold: ThrottleSetting) -> Result<(), TheoryError> {
        if let Some(pauser) = self.pauser.take() {
            pauser.wanted.store(false, Ordering::Relaxed);
            let (machine, ended) = pauser.task.await.map_err(std::io::Error::other)?;
            self.idle = Some(machine);
            ended?;
        }
        let quota = (hold.lever == ThrottleKind::Quota)
            .then(|| Quota::new(hold.period.mul_f64(hold.share.get()), hold.period));
        self.quota.hold_vcpu(0, quota)?;
        if hold.lever == ThrottleKind::Pause
            && let Some(machine) = self.idle.take()
        {
            let wanted = Arc::new(AtomicBool::new(true));
            let task = tokio::spawn(pause(machine, hold, wanted.clone()));
            self.pauser = Some(Pauser { wanted, task });
        }
        Ok(())
    }
}

impl Drop for Throttler {
    fn drop(&mut self) {
        if let Some(pauser) = &self.pauser {
            pauser.task.abort();
        }
    }
}

/// Interrupts and resumes the guest in turns. The share that this really gives is counted by the kernel.
async fn pause(
    mut machine: QemuMonitor,
    hold: ThrottleSetting,
    wanted: Arc<AtomicBool>,
) -> (QemuMonitor, Result<(), QmpError>) {
    let run = hold.period.mul_f64(hold.share.get());
    while wanted.load(Ordering::Relaxed) {
        if let Err(error) = machine.stop().await {
            return (machine, Err(error));
        }
        sleep(hold.period - run).await;
        if let Err(error) = machine.cont().await {
            return (machine, Err(error));
        }
        sleep(run).await;
    }
    (machine, Ok(()))
}
