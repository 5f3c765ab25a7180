//! The kernel's cgroup and scheduler files, read as text: pure functions, nothing is opened here.
//!
//! Each returns `None` (or leaves the line out) where the text is not what the kernel writes, so
//! that nothing from outside can make landfall panic.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// One mounted cgroup hierarchy, from a line of `/proc/<pid>/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupMount {
    /// Which group of the hierarchy shows at `point`; `/` unless a subtree is mounted, and leading
    /// through `..` where the mount reaches above the reader's cgroup namespace.
    pub root: PathBuf,
    /// Directory at which it is mounted.
    pub point: PathBuf,
    /// `None` for the unified hierarchy (v2), the attached controllers for a v1 hierarchy.
    pub v1_controllers: Option<Vec<String>>,
}

/// The cgroup mounts among the lines of a `mountinfo`.
pub fn cgroup_mounts(mountinfo: &str) -> Vec<CgroupMount> {
    mountinfo.lines().filter_map(cgroup_mount).collect()
}

/// `ID PARENT MAJ:MIN ROOT POINT OPTIONS [TAG...] - TYPE SOURCE SUPER-OPTIONS`
fn cgroup_mount(line: &str) -> Option<CgroupMount> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut filesystem = filesystem.split(' ');
    let v1_controllers = match filesystem.next()? {
        "cgroup2" => None,
        "cgroup" => Some(filesystem.nth(1)?.split(',').map(str::to_owned).collect()),
        _ => return None,
    };
    Some(CgroupMount { root: unescape(root), point: unescape(point), v1_controllers })
}

/// `mountinfo` writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> PathBuf {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                text.push(char::from(code));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    PathBuf::from(text)
}

/// Where a thread is in every hierarchy, from `/proc/<pid>/task/<tid>/cgroup`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Its group in the v1 hierarchy that has the cpu controller, if there is such a hierarchy.
    pub v1_cpu: Option<PathBuf>,
    /// Its group in the unified hierarchy.
    pub v2: Option<PathBuf>,
}

/// Reads `ID:CONTROLLERS:PATH` lines; `0::PATH` is the unified hierarchy.
pub fn membership(text: &str) -> Membership {
    let mut found = Membership::default();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        if controllers.split(',').any(|name| name == "cpu") {
            found.v1_cpu = Some(PathBuf::from(path));
        } else if id == "0" && controllers.is_empty() {
            found.v2 = Some(PathBuf::from(path));
        }
    }
    found
}

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

/// Reads `schedstat`: time on a CPU, and time runnable but not running.
pub fn schedstat(text: &str) -> Option<(Duration, Duration)> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    let mut next = || numbers.next().flatten().map(Duration::from_nanos);
    Some((next()?, next()?))
}

/// What `/proc/<pid>/task/<tid>/stat` says of a thread that landfall has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadStat {
    /// When the thread began, in clock ticks after boot: with the tid it names one thread for good.
    pub start_time_ticks: u64,
    /// It runs under a real-time or deadline policy, which a CFS quota does not hold.
    pub real_time: bool,
    /// It has ended and waits to be reaped.
    pub ended: bool,
}

/// Reads a `stat` line. The thread's name may hold blanks and brackets, so fields are counted from
/// the last closing bracket.
pub fn thread_stat(text: &str) -> Option<ThreadStat> {
    const STATE: usize = 3;
    const START_TIME: usize = 22;
    const POLICY: usize = 41;
    const REAL_TIME: [&str; 3] = ["1", "2", "6"]; // FIFO, RR, DEADLINE

    let (_, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let field = |number: usize| fields.get(number - STATE).copied();
    Some(ThreadStat {
        start_time_ticks: field(START_TIME)?.parse().ok()?,
        real_time: REAL_TIME.contains(&field(POLICY)?),
        ended: matches!(field(STATE)?, "Z" | "X"),
    })
}

/// Thread ids, one a line, as in `tasks` and `cgroup.threads`. A thread of another pid namespace
/// is written as 0.
pub fn thread_ids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests;
