//! Finds the hierarchy that has the cpu controller, and a thread's group in it.
//!
//! A machine may mount both kinds at once. What decides is where the *controller* is, and the
//! thread's own `/proc/<pid>/task/<tid>/cgroup` says so: a line that names `cpu` is a v1 hierarchy
//! that has it; without such a line the unified hierarchy has it, if any does.

use super::error::CgroupError;
use super::group::Group;
use super::text;
use crate::procfs::parse::{CgroupMount, TaskStat};
use crate::procfs::{self, ProcError};

/// The two interfaces of the cpu controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// `cpu.cfs_quota_us` and `cpu.cfs_period_us`; any thread may be in any group.
    V1,
    /// `cpu.max`; threads of one process may part only inside a threaded subtree.
    V2,
}

/// The cgroup mounts that this process sees.
pub(super) struct Hierarchies(Vec<CgroupMount>);

impl Hierarchies {
    /// Reads `/proc/self/mountinfo`.
    pub(super) fn here() -> Result<Self, CgroupError> {
        Ok(Self(procfs::cgroup_mounts()?))
    }

    /// The group of a thread where the cpu controller is.
    ///
    /// # Errors
    /// [`CgroupError::NoSuchThread`], [`CgroupError::NotMounted`],
    /// [`CgroupError::OutsideNamespace`].
    pub(super) fn group_of(&self, pid: i32, tid: i32) -> Result<Group, CgroupError> {
        let membership = procfs::thread_membership(pid, tid).map_err(of_thread(pid, tid))?;
        let (version, group) = match (membership.v1_cpu, membership.v2) {
            (Some(group), _) => (Version::V1, group),
            (None, Some(group)) => (Version::V2, group),
            (None, None) => return Err(not_mounted(Version::V2)),
        };

        let has_cpu = |mount: &&CgroupMount| match &mount.v1_controllers {
            Some(names) => version == Version::V1 && names.iter().any(|name| name == "cpu"),
            None => version == Version::V2,
        };
        let mounts: Vec<&CgroupMount> = self.0.iter().filter(has_cpu).collect();
        if mounts.is_empty() {
            return Err(not_mounted(version));
        }
        // A mount made in another cgroup namespace can show another group under the same name, so
        // a directory counts only if it lists the thread.
        mounts
            .into_iter()
            .filter_map(|mount| {
                let path = text::directory_of(&group, mount)?;
                Some(Group { path, version, top: mount.point.clone() })
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
    procfs::thread_stat(pid, tid).map_err(of_thread(pid, tid))
}

/// Turns an error of reading a thread's file into what it means for the lever.
pub(super) fn of_thread(pid: i32, tid: i32) -> impl Fn(ProcError) -> CgroupError {
    move |error| match error {
        ProcError::Ended { .. } => CgroupError::NoSuchThread { pid, tid },
        error => CgroupError::Proc(error),
    }
}

fn not_mounted(version: Version) -> CgroupError {
    let (version, remedy) = match version {
        Version::V1 => {
            ("v1", "mkdir -p /sys/fs/cgroup/cpu && mount -t cgroup -o cpu cpu /sys/fs/cgroup/cpu")
        }
        Version::V2 => ("v2", "mount -t cgroup2 cgroup2 /sys/fs/cgroup"),
    };
    CgroupError::NotMounted { version, remedy }
}
