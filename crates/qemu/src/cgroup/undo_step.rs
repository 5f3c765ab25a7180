//! The rollback of the CPU lever as data: what a release does, in steps that another process can apply.
//!
//! landfall gives the list to a guardian *before* it changes anything, so that the rollback exists even
//! if landfall is killed with SIGKILL. Each step may be applied at any time and any number of times, also
//! before the change that it undoes was made: then it does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::group::{CgroupDir, GROUP_PREFIX, move_thread_to, read_file, write_file};
use super::hierarchy::CgroupVersion;
use super::journal::{JournalAnswer, JournalPlace, LimitEntry};
use super::parse;

/// One step of a rollback. In the order in which [`CpuLever::undo_steps`](super::CpuLever::undo_steps)
/// lists them, the steps first let every thread run, then remove groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum UndoStep {
    /// Writes a value to a file of the kernel. Does nothing if the file is gone.
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
    },
    /// Gives a group that was used in place its limit back. What another program has set stays.
    RestoreLimit {
        /// The group.
        group: PathBuf,
        /// The interface of its hierarchy.
        version: CgroupVersion,
        /// What is known of its limit.
        entry: LimitEntry,
        /// Where what is known later is to be read.
        journal: Option<JournalPlace>,
    },
    /// Moves every thread of one of landfall's groups back to the group it came from.
    ///
    /// The threads are those that the group lists, not recorded ids: an id can name another thread by
    /// now, and a held thread can have started others, which are in its group.
    EmptyGroup {
        /// The file that lists the group's threads.
        from: PathBuf,
        /// The file that takes threads into the group they came from.
        to: PathBuf,
    },
    /// Removes one of landfall's groups. Does nothing if it is gone.
    RemoveGroup {
        /// The group's directory. Its name starts with `landfall-`.
        path: PathBuf,
    },
    /// v2: disables the cpu controller for a group's children, unless another landfall still has a group
    /// there, or a group below passes the controller on.
    DisableCpu {
        /// The group to whose `cgroup.subtree_control` landfall wrote `+cpu`.
        group: PathBuf,
    },
}

impl UndoStep {
    /// Applies the step.
    ///
    /// # Errors
    /// [`CgroupError::System`], [`CgroupError::NotOurs`]. A thread, group or guest that is gone is not an
    /// error.
    pub fn apply(&self) -> Result<(), CgroupError> {
        match self {
            Self::WriteFile { path, value } => ignore_gone(write_file(path, value)),
            Self::RestoreLimit { group, version, entry, journal } => {
                let group =
                    CgroupDir { path: group.clone(), version: *version, top: group.clone() };
                match journal.as_ref().map(JournalPlace::read) {
                    Some(JournalAnswer::Untouched) => Ok(()),
                    Some(JournalAnswer::Entry(later)) => restore_limit(&group, &later),
                    Some(JournalAnswer::Unreadable) | None => restore_limit(&group, entry),
                }
            }
            Self::EmptyGroup { from, to } => empty_group(from, to),
            Self::RemoveGroup { path } => remove_group(path),
            Self::DisableCpu { group } => disable_cpu(group),
        }
    }
}

/// Returns the step that removes the limit of a group, whatever it is now.
pub(super) fn unlimit(group: &CgroupDir) -> UndoStep {
    let (file, value) = match group.version {
        CgroupVersion::V1 => ("cpu.cfs_quota_us", "-1"),
        CgroupVersion::V2 => ("cpu.max", "max"),
    };
    UndoStep::WriteFile { path: group.file(file), value: value.to_owned() }
}

/// Gives a group the limit back that it had. Where nothing is known of what was set, all of the limit
/// counts as landfall's.
fn restore_limit(group: &CgroupDir, entry: &LimitEntry) -> Result<(), CgroupError> {
    let now = match group.read_limit() {
        Ok(now) => now,
        Err(error) => return ignore_gone(Err(error)),
    };
    let target = match entry.set {
        [None, None] => entry.found,
        _ => entry.target(now, group.version),
    };
    match group.set_limit(target) {
        Ok(()) => Ok(()),
        // The kernel may reject what lies between the two; from no limit it rejects nothing of that.
        Err(_) => {
            unlimit(group).apply()?;
            ignore_gone(group.set_limit(target))
        }
    }
}

/// Moves all threads of a group. Repeated until the group is empty, because its threads may be starting
/// others meanwhile.
fn empty_group(from: &Path, to: &Path) -> Result<(), CgroupError> {
    const MAX_ROUNDS: usize = 16;
    if !from.parent().is_some_and(is_landfall_group) {
        return Err(CgroupError::NotOurs { path: from.to_owned() });
    }
    let mut outcome = Ok(());
    for _ in 0..MAX_ROUNDS {
        let threads = match read_file(from) {
            Ok(text) => parse::thread_ids(&text),
            Err(error) => return ignore_gone(Err(error)),
        };
        // 0 is a thread of another PID namespace. Written to the file, it would mean this process.
        let threads: Vec<i32> = threads.into_iter().filter(|tid| *tid > 0).collect();
        if threads.is_empty() {
            return Ok(());
        }
        outcome = Ok(());
        for tid in threads {
            match move_thread_to(to, tid) {
                Err(error) if error.errno() != Some(Errno::SRCH) => outcome = Err(error),
                _ => {}
            }
        }
    }
    outcome
}

/// Removes a group. A thread that has just ended can keep it busy for a moment.
fn remove_group(path: &Path) -> Result<(), CgroupError> {
    const TRIES: usize = 50;
    const PAUSE: Duration = Duration::from_millis(2);
    if !is_landfall_group(path) {
        return Err(CgroupError::NotOurs { path: path.to_owned() });
    }
    let remove = || fs::remove_dir(path).map_err(|e| CgroupError::system("remove", path, e));
    let mut outcome = remove();
    for _ in 0..TRIES {
        match &outcome {
            Err(error) if error.errno() == Some(Errno::BUSY) => {
                thread::sleep(PAUSE);
                outcome = remove();
            }
            _ => break,
        }
    }
    ignore_gone(outcome)
}

fn disable_cpu(group: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) => return ignore_gone(Err(CgroupError::system("list", group, error))),
    };
    if entries.flatten().any(|entry| is_landfall_group(&entry.path())) {
        return Ok(());
    }
    match ignore_gone(write_file(&group.join("cgroup.subtree_control"), "-cpu")) {
        // A group below passes it on by now, so another program uses it.
        Err(error) if error.errno() == Some(Errno::BUSY) => Ok(()),
        outcome => outcome,
    }
}

fn is_landfall_group(group: &Path) -> bool {
    group
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(GROUP_PREFIX))
}

/// Accepts that what is to be undone is gone. A file of a group that is just being removed gives ENODEV.
fn ignore_gone(outcome: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
        outcome => outcome,
    }
}
