//! Looks at where the vCPU threads are and decides which group will hold each. Changes nothing.

use std::path::Path;

use rustix::process::geteuid;

use super::error::CgroupError;
use super::group::{Group, Limit, PREFIX, may_write, read};
use super::hierarchy::{Hierarchies, Version, of_thread, thread_stat};
use super::lever::CpuLever;
use crate::procfs;

/// Which group holds a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The group in which the thread was found: it holds nothing else, as libvirt's `vcpuN`.
    InPlace,
    /// A group made for the purpose, below the one in which the thread was found.
    Made,
}

/// A vCPU thread and how it will be held.
#[derive(Debug, Clone)]
pub struct VcpuThread {
    /// The vCPUs that run on it: several under single-threaded TCG.
    pub vcpus: Vec<usize>,
    /// The thread.
    pub tid: i32,
    /// When it began, in clock ticks after boot: with the tid it names the thread for good.
    pub start_time_ticks: u64,
    /// Which group holds it.
    pub place: Place,
    /// It was found in a group that an earlier landfall left behind (or that another one, at work
    /// on the same guest, has made): it may be held at this moment. A release frees it. (A limit left
    /// behind in a group used in place cannot be told from the operator's: only the record of
    /// [`CpuLever::undo`] knows.)
    pub left_behind: bool,
    pub(super) group: Group,
    pub(super) home: Home,
}

impl VcpuThread {
    /// The directory of the group that holds it.
    pub fn group(&self) -> &Path {
        &self.group.path
    }
}

/// What the thread goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Home {
    /// The limit that its own group had.
    Limit(Limit),
    /// The group it came from.
    Group {
        group: Group,
        /// v2: the cpu controller has to be given to that group's children first.
        enable_cpu: bool,
        /// The group of an earlier landfall in which the thread is now, if not `group`'s child of
        /// the same name.
        stale: Option<Group>,
    },
}

/// Finds how each vCPU thread of a process can be held, and whether this process may.
///
/// `tids` has one entry for each vCPU, in their order; the same tid for several vCPUs is one
/// thread. Nothing is changed.
///
/// # Errors
/// Everything that would stand in the way of a hold: no such thread, no cpu controller where the
/// thread is, a v2 group that cannot have threaded children, no right to write.
pub fn survey(pid: i32, tids: &[i32]) -> Result<CpuLever, CgroupError> {
    if tids.is_empty() {
        return Err(CgroupError::NoThreads { pid });
    }
    let hierarchies = Hierarchies::here()?;
    let mut threads: Vec<VcpuThread> = Vec::new();
    for (vcpu, &tid) in tids.iter().enumerate() {
        match threads.iter_mut().find(|thread| thread.tid == tid) {
            Some(thread) => thread.vcpus.push(vcpu),
            None => threads.push(look_at(&hierarchies, pid, tid, vcpu)?),
        }
    }
    Ok(CpuLever::new(pid, threads))
}

fn look_at(
    hierarchies: &Hierarchies,
    pid: i32,
    tid: i32,
    vcpu: usize,
) -> Result<VcpuThread, CgroupError> {
    let stat = thread_stat(pid, tid)?;
    if stat.is_real_time {
        return Err(CgroupError::RealTime { tid });
    }
    let found = hierarchies.group_of(pid, tid)?;
    let (above, stale) = step_over_our_own(&found);
    let left_behind = stale.is_some();

    let (place, group, home) = match own_limit(&above, tid, left_behind)? {
        Some(limit) => (Place::InPlace, above, Home::Limit(limit)),
        None => {
            let group = above.child(&format!("{PREFIX}{pid}-vcpu{vcpu}"));
            let stale = stale.filter(|stale| stale.path != group.path);
            let enable_cpu = above.version == Version::V2 && threaded_child_fits(&above)?;
            (Place::Made, group, Home::Group { group: above, enable_cpu, stale })
        }
    };
    let thread = VcpuThread {
        vcpus: vec![vcpu],
        tid,
        start_time_ticks: stat.start_time_ticks,
        place,
        left_behind,
        group,
        home,
    };
    check_rights(pid, &thread)?;
    Ok(thread)
}

/// A group left behind by an earlier landfall is nobody's home: the group above it is.
fn step_over_our_own(found: &Group) -> (Group, Option<Group>) {
    let mut home = found.clone();
    while let Some(parent) = home.parent().filter(|_| home.name().starts_with(PREFIX)) {
        home = parent;
    }
    let stale = (home != *found).then(|| found.clone());
    (home, stale)
}

/// The limit of the group, if it can be used in place: it holds this thread, nothing else, has no
/// groups below it, and has a limit at all (the root has none that can be set).
fn own_limit(group: &Group, tid: i32, left_behind: bool) -> Result<Option<Limit>, CgroupError> {
    let alone = !left_behind && group.parent().is_some() && group.threads()? == [tid];
    if !alone || !group.children()?.is_empty() {
        return Ok(None);
    }
    match group.limit() {
        Ok(limit) => Ok(Some(limit)),
        // v2: the parent does not hand the controller down.
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// v2: whether a threaded child with the cpu controller can be made below a group that holds
/// processes, by the kernel's own rules (`cgroup_can_be_thread_root`, `cgroup_enable_threaded`).
/// Returns whether the controller must be given to the children first.
fn threaded_child_fits(home: &Group) -> Result<bool, CgroupError> {
    /// Controllers that may be enabled above threads; every other one deals in whole processes.
    const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

    let has_cpu =
        |group: &Group| group.controllers("cgroup.controllers").iter().any(|c| c == "cpu");
    if !has_cpu(home) {
        return Err(no_controller(home, has_cpu));
    }
    let given = home.controllers("cgroup.subtree_control");
    let enable_cpu = !given.iter().any(|name| name == "cpu");

    let refuse = |reason: String, remedy: &str| {
        let (group, remedy) = (home.path.clone(), remedy.to_owned());
        Err(CgroupError::NotThreadable { group, reason, remedy })
    };
    // The root has no type, and mixes threads and processes freely.
    let Ok(kind) = read(&home.file("cgroup.type")) else { return Ok(enable_cpu) };
    match kind.trim_end() {
        "threaded" | "domain threaded" => return Ok(enable_cpu),
        "domain" => {}
        other => {
            let remedy = "move the guest to a group of its own that is of type domain";
            return refuse(format!("its cgroup.type is {other:?}"), remedy);
        }
    }
    if let Some(name) = given.iter().find(|name| !THREADED.contains(&name.as_str())) {
        let remedy = "take that controller out of its cgroup.subtree_control, or move the guest to \
                      a group without children";
        return refuse(format!("it gives its children the {name} controller"), remedy);
    }
    for child in home.children()? {
        let of_domain = read(&child.file("cgroup.type")).is_ok_and(|t| t.starts_with("domain"));
        let events = read(&child.file("cgroup.events")).unwrap_or_default();
        if of_domain && events.lines().any(|line| line == "populated 1") {
            let remedy = "move the guest to a group without children";
            return refuse(
                format!("{} below it holds whole processes", child.path.display()),
                remedy,
            );
        }
    }
    Ok(enable_cpu)
}

/// Says which groups above must hand the controller down.
fn no_controller(home: &Group, has_cpu: impl Fn(&Group) -> bool) -> CgroupError {
    let mut commands = Vec::new();
    for group in std::iter::successors(home.parent(), Group::parent) {
        commands.push(format!("echo +cpu > {}", group.file("cgroup.subtree_control").display()));
        if has_cpu(&group) {
            commands.reverse();
            let remedy = commands.join(" && ");
            return CgroupError::NoController { group: home.path.clone(), remedy };
        }
    }
    let remedy = "a kernel with CONFIG_CFS_BANDWIDTH whose cpu controller is not taken by cgroup v1 \
                  (see /proc/cgroups; boot parameter cgroup_no_v1=cpu)";
    CgroupError::NoController { group: home.path.clone(), remedy: remedy.to_owned() }
}

/// Everything that a hold and a release will write to.
fn check_rights(pid: i32, thread: &VcpuThread) -> Result<(), CgroupError> {
    match (&thread.home, thread.group.version) {
        (Home::Limit(_), Version::V1) => {
            may_write(&thread.group.file("cpu.cfs_quota_us"))?;
            may_write(&thread.group.file("cpu.cfs_period_us"))
        }
        (Home::Limit(_), Version::V2) => may_write(&thread.group.file("cpu.max")),
        (Home::Group { group, .. }, Version::V1) => {
            may_write(&group.path)?;
            may_write(&group.threads_file())?;
            may_move_v1(pid, thread.tid, group)
        }
        (Home::Group { group, enable_cpu, .. }, Version::V2) => {
            may_write(&group.path)?;
            may_write(&group.threads_file())?;
            // Who moves a thread must be able to write this in the common ancestor, which is home.
            may_write(&group.file("cgroup.procs"))?;
            if *enable_cpu { may_write(&group.file("cgroup.subtree_control")) } else { Ok(()) }
        }
    }
}

/// v1 asks more than write access of who moves a thread: to be root or the thread's own user.
fn may_move_v1(pid: i32, tid: i32, group: &Group) -> Result<(), CgroupError> {
    let user = geteuid();
    if user.is_root() {
        return Ok(());
    }
    let status = procfs::thread_status(pid, tid).map_err(of_thread(pid, tid))?;
    if [status.real_uid, status.saved_uid].contains(&user.as_raw()) {
        return Ok(());
    }
    let reason = format!("thread {tid} belongs to another user than {}", user.as_raw());
    Err(CgroupError::NoRight { path: group.threads_file(), reason })
}
