//! Holds vCPU threads and releases them.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use landfall_core::quota::Quota;

use super::cached_file::CachedFile;
use super::error::CgroupError;
use super::group::{
    BandwidthLimit, CgroupDir, check_quota, is_at_most, move_thread_to, read_file, write_file,
};
use super::hierarchy::{CgroupVersion, thread_error, thread_stat};
use super::journal::{JournalPlace, LimitEntry, LimitJournal};
use super::parse::{CpuStat, cpu_stat};
use super::placement::{Origin, VcpuThread};
use super::undo_step::{UndoStep, unlimit};
use crate::procfs::{self, parse, thread_file};

/// The CPU lever on one guest, made by [`find_cpu_lever`](super::find_cpu_lever). Releases all threads when it
/// is dropped.
#[derive(Debug)]
pub struct CpuLever {
    pid: i32,
    threads: Vec<VcpuThread>,
    /// One for each of `threads`.
    hold_states: Vec<HoldState>,
    /// One for each of `threads`.
    counter_files: Vec<CounterFiles>,
    /// What was set in groups that are used in place, for other processes.
    journal: Option<LimitJournal>,
}

/// The files in which the kernel counts for one thread.
#[derive(Debug)]
struct CounterFiles {
    /// The thread's `schedstat`.
    schedstat: CachedFile,
    /// `cpu.stat` of the group that holds it.
    cpu_stat: CachedFile,
}

/// The files of no more threads than this stay open: by default a process may have 1024 open files.
const MAX_OPEN_THREADS: usize = 128;

impl CounterFiles {
    fn close(&self) {
        self.schedstat.close();
        self.cpu_stat.close();
    }
}

/// What landfall has done to one thread.
#[derive(Debug, Clone, Copy, Default)]
struct HoldState {
    /// Something may have been changed, so that there is something to undo.
    changed: bool,
    /// Of a group that is used in place: its limit, and what was set there.
    entry: Option<LimitEntry>,
    /// What groups that are removed by now had counted.
    earlier_groups: CpuStat,
}

/// The limit in force after [`CpuLever::hold_vcpu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EffectiveLimit {
    /// The limit of the thread's group; `None` if it has none. Groups above it may limit the thread more.
    pub quota: Option<Quota>,
    /// The group had a tighter limit than was asked for, which stays in force.
    pub found_is_tighter: bool,
}

/// The CPU time that one vCPU thread used and the time that it could not run. All figures are cumulative
/// and never decrease while the lever lives.
///
/// Measured on Linux 6.18, cgroup v1 (the first point also on 6.12, v2):
/// - `throttled_time` grows when a thread may run again, by the whole gap at once. If it is read more than
///   once a period, each step is the length of one gap. A gap that has not ended does not show.
/// - `run_delay` includes the throttled time; the rest, `run_delay - throttled_time`, was taken by other load
///   on the host. It too grows only when the delay ends.
/// - `cpu_time` of a running thread is updated at the scheduler tick, so it may be a tick (4 ms at 250 Hz)
///   behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VcpuStats {
    /// Periods of the controller in which the thread was runnable.
    pub nr_periods: u64,
    /// Periods at whose end it was throttled. One gap can span several.
    pub nr_throttled: u64,
    /// Time for which it was throttled while runnable. 0 before the first hold; a group that is used in place
    /// counts from when it was made.
    pub throttled_time: Duration,
    /// Its own CPU time since it started.
    pub cpu_time: Duration,
    /// Time runnable but not running since it started.
    pub run_delay: Duration,
}

/// A step of a release that failed. The other steps were applied.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct ReleaseFailure {
    /// The step that failed.
    pub step: UndoStep,
    /// Why it failed; the text names the path.
    pub error: CgroupError,
}

impl CpuLever {
    /// Makes the lever for threads that were found. Changes nothing.
    pub(super) fn new(pid: i32, threads: Vec<VcpuThread>) -> Self {
        let hold_states = vec![HoldState::default(); threads.len()];
        let counter_files = |thread: &VcpuThread| CounterFiles {
            schedstat: CachedFile::new(thread_file(pid, thread.tid, "schedstat")),
            cpu_stat: CachedFile::new(thread.group.file("cpu.stat")),
        };
        let counter_files = threads.iter().map(counter_files).collect();
        Self { pid, threads, hold_states, counter_files, journal: None }
    }

    /// Keeps a file of what is set in groups that are used in place, so that another process can tell
    /// landfall's values from those of other programs. To be called before
    /// [`CpuLever::undo_steps`]; does nothing where no group is used in place.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn keep_journal(&mut self, path: &Path) -> io::Result<()> {
        let in_place = |thread: &VcpuThread| matches!(thread.origin, Origin::OwnLimit(_));
        if self.threads.iter().any(in_place) {
            self.journal = Some(LimitJournal::create(path, self.threads.len())?);
        }
        Ok(())
    }

    /// Returns the process that the threads belong to.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Returns the threads, each once, with the vCPUs that run on it.
    pub fn threads(&self) -> &[VcpuThread] {
        &self.threads
    }

    /// Returns the number of vCPUs.
    pub fn vcpu_count(&self) -> usize {
        self.threads.iter().map(|thread| thread.vcpus.len()).sum()
    }

    /// Returns the version of the cgroup interface in use.
    pub fn cgroup_version(&self) -> CgroupVersion {
        self.threads.first().map_or(CgroupVersion::V2, |thread| thread.group.version)
    }

    /// Returns everything that a release does, whether or not it is needed yet, for another process to
    /// apply if landfall cannot.
    pub fn undo_steps(&self) -> Vec<UndoStep> {
        let place = |index| {
            let path = self.journal.as_ref()?.path.clone();
            Some(JournalPlace { path, index })
        };
        let threads: Vec<_> = self
            .threads
            .iter()
            .enumerate()
            .map(|(index, thread)| (thread, None, place(index)))
            .collect();
        undo_steps_for(&threads)
    }

    /// Holds the thread of one vCPU to a quota, or with `None` to the limit that was found. The first hold of
    /// a thread makes its group and moves it there. A limit that is in force already is not written again,
    /// because that would refill the quota.
    ///
    /// The hold is never looser than the limit that was found: a group that is used in place keeps its own
    /// limit if that is tighter. vCPUs that share a thread share the hold; the last call counts.
    ///
    /// # Errors
    /// [`CgroupError::OutOfRange`], [`CgroupError::AboveParent`] (v1),
    /// [`CgroupError::NoSuchThread`] if it has ended, [`CgroupError::System`]. After an error the old limit is
    /// in force, and [`CpuLever::release_all`] removes what was made.
    pub fn hold_vcpu(
        &mut self,
        vcpu: usize,
        quota: Option<Quota>,
    ) -> Result<EffectiveLimit, CgroupError> {
        let index = self.thread_index(vcpu)?;
        let (thread, state) = (&self.threads[index], &mut self.hold_states[index]);
        if let Some(quota) = quota {
            check_quota(quota)?;
        }
        let group = &thread.group;
        match &thread.origin {
            Origin::OwnLimit(found) => {
                let entry = state.entry.get_or_insert(LimitEntry::new(*found));
                entry.adopt(group.read_limit()?, group.version);
                let (limit, found_is_tighter) = tighter_limit(entry.found, quota);
                state.changed |= quota.is_some();
                if state.changed {
                    entry.note_set(limit);
                    if let Some(journal) = &self.journal {
                        let failed = |error| CgroupError::system("write", &journal.path, error);
                        journal.write(index, entry).map_err(failed)?;
                    }
                    group.set_limit(limit)?;
                }
                Ok(EffectiveLimit { quota: limit.to_quota(), found_is_tighter })
            }
            Origin::ParentGroup { parent, enable_cpu, .. } => {
                state.changed |= quota.is_some() || thread.left_behind;
                if state.changed {
                    let inside = group.threads().is_ok_and(|tids| tids.contains(&thread.tid));
                    if !inside {
                        make_group(self.pid, group, parent, *enable_cpu)?;
                    }
                    let limit = match quota {
                        Some(quota) => BandwidthLimit::from_quota(quota),
                        None => BandwidthLimit { quota: None, ..group.read_limit()? },
                    };
                    group.set_limit(limit)?;
                    if !inside {
                        move_thread(self.pid, thread)?;
                    }
                }
                Ok(EffectiveLimit { quota, found_is_tighter: false })
            }
        }
    }

    /// Returns what the kernel has counted for the thread of a vCPU.
    ///
    /// # Errors
    /// [`CgroupError::NoSuchVcpu`], [`CgroupError::NoSuchThread`] if it has ended,
    /// [`CgroupError::Proc`].
    pub fn vcpu_stats(&self, vcpu: usize) -> Result<VcpuStats, CgroupError> {
        let index = self.thread_index(vcpu)?;
        let file = &self.counter_files[index].schedstat;
        let text = file.read().map_err(|error| procfs::read_error(file.path(), error));
        let times = text.and_then(|text| {
            parse::schedstat(&text).ok_or_else(|| procfs::unreadable(file.path(), &text))
        });
        let times = times.map_err(thread_error(self.pid, self.threads[index].tid))?;
        let counted = self.total_cpu_stat(index);
        Ok(VcpuStats {
            nr_periods: counted.nr_periods,
            nr_throttled: counted.nr_throttled,
            throttled_time: counted.throttled_time,
            cpu_time: times.cpu_time,
            run_delay: times.run_delay,
        })
    }

    /// Puts everything back as it was found, and returns the steps that failed. All other steps were applied.
    /// May be called again, and [`CpuLever::hold_vcpu`] may follow.
    ///
    /// Threads, groups and a whole guest that are gone need no putting back. A thread in a group left behind
    /// by an earlier landfall is freed even if this one never held it.
    pub fn release_all(&mut self) -> Vec<ReleaseFailure> {
        for (thread, state) in self.threads.iter().zip(&mut self.hold_states) {
            state.changed |= thread.left_behind;
        }
        self.apply_undo_steps()
    }

    fn apply_undo_steps(&mut self) -> Vec<ReleaseFailure> {
        let counted: Vec<CpuStat> =
            (0..self.hold_states.len()).map(|index| self.total_cpu_stat(index)).collect();
        let pairs = self.threads.iter().zip(&self.hold_states);
        let changed: Vec<_> = pairs
            .filter(|(_, state)| state.changed)
            .map(|(thread, state)| (thread, state.entry, None))
            .collect();
        let failures: Vec<ReleaseFailure> = undo_steps_for(&changed)
            .into_iter()
            .filter_map(|step| {
                let error = step.apply().err()?;
                Some(ReleaseFailure { step, error })
            })
            .collect();
        // A group that was made for a hold is removed together with its counters.
        for ((thread, state), counted) in
            self.threads.iter().zip(&mut self.hold_states).zip(counted)
        {
            if state.changed && !thread.group.path.exists() {
                state.earlier_groups = counted;
            }
        }
        if failures.is_empty() {
            for state in &mut self.hold_states {
                state.changed = false;
                // The next hold reads what is in force then.
                if let Some(entry) = &mut state.entry {
                    entry.set = [None; 2];
                }
            }
        }
        failures
    }

    /// Returns what the controller has counted for a thread in all the groups that held it.
    fn total_cpu_stat(&self, index: usize) -> CpuStat {
        let before = self.hold_states[index].earlier_groups;
        let file = &self.counter_files[index].cpu_stat;
        // The group may have been removed and made again since the file was opened.
        let reopen = |_| {
            file.close();
            file.read()
        };
        let text = file.read().or_else(reopen).unwrap_or_default();
        if index >= MAX_OPEN_THREADS {
            self.counter_files[index].close();
        }
        let now = cpu_stat(&text).unwrap_or_default();
        CpuStat {
            nr_periods: before.nr_periods + now.nr_periods,
            nr_throttled: before.nr_throttled + now.nr_throttled,
            throttled_time: before.throttled_time + now.throttled_time,
        }
    }

    /// Returns the index in `threads` of the thread that a vCPU runs on.
    fn thread_index(&self, vcpu: usize) -> Result<usize, CgroupError> {
        let of_vcpu = |thread: &VcpuThread| thread.vcpus.contains(&vcpu);
        let no_such = CgroupError::NoSuchVcpu { vcpu, count: self.vcpu_count() };
        self.threads.iter().position(of_vcpu).ok_or(no_such)
    }
}

impl Drop for CpuLever {
    fn drop(&mut self) {
        self.apply_undo_steps();
    }
}

/// Returns the limit to set in a group with a limit of its own, and whether the group's own is tighter.
fn tighter_limit(found: BandwidthLimit, asked: Option<Quota>) -> (BandwidthLimit, bool) {
    match (asked, found.to_quota()) {
        (None, _) => (found, false),
        (Some(asked), Some(own)) if !is_at_most(asked, own) => (found, true),
        (Some(asked), _) => (BandwidthLimit::from_quota(asked), false),
    }
}

/// Makes the group for a thread. A group that exists already is used if it is empty or holds threads of this
/// very process: an earlier landfall left it behind.
fn make_group(
    pid: i32,
    group: &CgroupDir,
    parent: &CgroupDir,
    enable_cpu: bool,
) -> Result<(), CgroupError> {
    if enable_cpu {
        write_file(&parent.file("cgroup.subtree_control"), "+cpu")?;
    }
    match fs::create_dir(&group.path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let foreign = |tid: &i32| !thread_file(pid, *tid, "stat").exists();
            if group.threads()?.iter().any(foreign) {
                return Err(CgroupError::GroupInUse { path: group.path.clone() });
            }
            // Another vCPU's thread may be in it, if the vCPUs had other numbers then.
            UndoStep::EmptyGroup { from: group.threads_file(), to: parent.threads_file() }
                .apply()?;
        }
        Err(error) => return Err(CgroupError::system("make", &group.path, error)),
    }
    match group.version {
        CgroupVersion::V1 => copy_cpuset(parent, group),
        CgroupVersion::V2 => write_file(&group.file("cgroup.type"), "threaded"),
    }
}

/// v1, where `cpu` and `cpuset` share a hierarchy: a new group has no CPU and no memory node, and takes no
/// thread before it has. Gives it those of the group above, which cannot lose one while the new group is there.
fn copy_cpuset(parent: &CgroupDir, group: &CgroupDir) -> Result<(), CgroupError> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if !parent.file(name).exists() {
            return Ok(());
        }
        let allowed = read_file(&parent.file(name))?;
        if read_file(&group.file(name))? != allowed {
            write_file(&group.file(name), allowed.trim_end())?;
        }
    }
    Ok(())
}

/// Moves a thread into its group, if it is still the thread that was found.
fn move_thread(pid: i32, thread: &VcpuThread) -> Result<(), CgroupError> {
    let gone = CgroupError::NoSuchThread { pid, tid: thread.tid };
    if thread_stat(pid, thread.tid)?.start_time_ticks != thread.start_time_ticks {
        return Err(gone);
    }
    match move_thread_to(&thread.group.threads_file(), thread.tid) {
        Err(error) if error.errno() == Some(rustix::io::Errno::SRCH) => Err(gone),
        outcome => outcome,
    }
}

/// Returns the undo steps for some threads: first all may run, then groups are removed.
fn undo_steps_for(
    threads: &[(&VcpuThread, Option<LimitEntry>, Option<JournalPlace>)],
) -> Vec<UndoStep> {
    let (mut unlimit_all, mut remove, mut controllers) = (Vec::new(), Vec::new(), Vec::new());
    for (thread, entry, journal) in threads {
        match &thread.origin {
            Origin::OwnLimit(found) => unlimit_all.push(UndoStep::RestoreLimit {
                group: thread.group.path.clone(),
                version: thread.group.version,
                entry: entry.unwrap_or(LimitEntry::new(*found)),
                journal: journal.clone(),
            }),
            Origin::ParentGroup { parent, enable_cpu, stale } => {
                for group in [Some(&thread.group), stale.as_ref()].into_iter().flatten() {
                    unlimit_all.push(unlimit(group));
                    let (from, to) = (group.threads_file(), parent.threads_file());
                    remove.push(UndoStep::EmptyGroup { from, to });
                    remove.push(UndoStep::RemoveGroup { path: group.path.clone() });
                }
                let disable = UndoStep::DisableCpu { group: parent.path.clone() };
                if *enable_cpu && !controllers.contains(&disable) {
                    controllers.push(disable);
                }
            }
        }
    }
    [unlimit_all, remove, controllers].concat()
}
