//! Finds the hierarchy that has the cpu controller, and a thread's group in it.
//!
//! A host may mount hierarchies of v1 and v2 at once. The thread's own `/proc/PID/task/TID/cgroup` tells
//! where the *controller* is: a line that names `cpu` belongs to the v1 hierarchy that has it; without
//! such a line the unified hierarchy has it, if any does.

use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::group::CgroupDir;
use super::parse;
use crate::procfs::parse::{CgroupMount, TaskStat};
use crate::procfs::{self, ProcError};

/// The two interfaces of the cpu controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CgroupVersion {
    /// `cpu.cfs_quota_us` and `cpu.cfs_period_us`; any thread may be in any group.
    V1,
    /// `cpu.max`; threads of one process may be in different groups only inside a threaded subtree.
    V2,
}

/// The cgroup mounts in landfall's mount namespace.
pub(super) struct Hierarchies(Vec<CgroupMount>);

impl Hierarchies {
    /// Reads the mounts.
    ///
    /// # Errors
    /// [`CgroupError::Proc`].
    pub(super) fn read_mounted() -> Result<Self, CgroupError> {
        Ok(Self(procfs::cgroup_mounts()?))
    }

    /// Returns the group of a thread in the hierarchy that has the cpu controller.
    ///
    /// # Errors
    /// [`CgroupError::NoSuchThread`], [`CgroupError::NotMounted`],
    /// [`CgroupError::OutsideNamespace`].
    pub(super) fn cpu_group_of(&self, pid: i32, tid: i32) -> Result<CgroupDir, CgroupError> {
        let membership = procfs::thread_membership(pid, tid).map_err(thread_error(pid, tid))?;
        let (version, group) = match (membership.v1_cpu, membership.v2) {
            (Some(group), _) => (CgroupVersion::V1, group),
            (None, Some(group)) => (CgroupVersion::V2, group),
            (None, None) => return Err(not_mounted(CgroupVersion::V2)),
        };

        let has_cpu = |mount: &&CgroupMount| match &mount.v1_controllers {
            Some(names) => version == CgroupVersion::V1 && names.iter().any(|name| name == "cpu"),
            None => version == CgroupVersion::V2,
        };
        let mounts: Vec<&CgroupMount> = self.0.iter().filter(has_cpu).collect();
        if mounts.is_empty() {
            return Err(not_mounted(version));
        }
        // A mount made in another cgroup namespace can show another group at the same path, so a
        // directory counts only if it lists the thread.
        mounts
            .into_iter()
            .filter_map(|mount| {
                let path = parse::group_directory(&group, mount)?;
                Some(CgroupDir { path, version, top: mount.point.clone() })
            })
            .find(|found| found.threads().is_ok_and(|threads| threads.contains(&tid)))
            .ok_or(CgroupError::OutsideNamespace { tid, group })
    }
}

/// Returns what the kernel says about a running thread.
///
/// # Errors
/// [`CgroupError::NoSuchThread`] if it is not there or has ended.
pub(super) fn thread_stat(pid: i32, tid: i32) -> Result<TaskStat, CgroupError> {
    procfs::thread_stat(pid, tid).map_err(thread_error(pid, tid))
}

/// Turns an error of reading a thread's file into what it means for the lever.
pub(super) fn thread_error(pid: i32, tid: i32) -> impl Fn(ProcError) -> CgroupError {
    move |error| match error {
        ProcError::Ended { .. } => CgroupError::NoSuchThread { pid, tid },
        error => CgroupError::Proc(error),
    }
}

fn not_mounted(version: CgroupVersion) -> CgroupError {
    let (version, remedy) = match version {
        CgroupVersion::V1 => {
            ("v1", "mkdir -p /sys/fs/cgroup/cpu && mount -t cgroup -o cpu cpu /sys/fs/cgroup/cpu")
        }
        CgroupVersion::V2 => ("v2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    };
    CgroupError::NotMounted { version, remedy }
}
