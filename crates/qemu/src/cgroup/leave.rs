//! Takes this process out of its control groups, so that what ends or starves a whole group (`cgroup.kill`, a
//! stopped service, a group out of memory, a frozen group) does not reach it.

use std::fs;
use std::path::Path;

use crate::procfs::{self, parse::CgroupMount};

/// Moves this process into the root group of every mounted hierarchy. In a container that has a cgroup
/// namespace of its own that is the container's group. What the kernel refuses stays as it is.
pub fn leave_all_groups() {
    for CgroupMount { root, point, .. } in procfs::cgroup_mounts().unwrap_or_default() {
        // A mount that shows a subtree only has no root to move to.
        if root == Path::new("/") {
            // 0 means the process that writes.
            let _ = fs::write(point.join("cgroup.procs"), "0");
        }
    }
}
