//! The text of the kernel's cgroup files: pure functions, no file is opened here.
//!
//! Each returns `None`, or leaves the line out, where the text is not what the kernel writes. No text
//! makes one of them panic. The files below `/proc` are read by [`crate::procfs::parse`].

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::procfs::parse::CgroupMount;

/// Returns the directory of a group below a mount; `None` if that mount does not show the group, for
/// example because it is outside landfall's cgroup namespace.
pub fn group_directory(group: &Path, mount: &CgroupMount) -> Option<PathBuf> {
    let below = group.strip_prefix(&mount.root).ok()?;
    let leads_out = |part| matches!(part, Component::ParentDir | Component::RootDir);
    (!below.components().any(leads_out)).then(|| match below.as_os_str().is_empty() {
        true => mount.point.clone(),
        false => mount.point.join(below),
    })
}

/// What the CFS bandwidth controller has done to a group since the group was made, from `cpu.stat`. Names
/// are the kernel's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuStat {
    /// Periods in which a thread of the group was runnable.
    pub nr_periods: u64,
    /// Periods at whose end the group was throttled.
    pub nr_throttled: u64,
    /// Time for which it was throttled while a thread of it was runnable.
    pub throttled_time: Duration,
}

/// Reads a `cpu.stat` file: v1 writes `throttled_time` in nanoseconds, v2 `throttled_usec`. `None` for a v2
/// group without the cpu controller and for the root, which do not have these lines.
pub fn cpu_stat(cpu_stat: &str) -> Option<CpuStat> {
    let value = |key: &str| {
        let line = cpu_stat.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
        line.trim_end().parse::<u64>().ok()
    };
    let throttled_time = match value("throttled_time") {
        Some(ns) => Duration::from_nanos(ns),
        None => Duration::from_micros(value("throttled_usec")?),
    };
    Some(CpuStat {
        nr_periods: value("nr_periods")?,
        nr_throttled: value("nr_throttled")?,
        throttled_time,
    })
}

/// Reads a `cpu.max` file (`QUOTA PERIOD`, where QUOTA is a number or `max`). Returns quota and period in
/// microseconds; the quota is `None` for no limit.
pub fn cpu_max(text: &str) -> Option<(Option<u64>, u64)> {
    let (quota, period) = text.trim_end().split_once(' ')?;
    let quota = match quota {
        "max" => None,
        number => Some(number.parse().ok()?),
    };
    Some((quota, period.parse().ok()?))
}

/// Reads thread ids, one a line, as in `tasks` and `cgroup.threads`. The kernel writes 0 for a thread of
/// another PID namespace.
pub fn thread_ids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests;
