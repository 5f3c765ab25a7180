//! The vCPU threads of a guest: which process they belong to, and what the kernel counts for each.

use landfall_core::telemetry::sample::VcpuCounters;

use crate::cgroup::CpuLever;
use crate::procfs::{self, Process};

/// Why the thread ids that QEMU names cannot be those of its vCPUs on this host.
///
/// Thread ids from another PID namespace can name the threads of any process here, so threads that do
/// not look like those of one QEMU are never held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VcpuThreadError {
    /// A thread does not exist, or has ended.
    #[error(
        "QEMU says that a vCPU is thread {tid}, and there is no such thread here: QEMU runs on \
         another host or in another PID namespace; run landfall where QEMU runs"
    )]
    NoSuchThread {
        /// The thread.
        tid: i32,
    },
    /// The threads belong to several processes.
    #[error(
        "QEMU says that its vCPUs are threads {tids:?}, but on this host they belong to processes \
         {pids:?}: QEMU runs on another host or in another PID namespace; run landfall where QEMU runs"
    )]
    SeveralProcesses {
        /// The threads.
        tids: Vec<i32>,
        /// The processes they belong to.
        pids: Vec<i32>,
    },
    /// The threads belong to one process, which is not a QEMU ([`procfs::is_qemu`]).
    #[error(
        "QEMU says that its vCPUs are threads {tids:?}, but on this host process {pid} is \
         {program:?}, not a QEMU: QEMU runs on another host or in another PID namespace; run \
         landfall where QEMU runs, or, if that is this guest's QEMU, add --qemu-pid {pid}"
    )]
    NotQemu {
        /// The threads.
        tids: Vec<i32>,
        /// The process they belong to.
        pid: i32,
        /// The file of its program.
        program: String,
    },
}

/// Returns the one process on this host that all these threads belong to.
///
/// # Errors
/// [`VcpuThreadError`], all but [`VcpuThreadError::NotQemu`].
pub fn find_process(tids: &[i32]) -> Result<Process, VcpuThreadError> {
    let mut pids = Vec::new();
    for &tid in tids {
        let pid = procfs::thread_group(tid);
        pids.push(pid.map_err(|_| VcpuThreadError::NoSuchThread { tid })?);
    }
    pids.dedup();
    let [pid] = pids[..] else {
        return Err(VcpuThreadError::SeveralProcesses { tids: tids.to_vec(), pids });
    };
    Process::from_pid(pid).ok_or(VcpuThreadError::NoSuchThread { tid: pid })
}

/// Returns the one QEMU process on this host that all these threads belong to.
///
/// # Errors
/// [`VcpuThreadError`].
pub fn find_qemu_process(tids: &[i32]) -> Result<Process, VcpuThreadError> {
    let process = find_process(tids)?;
    let program = procfs::read_program(process.pid).unwrap_or_default();
    match procfs::is_qemu(&program) {
        true => Ok(process),
        false => Err(VcpuThreadError::NotQemu { tids: tids.to_vec(), pid: process.pid, program }),
    }
}

/// Returns whether all these threads belong to this process.
pub fn are_threads_of(process: Process, tids: &[i32]) -> bool {
    find_process(tids) == Ok(process)
}

/// Returns the kernel's counters of every vCPU, in the order of `tids`: from the lever where there is
/// one, and otherwise from the threads' own files. What cannot be read is `None`.
pub fn read_vcpu_counters(tids: &[i32], lever: Option<&CpuLever>) -> Vec<VcpuCounters> {
    let of = |(vcpu, tid): (usize, &i32)| match lever.map(|lever| lever.vcpu_stats(vcpu)) {
        Some(Ok(stats)) => VcpuCounters {
            cpu: Some(stats.cpu_time),
            // The kernel's run delay includes the time throttled by a quota.
            run_delay: Some(stats.run_delay.saturating_sub(stats.throttled_time)),
            throttled: Some(stats.throttled_time),
            nr_throttled: Some(stats.nr_throttled),
        },
        Some(Err(_)) => VcpuCounters::default(),
        None => unheld_counters(*tid),
    };
    tids.iter().enumerate().map(of).collect()
}

/// Reads CPU time and run-queue wait of a thread that has no lever.
fn unheld_counters(tid: i32) -> VcpuCounters {
    let times = procfs::thread_schedstat(tid).ok();
    VcpuCounters {
        cpu: times.map(|times| times.cpu_time),
        run_delay: times.map(|times| times.run_delay),
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
        assert!(matches!(find_qemu_process(&[own]), Err(VcpuThreadError::NotQemu { .. })));
        let mixed = find_qemu_process(&[own, 1]);
        assert!(matches!(mixed, Err(VcpuThreadError::SeveralProcesses { .. })));
        let missing = VcpuThreadError::NoSuchThread { tid: i32::MAX };
        assert_eq!(find_qemu_process(&[i32::MAX]), Err(missing));
    }
}
