//! Holds vCPU threads and lets them go.

use std::fs;
use std::io;
use std::time::Duration;

use landfall_core::decision::Quota;

use super::cached_file::Kept;
use super::error::CgroupError;
use super::group::{Group, Limit, check, is_tighter, write};
use super::hierarchy::{Version, of_thread, thread_stat};
use super::survey::{Home, VcpuThread};
use super::text::{self, Throttling};
use super::undo::UndoStep;
use crate::procfs::{self, parse, thread_file};

/// The CPU lever on one guest. Made by [`survey`](super::survey()); dropped, it lets go.
#[derive(Debug)]
pub struct CpuLever {
    pid: i32,
    threads: Vec<VcpuThread>,
    grips: Vec<Grip>,
    counters: Vec<Counters>,
}

/// Where the kernel counts for a thread.
#[derive(Debug)]
struct Counters {
    thread: Kept,
    group: Kept,
}

/// Of no more threads than this the files stay open: a process may have 1024 files by default.
const MOST_KEPT: usize = 128;

impl Counters {
    fn close(&self) {
        self.thread.close();
        self.group.close();
    }
}

/// What has been done to a thread.
#[derive(Debug, Clone, Copy, Default)]
struct Grip {
    /// Something may have been changed, so there is something to undo.
    touched: bool,
    /// What groups that are removed by now had counted.
    counted: Throttling,
}

/// What is in force after [`CpuLever::hold`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// The limit of the thread's group; `None`: not limited there. Groups above it may limit more.
    pub quota: Option<Quota>,
    /// The limit that was found is tighter than what was asked, so it stays.
    pub found_is_tighter: bool,
}

/// What one vCPU thread used and what was kept from it; all figures are cumulative and never run
/// backwards while the lever lives.
///
/// Seen on Linux 6.18, cgroup v1 (the first also on 6.12, v2):
/// - `throttled` grows when a thread is let run again, by the whole gap at once. Looked at more
///   often than once a period, each step is the length of one gap; a gap that is still going on
///   does not show.
/// - `waited` includes the throttled time. What the host's other load took is `waited - throttled`.
///   It too grows only when the wait ends.
/// - `ran` of a running thread is brought up to date at the scheduler tick, so it may be a tick
///   (4 ms at 250 Hz) behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Periods of the controller in which the thread wanted to run.
    pub periods: u64,
    /// Periods at whose end it stood still. One gap can span several.
    pub throttled_periods: u64,
    /// Time for which the quota kept it from running although it wanted to. 0 before the first
    /// hold, except that a group used in place counts from when it was made.
    pub throttled: Duration,
    /// Its own CPU time since it began.
    pub ran: Duration,
    /// Time runnable but not running since it began.
    pub waited: Duration,
}

/// A step of a release that could not be taken. The others have been.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ReleaseFailure {
    /// The step.
    pub step: UndoStep,
    /// Why not; its text names the path.
    pub error: CgroupError,
}

impl CpuLever {
    pub(super) fn new(pid: i32, threads: Vec<VcpuThread>) -> Self {
        let grips = vec![Grip::default(); threads.len()];
        let counters = |thread: &VcpuThread| Counters {
            thread: Kept::new(thread_file(pid, thread.tid, "schedstat")),
            group: Kept::new(thread.group.file("cpu.stat")),
        };
        let counters = threads.iter().map(counters).collect();
        Self { pid, threads, grips, counters }
    }

    /// The process whose threads they are.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The threads, each once, with the vCPUs that run on it.
    pub fn threads(&self) -> &[VcpuThread] {
        &self.threads
    }

    /// How many vCPUs the survey was given.
    pub fn vcpus(&self) -> usize {
        self.threads.iter().map(|thread| thread.vcpus.len()).sum()
    }

    /// Which interface the controller has here.
    pub fn version(&self) -> Version {
        self.threads.first().map_or(Version::V2, |thread| thread.group.version)
    }

    /// Everything that a release does, whether or not it is needed yet: for another process to do
    /// if this one cannot.
    pub fn undo(&self) -> Vec<UndoStep> {
        steps_back(&self.threads.iter().collect::<Vec<_>>())
    }

    /// Holds the thread of one vCPU to a quota, or with `None` to what was found. The first hold of
    /// a thread makes its group and moves it there. A limit that is in force already is not written
    /// again, since that would refill the quota.
    ///
    /// Never looser than what was found: a group used in place keeps its own limit if that is
    /// tighter. vCPUs that share a thread share the hold; the last call counts.
    ///
    /// # Errors
    /// [`CgroupError::OutOfRange`], [`CgroupError::AboveParent`] (v1),
    /// [`CgroupError::NoSuchThread`] if it has ended, [`CgroupError::System`]. After an error the
    /// old limit is in force, and [`CpuLever::release`] tidies up what was begun.
    pub fn hold(&mut self, vcpu: usize, quota: Option<Quota>) -> Result<Effective, CgroupError> {
        let index = self.index(vcpu)?;
        let (thread, grip) = (&self.threads[index], &mut self.grips[index]);
        if let Some(quota) = quota {
            check(quota)?;
        }
        let group = &thread.group;
        match &thread.home {
            Home::Limit(found) => {
                let (limit, found_is_tighter) = tighter(*found, quota);
                grip.touched |= quota.is_some();
                if grip.touched {
                    group.set_limit(limit)?;
                }
                Ok(Effective { quota: limit.quota(), found_is_tighter })
            }
            Home::Group { group: home, enable_cpu, .. } => {
                grip.touched |= quota.is_some() || thread.left_behind;
                if grip.touched {
                    let inside = group.threads().is_ok_and(|tids| tids.contains(&thread.tid));
                    if !inside {
                        make_group(self.pid, group, home, *enable_cpu)?;
                    }
                    let limit = match quota {
                        Some(quota) => Limit::holding(quota),
                        None => Limit { quota: None, ..group.limit()? },
                    };
                    group.set_limit(limit)?;
                    if !inside {
                        move_in(self.pid, thread)?;
                    }
                }
                Ok(Effective { quota, found_is_tighter: false })
            }
        }
    }

    /// What the thread of a vCPU used and what was kept from it.
    ///
    /// # Errors
    /// [`CgroupError::NoSuchVcpu`], [`CgroupError::NoSuchThread`] if it has ended,
    /// [`CgroupError::System`], [`CgroupError::Unreadable`].
    pub fn stats(&self, vcpu: usize) -> Result<Stats, CgroupError> {
        let index = self.index(vcpu)?;
        let file = &self.counters[index].thread;
        let text = file.read().map_err(|error| procfs::read_error(file.path(), error));
        let times = text.and_then(|text| {
            parse::schedstat(&text).ok_or_else(|| procfs::unreadable(file.path(), &text))
        });
        let times = times.map_err(of_thread(self.pid, self.threads[index].tid))?;
        let throttling = self.throttling(index);
        Ok(Stats {
            periods: throttling.periods,
            throttled_periods: throttling.throttled_periods,
            throttled: throttling.throttled,
            ran: times.cpu_time,
            waited: times.run_delay,
        })
    }

    /// Puts everything back as it was found. Whatever cannot be put back is in the list; all the
    /// rest has been. May be called again, and [`CpuLever::hold`] may follow.
    ///
    /// Threads and groups that are gone, up to the whole guest, need no putting back. A thread in a
    /// group left behind by an earlier landfall is freed even if it was never held by this one.
    pub fn release(&mut self) -> Vec<ReleaseFailure> {
        for (thread, grip) in self.threads.iter().zip(&mut self.grips) {
            grip.touched |= thread.left_behind;
        }
        self.put_back()
    }

    fn put_back(&mut self) -> Vec<ReleaseFailure> {
        let counted: Vec<Throttling> =
            (0..self.grips.len()).map(|index| self.throttling(index)).collect();
        let pairs = self.threads.iter().zip(&self.grips);
        let touched: Vec<&VcpuThread> =
            pairs.filter(|(_, grip)| grip.touched).map(|(thread, _)| thread).collect();
        let failures: Vec<ReleaseFailure> = steps_back(&touched)
            .into_iter()
            .filter_map(|step| {
                let error = step.run().err()?;
                Some(ReleaseFailure { step, error })
            })
            .collect();
        // Groups made for the purpose took their counters with them.
        for ((thread, grip), counted) in self.threads.iter().zip(&mut self.grips).zip(counted) {
            if grip.touched && !thread.group.path.exists() {
                grip.counted = counted;
            }
        }
        if failures.is_empty() {
            self.grips.iter_mut().for_each(|grip| grip.touched = false);
        }
        failures
    }

    /// What the controller counted for a thread, over all the groups it was held in.
    fn throttling(&self, index: usize) -> Throttling {
        let before = self.grips[index].counted;
        let file = &self.counters[index].group;
        // A group that is made for the purpose goes and comes again.
        let made_anew = |_| {
            file.close();
            file.read()
        };
        let text = file.read().or_else(made_anew).unwrap_or_default();
        if index >= MOST_KEPT {
            self.counters[index].close();
        }
        let now = text::throttling(&text).unwrap_or_default();
        Throttling {
            periods: before.periods + now.periods,
            throttled_periods: before.throttled_periods + now.throttled_periods,
            throttled: before.throttled + now.throttled,
        }
    }

    fn index(&self, vcpu: usize) -> Result<usize, CgroupError> {
        let of_vcpu = |thread: &VcpuThread| thread.vcpus.contains(&vcpu);
        let no_such = CgroupError::NoSuchVcpu { vcpu, count: self.vcpus() };
        self.threads.iter().position(of_vcpu).ok_or(no_such)
    }
}

impl Drop for CpuLever {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// The limit to set in a group with a limit of its own, and whether that is the group's own.
fn tighter(found: Limit, asked: Option<Quota>) -> (Limit, bool) {
    match (asked, found.quota()) {
        (None, _) => (found, false),
        (Some(asked), Some(own)) if !is_tighter(asked, own) => (found, true),
        (Some(asked), _) => (Limit::holding(asked), false),
    }
}

/// Makes the group for a thread. One that is there already is used if it is empty or holds threads
/// of this very process: an earlier landfall left it behind.
fn make_group(pid: i32, group: &Group, home: &Group, enable_cpu: bool) -> Result<(), CgroupError> {
    if enable_cpu {
        write(&home.file("cgroup.subtree_control"), "+cpu")?;
    }
    match fs::create_dir(&group.path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let foreign = |tid: &i32| !thread_file(pid, *tid, "stat").exists();
            if group.threads()?.iter().any(foreign) {
                return Err(CgroupError::GroupInUse { path: group.path.clone() });
            }
            // Another vCPU's thread may be in it, if the vCPUs had other numbers then.
            UndoStep::EmptyGroup { from: group.threads_file(), to: home.threads_file() }.run()?;
        }
        Err(error) => return Err(CgroupError::system("make", &group.path, error)),
    }
    match group.version {
        Version::V1 => Ok(()),
        Version::V2 => write(&group.file("cgroup.type"), "threaded"),
    }
}

/// Moves a thread into its group, if it is still the one that was surveyed.
fn move_in(pid: i32, thread: &VcpuThread) -> Result<(), CgroupError> {
    let gone = CgroupError::NoSuchThread { pid, tid: thread.tid };
    if thread_stat(pid, thread.tid)?.start_time_ticks != thread.start_time_ticks {
        return Err(gone);
    }
    match write(&thread.group.threads_file(), &thread.tid.to_string()) {
        Err(error) if error.errno() == Some(rustix::io::Errno::SRCH) => Err(gone),
        outcome => outcome,
    }
}

/// The way back for some threads: all run before anything is tidied up.
fn steps_back(threads: &[&VcpuThread]) -> Vec<UndoStep> {
    let (mut lift, mut tidy, mut controllers) = (Vec::new(), Vec::new(), Vec::new());
    for thread in threads {
        match &thread.home {
            Home::Limit(found) => lift.extend(restore(&thread.group, *found)),
            Home::Group { group: home, enable_cpu, stale } => {
                for group in [Some(&thread.group), stale.as_ref()].into_iter().flatten() {
                    lift.push(unlimit(group));
                    let (from, to) = (group.threads_file(), home.threads_file());
                    tidy.push(UndoStep::EmptyGroup { from, to });
                    tidy.push(UndoStep::RemoveGroup { path: group.path.clone() });
                }
                let disable = UndoStep::DisableCpu { group: home.path.clone() };
                if *enable_cpu && !controllers.contains(&disable) {
                    controllers.push(disable);
                }
            }
        }
    }
    [lift, tidy, controllers].concat()
}

/// Lets a group run free, whatever its limit is now.
fn unlimit(group: &Group) -> UndoStep {
    let (file, value) = match group.version {
        Version::V1 => ("cpu.cfs_quota_us", "-1"),
        Version::V2 => ("cpu.max", "max"),
    };
    UndoStep::WriteFile { path: group.file(file), value: value.to_owned() }
}

/// Gives a group the limit that it was found with, whatever its limit is now. In v1 the quota goes
/// first, or a period could be refused; for a fraction of a millisecond the group is not limited.
fn restore(group: &Group, found: Limit) -> Vec<UndoStep> {
    let step = |file: &str, value: String| UndoStep::WriteFile { path: group.file(file), value };
    let (mut steps, burst) = match group.version {
        Version::V1 => {
            let mut steps =
                vec![unlimit(group), step("cpu.cfs_period_us", found.period.to_string())];
            steps.extend(found.quota.map(|quota| step("cpu.cfs_quota_us", quota.to_string())));
            (steps, "cpu.cfs_burst_us")
        }
        Version::V2 => {
            let quota = found.quota.map_or("max".to_owned(), |quota| quota.to_string());
            (vec![step("cpu.max", format!("{quota} {}", found.period))], "cpu.max.burst")
        }
    };
    if found.burst != 0 {
        steps.push(step(burst, found.burst.to_string()));
    }
    steps
}
