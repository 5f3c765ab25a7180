//! Finds groups of landfall by their names, for an operator who asks to have all of them removed.

use std::fs;
use std::path::{Path, PathBuf};

use super::group::{CgroupDir, GROUP_PREFIX};
use super::hierarchy::CgroupVersion;
use super::undo_step::{UndoStep, unlimit};
use crate::procfs::{self, parse::CgroupMount};

/// Groups deeper than this below a hierarchy's root are not looked for.
const MAX_DEPTH: usize = 16;

/// A group named like one of landfall's, with the steps that free its threads and remove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftoverGroup {
    /// The process that the group was made for, by its name.
    pub pid: i32,
    /// The group.
    pub path: PathBuf,
    /// What frees its threads and removes it.
    pub steps: Vec<UndoStep>,
}

/// Returns the groups named `landfall-PID-...` in every hierarchy that may have the cpu controller.
pub fn find_leftover_groups() -> Vec<LeftoverGroup> {
    let mut found = Vec::new();
    for CgroupMount { point, v1_controllers, .. } in procfs::cgroup_mounts().unwrap_or_default() {
        let version = match v1_controllers {
            None => CgroupVersion::V2,
            Some(names) if names.iter().any(|name| name == "cpu") => CgroupVersion::V1,
            Some(_) => continue,
        };
        find_below(&point, &point, version, MAX_DEPTH, &mut found);
    }
    found
}

fn find_below(
    directory: &Path,
    top: &Path,
    version: CgroupVersion,
    depth: usize,
    found: &mut Vec<LeftoverGroup>,
) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        match named_process(&path) {
            Some(pid) => {
                let dir =
                    |path: &Path| CgroupDir { path: path.to_owned(), version, top: top.to_owned() };
                let (group, parent) = (dir(&path), dir(directory));
                let steps = vec![
                    unlimit(&group),
                    UndoStep::EmptyGroup { from: group.threads_file(), to: parent.threads_file() },
                    UndoStep::RemoveGroup { path: path.clone() },
                ];
                found.push(LeftoverGroup { pid, path, steps });
            }
            None if depth > 0 => find_below(&path, top, version, depth - 1, found),
            None => {}
        }
    }
}

/// Returns the process id in the name of a group of landfall.
fn named_process(group: &Path) -> Option<i32> {
    let rest = group.file_name()?.to_str()?.strip_prefix(GROUP_PREFIX)?;
    rest.split_once('-')?.0.parse().ok()
}
