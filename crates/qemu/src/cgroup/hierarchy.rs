//! Finds the hierarchy that has the cpu controller, and a thread's group in it.
//!
//! A machine may mount both kinds at once. What decides is where the *controller* is, and the
//! thread's own `/proc/<pid>/task/<tid>/cgroup` says so: a line that names `cpu` is a v1 hierarchy
//! that has it; without such a line the unified hierarchy has it, if any does.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::CgroupError;
use super::group::{Group, read};
use super::text::{self, CgroupMount, ThreadStat};

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
        let mountinfo = read(Path::new("/proc/self/mountinfo"))?;
        Ok(Self(text::cgroup_mounts(&mountinfo)))
    }

    /// The group of a thread where the cpu controller is.
    ///
    /// # Errors
    /// [`CgroupError::NoSuchThread`], [`CgroupError::NotMounted`],
    /// [`CgroupError::OutsideNamespace`].
    pub(super) fn group_of(&self, pid: i32, tid: i32) -> Result<Group, CgroupError> {
        let file = task_file(pid, tid, "cgroup");
        let membership = text::membership(&read_of_thread(pid, tid, &file)?);
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

/// What the kernel says of a thread.
///
/// # Errors
/// [`CgroupError::NoSuchThread`] if it is not there or has ended.
pub(super) fn thread_stat(pid: i32, tid: i32) -> Result<ThreadStat, CgroupError> {
    let file = task_file(pid, tid, "stat");
    let text = read_of_thread(pid, tid, &file)?;
    let stat = text::thread_stat(&text).ok_or_else(|| CgroupError::unreadable(&file, &text))?;
    if stat.ended {
        return Err(CgroupError::NoSuchThread { pid, tid });
    }
    Ok(stat)
}

/// `/proc/<pid>/task/<tid>/<name>`
pub(super) fn task_file(pid: i32, tid: i32, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/task/{tid}/{name}"))
}

/// Reads a file of a thread.
pub(super) fn read_of_thread(pid: i32, tid: i32, file: &Path) -> Result<String, CgroupError> {
    let read = fs::read(file).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    of_thread(pid, tid, file, read)
}

/// What was read of a file of a thread; one that ends meanwhile gives ESRCH.
pub(super) fn of_thread(
    pid: i32,
    tid: i32,
    file: &Path,
    read: io::Result<String>,
) -> Result<String, CgroupError> {
    read.map_err(|source| {
        let gone = source.kind() == io::ErrorKind::NotFound
            || rustix::io::Errno::from_io_error(&source) == Some(rustix::io::Errno::SRCH);
        match gone {
            true => CgroupError::NoSuchThread { pid, tid },
            false => CgroupError::system("read", file, source),
        }
    })
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
