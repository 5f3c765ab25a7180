//! Finds the group of each vCPU thread and decides which group will hold it. Changes nothing.

use std::path::Path;

use rustix::process::geteuid;

use super::error::CgroupError;
use super::group::{BandwidthLimit, CgroupDir, GROUP_PREFIX, check_writable, read_file};
use super::hierarchy::{CgroupVersion, Hierarchies, thread_error, thread_stat};
use super::lever::CpuLever;
use crate::procfs;

/// The kind of group that holds a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Placement {
    /// The group in which the thread was found, because nothing else is in it, as in libvirt's `vcpuN`.
    InPlace,
    /// A new group below the one in which the thread was found.
    Created,
}

/// A vCPU thread and how it will be held.
#[derive(Debug, Clone)]
pub struct VcpuThread {
    /// The vCPUs that run on it: several under single-threaded TCG.
    pub vcpus: Vec<usize>,
    /// The thread.
    pub tid: i32,
    /// When it started, in clock ticks after boot: together with the thread id it identifies one thread.
    pub start_time_ticks: u64,
    /// The kind of group that holds it.
    pub placement: Placement,
    /// It was found in a group that an earlier landfall left behind, or that another landfall on the same
    /// guest has made, so it may be held at this moment. A release frees it. A limit left behind in a group
    /// that is used in place cannot be told from the operator's own: only [`CpuLever::undo_steps`] knows.
    pub left_behind: bool,
    /// The group that holds it.
    pub(super) group: CgroupDir,
    /// What a release restores.
    pub(super) origin: Origin,
}

impl VcpuThread {
    /// Returns the directory of the group that holds it.
    pub fn group_path(&self) -> &Path {
        &self.group.path
    }
}

/// What a release restores for a thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The thread stays in its group, which gets back the limit that it had.
    OwnLimit(BandwidthLimit),
    /// The thread goes back to the group it came from.
    ParentGroup {
        /// That group. The group that holds the thread is right below it.
        parent: CgroupDir,
        /// v2: the cpu controller has to be enabled for that group's children first.
        enable_cpu: bool,
        /// The group of an earlier landfall in which the thread is now, if it has another name than
        /// the group that will hold it.
        stale: Option<CgroupDir>,
    },
}

/// Returns the lever that can hold each vCPU thread of a process. Changes nothing.
///
/// `tids` has one entry for each vCPU, in QEMU's order; several vCPUs may name the same thread.
///
/// # Errors
/// Everything that would prevent a hold: no such thread, no cpu controller for its group, a v2 group that
/// cannot have threaded children, no right to write. See the variants of [`CgroupError`].
pub fn find_cpu_lever(pid: i32, tids: &[i32]) -> Result<CpuLever, CgroupError> {
    if tids.is_empty() {
        return Err(CgroupError::NoThreads { pid });
    }
    let hierarchies = Hierarchies::read_mounted()?;
    let mut threads: Vec<VcpuThread> = Vec::new();
    for (vcpu, &tid) in tids.iter().enumerate() {
        match threads.iter_mut().find(|thread| thread.tid == tid) {
            Some(thread) => thread.vcpus.push(vcpu),
            None => threads.push(place_thread(&hierarchies, pid, tid, vcpu)?),
        }
    }
    Ok(CpuLever::new(pid, threads))
}

/// Decides which group will hold one thread.
fn place_thread(
    hierarchies: &Hierarchies,
    pid: i32,
    tid: i32,
    vcpu: usize,
) -> Result<VcpuThread, CgroupError> {
    let stat = thread_stat(pid, tid)?;
    if stat.is_real_time {
        return Err(CgroupError::RealTime { tid });
    }
    let found = hierarchies.cpu_group_of(pid, tid)?;
    let (above, stale) = skip_landfall_groups(&found);
    let left_behind = stale.is_some();

    let (placement, group, origin) = match limit_in_place(&above, tid, left_behind)? {
        Some(limit) => (Placement::InPlace, above, Origin::OwnLimit(limit)),
        None => {
            let group = above.child(&format!("{GROUP_PREFIX}{pid}-vcpu{vcpu}"));
            let stale = stale.filter(|stale| stale.path != group.path);
            let enable_cpu = above.version == CgroupVersion::V2 && check_threaded_child(&above)?;
            (Placement::Created, group, Origin::ParentGroup { parent: above, enable_cpu, stale })
        }
    };
    let thread = VcpuThread {
        vcpus: vec![vcpu],
        tid,
        start_time_ticks: stat.start_time_ticks,
        placement,
        left_behind,
        group,
        origin,
    };
    check_rights(pid, &thread)?;
    Ok(thread)
}

/// Returns the first group from `found` upwards that is not one of landfall's, and `found` itself if it is
/// one: an earlier landfall left it behind.
fn skip_landfall_groups(found: &CgroupDir) -> (CgroupDir, Option<CgroupDir>) {
    let mut origin = found.clone();
    while let Some(parent) = origin.parent().filter(|_| origin.name().starts_with(GROUP_PREFIX)) {
        origin = parent;
    }
    let stale = (origin != *found).then(|| found.clone());
    (origin, stale)
}

/// Returns the limit of a group that can be used in place; `None` if it cannot, because it holds other
/// threads, has groups below it, or has no limit that can be set, as the root.
fn limit_in_place(
    group: &CgroupDir,
    tid: i32,
    left_behind: bool,
) -> Result<Option<BandwidthLimit>, CgroupError> {
    let alone = !left_behind && group.parent().is_some() && group.threads()? == [tid];
    if !alone || !group.children()?.is_empty() {
        return Ok(None);
    }
    match group.read_limit() {
        Ok(limit) => Ok(Some(limit)),
        // v2: the parent does not enable the controller for its children.
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// v2: checks that a threaded child with the cpu controller can be made below a group that holds
/// processes, by the kernel's own rules (`cgroup_can_be_thread_root`, `cgroup_enable_threaded`). Returns
/// whether the controller must be enabled for the children first.
fn check_threaded_child(parent: &CgroupDir) -> Result<bool, CgroupError> {
    /// Controllers that may be enabled above threads. All others deal in whole processes.
    const THREADED: [&str; 4] = ["cpu", "cpuset", "perf_event", "pids"];

    let has_cpu =
        |group: &CgroupDir| group.read_controllers("cgroup.controllers").iter().any(|c| c == "cpu");
    if !has_cpu(parent) {
        return Err(no_controller(parent, has_cpu));
    }
    let enabled = parent.read_controllers("cgroup.subtree_control");
    let enable_cpu = !enabled.iter().any(|name| name == "cpu");

    let group = parent.path.clone();
    // The root has no type, and any kind of group can be below it.
    let Ok(kind) = read_file(&parent.file("cgroup.type")) else { return Ok(enable_cpu) };
    match kind.trim_end() {
        "threaded" | "domain threaded" => return Ok(enable_cpu),
        "domain" => {}
        other => return Err(CgroupError::WrongGroupType { group, kind: other.to_owned() }),
    }
    if let Some(name) = enabled.iter().find(|name| !THREADED.contains(&name.as_str())) {
        return Err(CgroupError::DomainController { group, controller: name.clone() });
    }
    for child in parent.children()? {
        let kind = read_file(&child.file("cgroup.type"));
        let is_domain = kind.is_ok_and(|kind| kind.starts_with("domain"));
        let events = read_file(&child.file("cgroup.events")).unwrap_or_default();
        if is_domain && events.lines().any(|line| line == "populated 1") {
            return Err(CgroupError::ProcessesBelow { group, child: child.path });
        }
    }
    Ok(enable_cpu)
}

/// Makes the error for a group without the cpu controller, with the command that enables it from the
/// nearest group above that has it.
fn no_controller(parent: &CgroupDir, has_cpu: impl Fn(&CgroupDir) -> bool) -> CgroupError {
    let mut commands = Vec::new();
    for group in std::iter::successors(parent.parent(), CgroupDir::parent) {
        commands.push(format!("echo +cpu > {}", group.file("cgroup.subtree_control").display()));
        if has_cpu(&group) {
            commands.reverse();
            let remedy = commands.join(" && ");
            return CgroupError::NoController { group: parent.path.clone(), remedy };
        }
    }
    let remedy = "a kernel with CONFIG_CFS_BANDWIDTH whose cpu controller is not taken by cgroup v1 \
                  (see /proc/cgroups; boot parameter cgroup_no_v1=cpu)";
    CgroupError::NoController { group: parent.path.clone(), remedy: remedy.to_owned() }
}

/// Checks that landfall may write everything that a hold and a release will write.
fn check_rights(pid: i32, thread: &VcpuThread) -> Result<(), CgroupError> {
    match (&thread.origin, thread.group.version) {
        (Origin::OwnLimit(_), CgroupVersion::V1) => {
            check_writable(&thread.group.file("cpu.cfs_quota_us"))?;
            check_writable(&thread.group.file("cpu.cfs_period_us"))
        }
        (Origin::OwnLimit(_), CgroupVersion::V2) => check_writable(&thread.group.file("cpu.max")),
        (Origin::ParentGroup { parent, .. }, CgroupVersion::V1) => {
            check_writable(&parent.path)?;
            check_writable(&parent.threads_file())?;
            check_move_v1(pid, thread.tid, parent)
        }
        (Origin::ParentGroup { parent, enable_cpu, .. }, CgroupVersion::V2) => {
            check_writable(&parent.path)?;
            check_writable(&parent.threads_file())?;
            // The kernel asks for write access to this file of the common ancestor, which is the parent.
            check_writable(&parent.file("cgroup.procs"))?;
            if *enable_cpu {
                check_writable(&parent.file("cgroup.subtree_control"))
            } else {
                Ok(())
            }
        }
    }
}

/// v1: checks that landfall runs as root or as the thread's own user. The kernel asks for that, beyond write
/// access, of a process that moves a thread.
fn check_move_v1(pid: i32, tid: i32, group: &CgroupDir) -> Result<(), CgroupError> {
    let user = geteuid();
    if user.is_root() {
        return Ok(());
    }
    let status = procfs::thread_status(pid, tid).map_err(thread_error(pid, tid))?;
    if [status.real_uid, status.saved_uid].contains(&user.as_raw()) {
        return Ok(());
    }
    Err(CgroupError::ForeignThread { path: group.threads_file(), tid, user: user.as_raw() })
}
