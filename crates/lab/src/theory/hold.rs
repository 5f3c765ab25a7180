//! The two levers, on guests that the experiment has booted itself.
//!
//! There is no guardian here: these guests end with this process, whatever ends it. What a sudden
//! death could leave behind is an empty control group.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use landfall_core::units::Share;
use landfall_qemu::cgroup::{CpuLever, Quota, survey};
use landfall_qemu::monitor::Machine;
use landfall_qemu::qmp::{Address, QmpError};
use landfall_testguest::Vm;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Problem;

/// How a guest is kept from its CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lever {
    /// Not at all.
    Free,
    /// By the CFS bandwidth controller.
    Quota,
    /// By QMP `stop` and `cont` in turns.
    Pause,
}

/// A share of the CPU, and in which periods.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Hold {
    /// What keeps it.
    pub lever: Lever,
    /// What it may have.
    pub share: Share,
    /// In every so much time.
    pub period: Duration,
}

impl Hold {
    /// None.
    pub const FREE: Hold = Hold { lever: Lever::Free, share: Share::FULL, period: Duration::ZERO };

    /// So many percent in periods of so many milliseconds.
    pub fn new(lever: Lever, percent: u64, ms: u64) -> Hold {
        let share = Share::clamped(percent as f64 / 100.0);
        Hold { lever, share, period: Duration::from_millis(ms) }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lever = match self.lever {
            Lever::Free => return f.pad("free"),
            Lever::Quota => "quota",
            Lever::Pause => "pause",
        };
        write!(f, "{lever} {} of {} ms", self.share, self.period.as_millis())
    }
}

/// A hand on each lever of a guest.
pub struct Grip {
    quota: CpuLever,
    /// The harness's monitor, while nobody pauses by it.
    idle: Option<Machine>,
    pauser: Option<Pauser>,
}

struct Pauser {
    wanted: Arc<AtomicBool>,
    task: JoinHandle<(Machine, Result<(), QmpError>)>,
}

impl Grip {
    /// Takes hold of nothing yet.
    pub async fn of(vm: &Vm, tids: &[i32]) -> Result<Grip, Problem> {
        let pid = i32::try_from(vm.pid()).unwrap_or_default();
        let (machine, _) = Machine::connect(&Address::Unix(vm.raw_qmp_socket())).await?;
        Ok(Grip { quota: survey(pid, tids)?, idle: Some(machine), pauser: None })
    }

    /// Holds the guest so, and no longer as before.
    pub async fn hold(&mut self, hold: Hold) -> Result<(), Problem> {
        if let Some(pauser) = self.pauser.take() {
            pauser.wanted.store(false, Ordering::Relaxed);
            let (machine, ended) = pauser.task.await.map_err(std::io::Error::other)?;
            self.idle = Some(machine);
            ended?;
        }
        let quota = (hold.lever == Lever::Quota)
            .then(|| Quota::new(hold.period.mul_f64(hold.share.get()), hold.period));
        self.quota.hold(0, quota)?;
        if hold.lever == Lever::Pause
            && let Some(machine) = self.idle.take()
        {
            let wanted = Arc::new(AtomicBool::new(true));
            let task = tokio::spawn(pause(machine, hold, wanted.clone()));
            self.pauser = Some(Pauser { wanted, task });
        }
        Ok(())
    }
}

impl Drop for Grip {
    fn drop(&mut self) {
        if let Some(pauser) = &self.pauser {
            pauser.task.abort();
        }
    }
}

/// Stops the guest and lets it go on, in turns. What share that really gives the kernel counts.
async fn pause(
    mut machine: Machine,
    hold: Hold,
    wanted: Arc<AtomicBool>,
) -> (Machine, Result<(), QmpError>) {
    let run = hold.period.mul_f64(hold.share.get());
    while wanted.load(Ordering::Relaxed) {
        if let Err(error) = machine.stop().await {
            return (machine, Err(error));
        }
        sleep(hold.period - run).await;
        if let Err(error) = machine.go_on().await {
            return (machine, Err(error));
        }
        sleep(run).await;
    }
    (machine, Ok(()))
}
