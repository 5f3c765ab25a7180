//! One cgroup directory: its threads, its limit, its rights.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::decision::Quota;
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;

use super::error::CgroupError;
use super::hierarchy::Version;
use super::text;

/// How the name of every group that landfall makes begins.
pub(super) const PREFIX: &str = "landfall-";

/// The least quota that the kernel keeps without overrunning it and paying back in whole periods:
/// the scheduler's tick, since that is when a running thread is charged. 4 ms at 250 Hz; measured in
/// `docs/measurements/`. A smaller quota is taken, and its share is right on average, but its gaps
/// are several periods long. A lower bound: on a host whose own CPUs are virtual and late, what they
/// were late is charged and overrun as well.
pub fn least_honest_quota() -> Duration {
    // The coarse clock moves once a tick, and says so.
    let tick = rustix::time::clock_getres(rustix::time::ClockId::RealtimeCoarse);
    Duration::try_from(tick).unwrap_or(LEAST).max(LEAST)
}

/// Whether the kernel takes a quota.
pub(super) fn check(quota: Quota) -> Result<(), CgroupError> {
    let fits = quota.quota >= LEAST
        && quota.quota <= LONGEST_QUOTA
        && (LEAST..=LONGEST).contains(&quota.period);
    if fits { Ok(()) } else { Err(CgroupError::OutOfRange { quota }) }
}

/// Whether the first of two allows no more than the second.
pub(super) fn is_tighter(one: Quota, other: Quota) -> bool {
    ratio(one) <= ratio(other)
}

/// Quota over period; above 1 for a group that may use more than one CPU.
fn ratio(quota: Quota) -> f64 {
    quota.quota.as_secs_f64() / quota.period.as_secs_f64()
}

const LEAST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(1);
/// No thread uses more than a CPU; far above that, and far below where the kernel's sums overflow.
const LONGEST_QUOTA: Duration = Duration::from_secs(1000);

/// The limit of a group as its files state it, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limit {
    /// `None`: not limited.
    pub(super) quota: Option<u64>,
    pub(super) period: u64,
    /// Unused quota that may be saved up; 0 also where the kernel knows no bursts (before 5.14).
    pub(super) burst: u64,
}

impl Limit {
    /// The limit that holds a thread to `quota`: nothing may be saved up for a burst.
    pub(super) fn holding(quota: Quota) -> Self {
        let micros = |time: Duration| time.as_micros() as u64;
        Self { quota: Some(micros(quota.quota)), period: micros(quota.period), burst: 0 }
    }

    /// As a quota; `None` where nothing is limited.
    pub(super) fn quota(self) -> Option<Quota> {
        let period = Duration::from_micros(self.period);
        Some(Quota { quota: Duration::from_micros(self.quota?), period })
    }
}

/// A cgroup directory in the hierarchy that has the cpu controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) path: PathBuf,
    pub(super) version: Version,
    /// Where its hierarchy is mounted: the highest directory that can be looked at.
    pub(super) top: PathBuf,
}

impl Group {
    /// The path of one of its files.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Its directory's name.
    pub(super) fn name(&self) -> &str {
        self.path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// A group below it; it need not exist.
    pub(super) fn child(&self, name: &str) -> Self {
        Self { path: self.file(name), ..self.clone() }
    }

    /// The group above it, unless it is the highest that this process sees.
    pub(super) fn parent(&self) -> Option<Self> {
        let above = self.path.parent().filter(|_| self.path != self.top)?;
        Some(Self { path: above.to_owned(), ..self.clone() })
    }

    /// The groups right below it.
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

    /// The file that lists its threads; a tid written to it moves that thread in.
    pub(super) fn threads_file(&self) -> PathBuf {
        self.file(match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        })
    }

    /// The threads in it, without those of groups below it.
    pub(super) fn threads(&self) -> Result<Vec<i32>, CgroupError> {
        Ok(text::thread_ids(&read(&self.threads_file())?))
    }

    /// The limit in force, as the files state it.
    pub(super) fn limit(&self) -> Result<Limit, CgroupError> {
        let number = |name: &str| {
            let file = self.file(name);
            let text = read(&file)?;
            text.trim_end().parse::<i64>().map_err(|_| CgroupError::unreadable(&file, &text))
        };
        let (quota, period, burst) = match self.version {
            Version::V1 => {
                let quota = u64::try_from(number("cpu.cfs_quota_us")?).ok();
                (quota, number("cpu.cfs_period_us")?.unsigned_abs(), number("cpu.cfs_burst_us"))
            }
            Version::V2 => {
                let file = self.file("cpu.max");
                let text = read(&file)?;
                let (quota, period) =
                    text::cpu_max(&text).ok_or_else(|| CgroupError::unreadable(&file, &text))?;
                (quota, period, number("cpu.max.burst"))
            }
        };
        // A kernel without bursts has no such file.
        let burst = burst.map_or(0, i64::unsigned_abs);
        Ok(Limit { quota, period, burst })
    }

    /// Puts a limit in force, unless it is already: every write refills the quota and forgives
    /// what was overrun.
    ///
    /// On no way is the group for a moment looser than both the old and the new limit. After an
    /// error the old limit is in force.
    ///
    /// # Errors
    /// [`CgroupError::AboveParent`] (v1), [`CgroupError::NotKept`], [`CgroupError::System`].
    pub(super) fn set_limit(&self, limit: Limit) -> Result<(), CgroupError> {
        let old = self.limit()?;
        if old == limit {
            return Ok(());
        }
        let outcome = self.write_limit(old, limit).and_then(|()| {
            let found = self.limit()?;
            if found == limit {
                return Ok(());
            }
            let (path, show) = (self.path.clone(), |limit: Limit| format!("{limit:?}"));
            Err(CgroupError::NotKept { path, asked: show(limit), found: show(found) })
        });
        outcome.map_err(|error| {
            // What was refused may have been the second of several writes.
            if let Ok(now) = self.limit() {
                let _ = self.write_limit(now, old);
            }
            match (error.errno(), limit.quota()) {
                (Some(Errno::INVAL), Some(asked)) => self.above_parent(asked).unwrap_or(error),
                _ => error,
            }
        })
    }

    /// Writes what differs. A quota below the burst would be refused, so bursts go first.
    fn write_limit(&self, old: Limit, new: Limit) -> Result<(), CgroupError> {
        let burst = self.file(match self.version {
            Version::V1 => "cpu.cfs_burst_us",
            Version::V2 => "cpu.max.burst",
        });
        if old.burst != 0 && old.burst != new.burst {
            write(&burst, "0")?;
        }
        match self.version {
            Version::V1 => self.write_v1_limit(old, new)?,
            Version::V2 => {
                let quota = new.quota.map_or("max".to_owned(), |quota| quota.to_string());
                write(&self.file("cpu.max"), &format!("{quota} {}", new.period))?;
            }
        }
        if new.burst != 0 && new.burst != old.burst {
            write(&burst, &new.burst.to_string())?;
        }
        Ok(())
    }

    /// Two files, so there is a moment with one old and one new value. It lies on the tight side
    /// if a longer period is written before the quota and a shorter one after it.
    fn write_v1_limit(&self, old: Limit, new: Limit) -> Result<(), CgroupError> {
        let write_period = || write(&self.file("cpu.cfs_period_us"), &new.period.to_string());
        let write_quota = |quota: &str| write(&self.file("cpu.cfs_quota_us"), quota);
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

    /// The group above that does not allow as much as was asked, if that is why it was refused.
    fn above_parent(&self, asked: Quota) -> Option<CgroupError> {
        let ancestors = std::iter::successors(self.parent(), Self::parent);
        let (parent, limit) = ancestors
            .filter_map(|group| Some((group.path.clone(), group.limit().ok()?.quota()?)))
            .find(|(_, limit)| !is_tighter(asked, *limit))?;
        Some(CgroupError::AboveParent { group: self.path.clone(), asked, parent, limit })
    }

    /// Reads a v2 list of controllers; empty where the file is not there.
    pub(super) fn controllers(&self, file: &str) -> Vec<String> {
        let text = read(&self.file(file)).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// Whether this process may write to a path, found out without writing.
///
/// # Errors
/// [`CgroupError::NoRight`].
pub(super) fn may_write(path: &Path) -> Result<(), CgroupError> {
    let enter = if path.is_dir() { Access::EXEC_OK } else { Access::empty() };
    accessat(CWD, path, Access::WRITE_OK | enter, AtFlags::EACCESS).map_err(|errno| {
        let reason = std::io::Error::from(errno).to_string();
        CgroupError::NoRight { path: path.to_owned(), reason }
    })
}

/// Reads a file of the kernel's.
pub(super) fn read(path: &Path) -> Result<String, CgroupError> {
    let bytes = fs::read(path).map_err(|source| CgroupError::system("read", path, source))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes a value to a file of the kernel's in one write; never creates the file.
pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    use std::io::Write as _;
    let file = fs::OpenOptions::new().write(true).open(path);
    file.and_then(|mut file| file.write_all(value.as_bytes())).map_err(|source| {
        let (path, value) = (path.to_owned(), Some(value.to_owned()));
        CgroupError::System { action: "write", path, value, source }
    })
}
