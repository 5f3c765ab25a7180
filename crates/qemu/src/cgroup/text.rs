//! The text of the kernel's cgroup files: pure functions, no file is opened here.
//!
//! Each returns `None` (or leaves the line out) where the text is not what the kernel writes, so
//! that nothing from outside can make landfall panic.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::procfs::parse::CgroupMount;

/// The directory that stands for `group` below a mount; `None` if that mount does not show it,
/// as when the group is outside this process's cgroup namespace.
pub fn directory_of(group: &Path, mount: &CgroupMount) -> Option<PathBuf> {
    let below = group.strip_prefix(&mount.root).ok()?;
    let leaves = |part| matches!(part, Component::ParentDir | Component::RootDir);
    (!below.components().any(leaves)).then(|| match below.as_os_str().is_empty() {
        true => mount.point.clone(),
        false => mount.point.join(below),
    })
}

/// What the bandwidth controller did to a group since the group was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which a thread of the group wanted to run.
    pub periods: u64,
    /// Periods at whose end the group stood still.
    pub throttled_periods: u64,
    /// Time for which it stood still although it wanted to run.
    pub throttled: Duration,
}

/// Reads `cpu.stat`: v1 writes `throttled_time` in nanoseconds, v2 `throttled_usec`. The three
/// lines are missing in a v2 group without the cpu controller, and in the root: `None`.
pub fn throttling(cpu_stat: &str) -> Option<Throttling> {
    let value = |key: &str| {
        let line = cpu_stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim_end().parse::<u64>().ok()
    };
    let throttled = match value("throttled_time") {
        Some(ns) => Duration::from_nanos(ns),
        None => Duration::from_micros(value("throttled_usec")?),
    };
    Some(Throttling {
        periods: value("nr_periods")?,
        throttled_periods: value("nr_throttled")?,
        throttled,
    })
}

/// Reads `cpu.max` (`QUOTA PERIOD`, where QUOTA is a number or `max`): quota and period in
/// microseconds, the quota `None` for no limit.
pub fn cpu_max(text: &str) -> Option<(Option<u64>, u64)> {
    let (quota, period) = text.trim_end().split_once(' ')?;
    let quota = match quota {
        "max" => None,
        number => Some(number.parse().ok()?),
    };
    Some((quota, period.parse().ok()?))
}

/// Thread ids, one a line, as in `tasks` and `cgroup.threads`. A thread of another pid namespace
/// is written as 0.
pub fn thread_ids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests;
