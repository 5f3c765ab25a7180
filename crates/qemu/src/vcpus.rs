//! Whose the vCPU threads are, and what the kernel counts of each.

use std::fs;
use std::time::Duration;

use landfall_core::telemetry::sample::VcpuCounters;
use serde::{Deserialize, Serialize};

use crate::cgroup::CpuLever;

/// A QEMU process on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot: with the id, it names one process for good.
    pub started: u64,
}

/// Why the threads QEMU names cannot be taken for its vCPUs on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotHere {
    /// No such thread.
    #[error(
        "QEMU says that a vCPU is thread {0}, and there is no such thread here: QEMU runs on \
         another host or in another PID namespace; run landfall where QEMU runs"
    )]
    NoThread(i32),
    /// The threads are not of one QEMU process.
    #[error(
        "QEMU says that its vCPUs are threads {tids:?}, but on this host {what}: QEMU runs on \
         another host or in another PID namespace; run landfall where QEMU runs"
    )]
    NotQemu {
        /// The threads.
        tids: Vec<i32>,
        /// What they are instead.
        what: String,
    },
}

/// Finds the one QEMU process on this host that all the threads belong to.
///
/// # Errors
/// [`NotHere`]: thread ids from another namespace could name anybody's threads, so what does not
/// look like one QEMU is not touched.
pub fn process_of(tids: &[i32]) -> Result<Process, NotHere> {
    let owner = |tid: &i32| {
        let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse::<i32>().ok())
    };
    let mut owners = Vec::new();
    for tid in tids {
        owners.push(owner(tid).ok_or(NotHere::NoThread(*tid))?);
    }
    owners.dedup();
    let not_qemu = |what: String| NotHere::NotQemu { tids: tids.to_vec(), what };
    let [pid] = owners[..] else {
        return Err(not_qemu(format!("they belong to processes {owners:?}")));
    };
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = String::from_utf8_lossy(command.split(|b| *b == 0).next().unwrap_or_default());
    let name = program.rsplit('/').next().unwrap_or_default();
    if !(name.starts_with("qemu-") || name == "qemu" || name == "kvm") {
        return Err(not_qemu(format!("process {pid} is {program:?}, not a QEMU")));
    }
    let started = started(pid).ok_or(NotHere::NoThread(pid))?;
    Ok(Process { pid, started })
}

impl Process {
    /// The one that has this id now; `None` where there is none.
    pub fn of(pid: i32) -> Option<Process> {
        Some(Process { pid, started: started(pid)? })
    }

    /// Whether it still exists.
    pub fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// Whether all these threads are its own.
    pub fn has(self, tids: &[i32]) -> bool {
        process_of(tids) == Ok(self)
    }
}

/// Field 22 of `/proc/pid/stat`, counted from behind the command's name, which may hold anything.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    (state != "Z").then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// The kernel's counters of every vCPU, in QEMU's order; `None` for what cannot be read.
pub fn counters(tids: &[i32], lever: Option<&CpuLever>) -> Vec<VcpuCounters> {
    let of = |(vcpu, tid): (usize, &i32)| match lever.map(|lever| lever.stats(vcpu)) {
        Some(Ok(stats)) => VcpuCounters {
            cpu: Some(stats.ran),
            // The kernel counts a quota's gaps as waiting, too.
            run_delay: Some(stats.waited.saturating_sub(stats.throttled)),
            throttled: Some(stats.throttled),
            nr_throttled: Some(stats.throttled_periods),
        },
        Some(Err(_)) => VcpuCounters::default(),
        None => schedstat(*tid),
    };
    tids.iter().enumerate().map(of).collect()
}

/// CPU time and run-queue wait of a thread nobody holds.
fn schedstat(tid: i32) -> VcpuCounters {
    let text = fs::read_to_string(format!("/proc/{tid}/schedstat")).unwrap_or_default();
    let mut fields = text.split_whitespace().map(|ns| ns.parse().ok().map(Duration::from_nanos));
    VcpuCounters {
        cpu: fields.next().flatten(),
        run_delay: fields.next().flatten(),
        throttled: None,
        nr_throttled: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_something_else_than_a_qemu_are_not_touched() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        assert!(matches!(process_of(&[own]), Err(NotHere::NotQemu { .. })));
        assert!(matches!(process_of(&[own, 1]), Err(NotHere::NotQemu { .. })));
        assert_eq!(process_of(&[i32::MAX]), Err(NotHere::NoThread(i32::MAX)));
    }

    #[test]
    fn a_process_that_is_gone_is_not_alive_even_if_its_number_is_used_again() {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        let process = Process { pid: own, started: started(own).unwrap() };
        assert!(process.is_alive());
        assert!(!Process { started: process.started + 1, ..process }.is_alive());
    }
}
