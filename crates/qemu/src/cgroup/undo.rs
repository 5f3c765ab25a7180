//! The way back as data: what a release does, as steps that another process can take.
//!
//! landfall hands the list to a guardian *before* it changes anything, so that a `kill -9` finds
//! the way back already written down. Each step may be taken at any time, any number of times, and
//! before the change it undoes was ever made: what is not there needs no undoing.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::group::{PREFIX, read, write};
use super::text;

/// One step back. Taken in the order in which [`CpuLever::undo`](super::CpuLever::undo) lists
/// them, the steps first let every thread run, then tidy up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "kebab-case")]
pub enum UndoStep {
    /// Writes a value to a file of the kernel's; done if the file is gone.
    WriteFile {
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
    },
    /// Moves every thread of one of landfall's groups home.
    ///
    /// The group is asked who is in it, rather than a recorded tid trusted: a tid that ended and
    /// now names another thread is not in the group and stays where it is, and a thread that a
    /// held one started, which is born into the group, goes home as well.
    EmptyGroup {
        /// The file that lists the group's threads.
        from: PathBuf,
        /// The file that takes threads into the home group.
        to: PathBuf,
    },
    /// Removes one of landfall's groups; done if it is gone.
    RemoveGroup {
        /// The group's directory; its name begins with `landfall-`.
        path: PathBuf,
    },
    /// v2: takes the cpu controller back from a group's children, unless another landfall still
    /// has a group there or a group below hands it on.
    DisableCpu {
        /// The group whose `cgroup.subtree_control` was given `+cpu`.
        group: PathBuf,
    },
}

impl UndoStep {
    /// Takes the step.
    ///
    /// # Errors
    /// What the kernel refused ([`CgroupError::System`]), or [`CgroupError::NotOurs`]. That a
    /// thread, a group or the whole guest is gone is no error.
    pub fn run(&self) -> Result<(), CgroupError> {
        match self {
            Self::WriteFile { path, value } => gone_is_done(write(path, value)),
            Self::EmptyGroup { from, to } => empty_group(from, to),
            Self::RemoveGroup { path } => remove_group(path),
            Self::DisableCpu { group } => disable_cpu(group),
        }
    }
}

/// A thread may be starting others while the group is emptied, so it is looked at again.
fn empty_group(from: &Path, to: &Path) -> Result<(), CgroupError> {
    const LOOKS: usize = 16;
    if !from.parent().is_some_and(is_ours) {
        return Err(CgroupError::NotOurs { path: from.to_owned() });
    }
    let mut outcome = Ok(());
    for _ in 0..LOOKS {
        let threads = match read(from) {
            Ok(text) => text::thread_ids(&text),
            Err(error) => return gone_is_done(Err(error)),
        };
        // 0 is a thread of a foreign pid namespace; written back, it would mean this process.
        let threads: Vec<i32> = threads.into_iter().filter(|tid| *tid > 0).collect();
        if threads.is_empty() {
            return Ok(());
        }
        outcome = Ok(());
        for tid in threads {
            match write(to, &tid.to_string()) {
                Err(error) if error.errno() != Some(Errno::SRCH) => outcome = Err(error),
                _ => {}
            }
        }
    }
    outcome
}

/// A thread that has just ended can keep its group busy for a moment.
fn remove_group(path: &Path) -> Result<(), CgroupError> {
    const TRIES: usize = 50;
    const PAUSE: Duration = Duration::from_millis(2);
    if !is_ours(path) {
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
    gone_is_done(outcome)
}

fn disable_cpu(group: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) => return gone_is_done(Err(CgroupError::system("list", group, error))),
    };
    if entries.flatten().any(|entry| is_ours(&entry.path())) {
        return Ok(());
    }
    match gone_is_done(write(&group.join("cgroup.subtree_control"), "-cpu")) {
        // A group below hands it on by now: it has become somebody else's.
        Err(error) if error.errno() == Some(Errno::BUSY) => Ok(()),
        outcome => outcome,
    }
}

fn is_ours(group: &Path) -> bool {
    group.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PREFIX))
}

/// What is gone needs no undoing. A file of a group that is just being removed gives ENODEV.
fn gone_is_done(outcome: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match outcome {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NODEV)) => Ok(()),
        outcome => outcome,
    }
}
