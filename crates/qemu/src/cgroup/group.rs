//! One cgroup directory: its threads, its limit, its rights.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::quota::Quota;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::error::CgroupError;
use super::hierarchy::CgroupVersion;
use super::parse;

/// The start of the name of every group that landfall makes.
pub(super) const GROUP_PREFIX: &str = "landfall-";

/// Returns the host's scheduler tick: 4 ms at 250 Hz, at least 1 ms.
///
/// It is the smallest quota that the kernel keeps without an overrun that is paid back in whole periods,
/// because a running thread is charged at the tick (measured in `docs/measurements/`). A smaller quota is
/// accepted, and its share is right on average, but its gaps are several periods long. On a host whose own
/// CPUs are virtual, a delay of theirs is charged too, so that even this quota can be overrun.
pub fn scheduler_tick() -> Duration {
    // The resolution of the coarse clock is the tick.
    let tick = rustix::time::clock_getres(rustix::time::ClockId::RealtimeCoarse);
    Duration::try_from(tick).unwrap_or(MIN_TIME).max(MIN_TIME)
}

/// Returns whether a program has replaced the kernel's scheduler (sched_ext, Linux 6.12): it need not keep
/// quotas, which the fair scheduler keeps.
pub fn is_scheduler_replaced() -> bool {
    let state = fs::read_to_string("/sys/kernel/sched_ext/state");
    // Without the file the kernel has no such thing.
    state.is_ok_and(|state| state.trim_end() != "disabled")
}

/// Checks that the kernel accepts a quota.
///
/// # Errors
/// [`CgroupError::OutOfRange`].
pub(super) fn check_quota(quota: Quota) -> Result<(), CgroupError> {
    let fits = quota.quota >= MIN_TIME
        && quota.quota <= MAX_QUOTA
        && (MIN_TIME..=MAX_PERIOD).contains(&quota.period);
    if fits { Ok(()) } else { Err(CgroupError::OutOfRange { quota }) }
}

/// Returns whether the first quota allows at most the share of the second.
pub(super) fn is_at_most(one: Quota, other: Quota) -> bool {
    cpu_ratio(one) <= cpu_ratio(other)
}

/// Returns quota over period: above 1 for a group that may use more than one CPU.
fn cpu_ratio(quota: Quota) -> f64 {
    quota.quota.as_secs_f64() / quota.period.as_secs_f64()
}

/// The smallest quota and the smallest period that the kernel accepts.
const MIN_TIME: Duration = Duration::from_millis(1);

/// The longest period that the kernel accepts.
const MAX_PERIOD: Duration = Duration::from_secs(1);

/// Far above what one thread can use, and far below where the kernel's arithmetic overflows.
const MAX_QUOTA: Duration = Duration::from_secs(1000);

/// The bandwidth limit of a group as its files state it. Times are in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct BandwidthLimit {
    /// `None`: not limited.
    pub(super) quota: Option<u64>,
    /// The period.
    pub(super) period: u64,
    /// Unused quota that the group may save up; 0 on kernels before 5.14, which have no bursts.
    pub(super) burst: u64,
}

impl BandwidthLimit {
    /// Returns the limit that holds a thread to a quota. Nothing may be saved up for a burst.
    pub(super) fn from_quota(quota: Quota) -> Self {
        let micros = |time: Duration| time.as_micros() as u64;
        Self { quota: Some(micros(quota.quota)), period: micros(quota.period), burst: 0 }
    }

    /// Returns the limit as a quota; `None` if nothing is limited.
    pub(super) fn to_quota(self) -> Option<Quota> {
        let period = Duration::from_micros(self.period);
        Some(Quota { quota: Duration::from_micros(self.quota?), period })
    }
}

/// A cgroup directory in the hierarchy that has the cpu controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CgroupDir {
    /// The directory.
    pub(super) path: PathBuf,
    /// The interface of its hierarchy.
    pub(super) version: CgroupVersion,
    /// The directory at which its hierarchy is mounted: the topmost one that landfall can see.
    pub(super) top: PathBuf,
}

impl CgroupDir {
    /// Returns the path of one of its files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Returns the name of its directory.
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// Returns a group right below it, which need not exist.
    pub(super) fn child(&self, name: &str) -> Self {
        Self { path: self.file(name), ..self.clone() }
    }

    /// Returns the group above it; `None` for the topmost one that landfall can see.
    pub(super) fn parent(&self) -> Option<Self> {
        let above = self.path.parent().filter(|_| self.path != self.top)?;
        Some(Self { path: above.to_owned(), ..self.clone() })
    }

    /// Returns the groups right below it.
    ///
    /// # Errors
    /// [`CgroupError::System`].
    pub(super) fn children(&self) -> Result<Vec<Self>, CgroupError> {
        let refused = |source| CgroupError::system("list", &self.path, source);
        let mut children = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(refused)? {
            let entry = entry.map_err(refused)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                children.push(Self { path: entry.path(), ..self.clone() });
            }
        }
        Ok(children)
    }

    /// Returns the file that lists its threads. A thread id written to it moves that thread in.
    pub(super) fn threads_file(&self) -> PathBuf {
        self.file(match self.version {
            CgroupVersion::V1 => "tasks",
            CgroupVersion::V2 => "cgroup.threads",
        })
    }

    /// Returns the threads in it, without those of groups below it.
    ///
    /// # Errors
    /// [`CgroupError::System`].
    pub(super) fn threads(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(parse::thread_ids(&read_file(&self.threads_file())?))
    }

    /// Returns the limit in force.
    ///
    /// # Errors
    /// [`CgroupError::System`], [`CgroupError::Unreadable`].
    pub(super) fn read_limit(&self) -> Result<BandwidthLimit, CgroupError> {
        let number = |name: &str| {
            let file = self.file(name);
            let text = read_file(&file)?;
            text.trim_end().parse::<i64>().map_err(|_| CgroupError::unreadable(&file, &text))
        };
        let (quota, period, burst) = match self.version {
            CgroupVersion::V1 => {
                let quota = u64::try_from(number("cpu.cfs_quota_us")?).ok();
                (quota, number("cpu.cfs_period_us")?.unsigned_abs(), number("cpu.cfs_burst_us"))
            }
            CgroupVersion::V2 => {
                let file = self.file("cpu.max");
                let text = read_file(&file)?;
                let (quota, period) =
                    parse::cpu_max(&text).ok_or_else(|| CgroupError::unreadable(&file, &text))?;
                (quota, period, number("cpu.max.burst"))
            }
        };
        // A kernel without bursts has no such file.
        let burst = burst.map_or(0, i64::unsigned_abs);
        Ok(BandwidthLimit { quota, period, burst })
    }

    /// Sets the limit, unless it is in force already: every write refills the quota and forgives any
    /// overrun.
    ///
    /// At no moment is the group less limited than by the old or the new limit, whichever allows more.
    /// After an error the old limit is in force.
    ///
    /// # Errors
    /// [`CgroupError::AboveParent`] (v1), [`CgroupError::NotInForce`], [`CgroupError::System`].
    pub(super) fn set_limit(&self, limit: BandwidthLimit) -> Result<(), CgroupError> {
        let old = self.read_limit()?;
        if old == limit {
            return Ok(());
        }
        let outcome = self.write_limit(old, limit).and_then(|()| {
            let found = self.read_limit()?;
            if found == limit {
                return Ok(());
            }
            let show = |limit: BandwidthLimit| format!("{limit:?}");
            Err(CgroupError::NotInForce {
                path: self.path.clone(),
                written: show(limit),
                found: show(found),
            })
        });
        outcome.map_err(|error| {
            // The rejected write may have been the second of several.
            if let Ok(now) = self.read_limit() {
                let _ = self.write_limit(now, old);
            }
            match (error.errno(), limit.to_quota()) {
                (Some(Errno::INVAL), Some(asked)) => self.find_parent_limit(asked).unwrap_or(error),
                _ => error,
            }
        })
    }

    /// Writes what differs. The kernel rejects a quota below the burst, so the burst is cleared first.
    fn write_limit(&self, old: BandwidthLimit, new: BandwidthLimit) -> Result<(), CgroupError> {
        let burst = self.file(match self.version {
            CgroupVersion::V1 => "cpu.cfs_burst_us",
            CgroupVersion::V2 => "cpu.max.burst",
        });
        if old.burst != 0 && old.burst != new.burst {
            write_file(&burst, "0")?;
        }
        match self.version {
            CgroupVersion::V1 => self.write_v1_limit(old, new)?,
            CgroupVersion::V2 => {
                let quota = new.quota.map_or("max".to_owned(), |quota| quota.to_string());
                write_file(&self.file("cpu.max"), &format!("{quota} {}", new.period))?;
            }
        }
        if new.burst != 0 && new.burst != old.burst {
            write_file(&burst, &new.burst.to_string())?;
        }
        Ok(())
    }

    /// Writes quota and period, which v1 has in two files: for a moment one value is old and one new. That
    /// mixture is never too loose, because a longer period is written before the quota and a shorter one
    /// after it.
    fn write_v1_limit(&self, old: BandwidthLimit, new: BandwidthLimit) -> Result<(), CgroupError> {
        let write_period = || write_file(&self.file("cpu.cfs_period_us"), &new.period.to_string());
        let write_quota = |quota: &str| write_file(&self.file("cpu.cfs_quota_us"), quota);
        match new.quota {
            None => {
                write_quota("-1")?;
                if new.period != old.period { write_period() } else { Ok(()) }
            }
            Some(quota) if old.quota.is_none() || new.period > old.period => {
                write_period()?;
                write_quota(&quota.to_string())
            }
            Some(quota) => {
                write_quota(&quota.to_string())?;
                if new.period != old.period { write_period() } else { Ok(()) }
            }
        }
    }

    /// Returns the error for a quota that was rejected because a group above allows less; `None` if no
    /// group above does.
    fn find_parent_limit(&self, asked: Quota) -> Option<CgroupError> {
        let ancestors = std::iter::successors(self.parent(), Self::parent);
        let (parent, limit) = ancestors
            .filter_map(|group| Some((group.path.clone(), group.read_limit().ok()?.to_quota()?)))
            .find(|(_, limit)| !is_at_most(asked, *limit))?;
        Some(CgroupError::AboveParent { group: self.path.clone(), asked, parent, limit })
    }

    /// Reads a v2 list of controllers; empty if there is no such file.
    pub(super) fn read_controllers(&self, file: &str) -> Vec<String> {
        let text = read_file(&self.file(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// Checks that landfall may write to a path, without writing.
///
/// # Errors
/// [`CgroupError::NotWritable`].
pub(super) fn check_writable(path: &Path) -> Result<(), CgroupError> {
    let enter = if path.is_dir() { Access::EXEC_OK } else { Access::empty() };
    accessat(CWD, path, Access::WRITE_OK | enter, AtFlags::EACCESS)
        .map_err(|errno| CgroupError::NotWritable { path: path.to_owned(), source: errno.into() })
}

/// Moves a thread into the group of this file. Where `cpuset` is in the hierarchy, kernels before 6.2 let a moved
/// thread run on all CPUs of the group; what it was pinned to stays in force.
///
/// # Errors
/// [`CgroupError::System`].
pub(super) fn move_thread_to(threads_file: &Path, tid: i32) -> Result<(), CgroupError> {
    let pid = rustix::thread::Pid::from_raw(tid);
    let pinned = pid.and_then(|pid| rustix::thread::sched_getaffinity(Some(pid)).ok());
    write_file(threads_file, &tid.to_string())?;
    if let Some(pinned) = pinned
        && rustix::thread::sched_getaffinity(pid).is_ok_and(|now| now != pinned)
    {
        // Refused only where the group allows none of these CPUs.
        let _ = rustix::thread::sched_setaffinity(pid, &pinned);
    }
    Ok(())
}

/// Reads a file of the kernel.
///
/// # Errors
/// [`CgroupError::System`].
pub(super) fn read_file(path: &Path) -> Result<String, CgroupError> {
    let bytes = fs::read(path).map_err(|source| CgroupError::system("read", path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a value to a file of the kernel in one write. Never creates the file.
///
/// # Errors
/// [`CgroupError::System`].
pub(super) fn write_file(path: &Path, value: &str) -> Result<(), CgroupError> {
    use std::io::Write as _;
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|source| {
        let (path, value) = (path.to_owned(), Some(value.to_owned()));
        CgroupError::System { action: "write", path, value, source }
    })
}
