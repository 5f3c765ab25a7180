//! What can go wrong with the CPU lever. Each error names the thing, the value and the remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landfall_core::quota::Quota;

use crate::procfs::ProcError;

/// Why vCPU threads cannot be held, or a hold cannot be undone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The list of vCPU threads is empty.
    #[error("no vCPU thread was named for process {pid}; ask QEMU for them with query-cpus-fast")]
    NoThreads {
        /// The process.
        pid: i32,
    },
    /// The process has no such thread, or the thread has ended.
    #[error(
        "process {pid} has no running thread {tid}; is it the QEMU that was asked for its vCPUs, \
             and does landfall run in the same pid namespace?"
    )]
    NoSuchThread {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// The lever was made for fewer vCPUs.
    #[error("there is no vCPU {vcpu}: the guest has {count}")]
    NoSuchVcpu {
        /// The vCPU, counted from 0.
        vcpu: usize,
        /// How many there are.
        count: usize,
    },
    /// The thread runs under a real-time policy, and the kernel applies CFS quotas to normal ones only.
    #[error(
        "thread {tid} runs under a real-time policy, which a CFS quota does not hold; \
             give it a normal one: chrt --other --pid 0 {tid}"
    )]
    RealTime {
        /// The thread.
        tid: i32,
    },
    /// The cpu controller is in a v1 hierarchy that is not mounted, or no hierarchy is mounted.
    #[error("the cpu controller of cgroup {version} is not mounted; mount it: {remedy}")]
    NotMounted {
        /// `v1` or `v2`.
        version: &'static str,
        /// The command.
        remedy: &'static str,
    },
    /// No mount that landfall can see shows the thread's group.
    #[error("thread {tid} is in cgroup {group}, which no mount in this namespace shows; \
             run landfall in the host's cgroup and mount namespaces: nsenter --target 1 --cgroup --mount landfall ...", group = group.display())]
    OutsideNamespace {
        /// The thread.
        tid: i32,
        /// Its group, as landfall's cgroup namespace names it.
        group: PathBuf,
    },
    /// v2: the cpu controller is not enabled for the thread's group.
    #[error("the cpu controller is not available in {group}: enable it with: {remedy}", group = group.display())]
    NoController {
        /// The group.
        group: PathBuf,
        /// The command that enables it, from the nearest group above that has it.
        remedy: String,
    },
    /// v2: the type of the thread's group does not allow threaded groups below it.
    #[error("{group} cannot hold single threads: its cgroup.type is {kind:?}; move the guest to a group of its own that is of type domain", group = group.display())]
    WrongGroupType {
        /// The group.
        group: PathBuf,
        /// The content of its `cgroup.type`.
        kind: String,
    },
    /// v2: the thread's group enables a controller for its children that deals in whole processes only.
    #[error("{group} cannot hold single threads: it gives its children the {controller} controller; take that controller out of its cgroup.subtree_control, or move the guest to a group without children", group = group.display())]
    DomainController {
        /// The group.
        group: PathBuf,
        /// The controller.
        controller: String,
    },
    /// v2: a group below the thread's holds whole processes.
    #[error("{group} cannot hold single threads: {child} below it holds whole processes; move the guest to a group without children", group = group.display(), child = child.display())]
    ProcessesBelow {
        /// The group.
        group: PathBuf,
        /// The group below it.
        child: PathBuf,
    },
    /// landfall's user may not write to a file or directory that a hold has to change.
    #[error("no right to change {path}: {source}; run landfall as root or give its user write access to that group", path = path.display())]
    NotWritable {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// v1: only root and the thread's own user may move it to another group.
    #[error("no right to change {path}: thread {tid} belongs to another user than {user}; run landfall as root or as the user of that thread", path = path.display())]
    ForeignThread {
        /// The file that the thread id would have to be written to.
        path: PathBuf,
        /// The thread.
        tid: i32,
        /// The user id that landfall runs as.
        user: u32,
    },
    /// The group that a hold has to make exists already and holds threads of another process.
    #[error("{path} exists and holds threads of another process; is another landfall at work on this guest? \
             If not, remove the group", path = path.display())]
    GroupInUse {
        /// The group.
        path: PathBuf,
    },
    /// The kernel does not accept the quota or its period.
    #[error("a quota of {quota} is out of range; the quota is at least 1ms, the period 1ms to 1s")]
    OutOfRange {
        /// The quota that was asked for.
        quota: Quota,
    },
    /// v1: a group above has a smaller quota, and a group may not have more than the one above it.
    #[error("{group} cannot be given {asked}: {parent} above it is limited to {limit}; ask for that or less", group = group.display(), parent = parent.display())]
    AboveParent {
        /// The group.
        group: PathBuf,
        /// The quota that was asked for.
        asked: Quota,
        /// The group that limits it.
        parent: PathBuf,
        /// Its limit.
        limit: Quota,
    },
    /// The kernel accepted a limit, but the files then show another one.
    #[error("{path} reads {found:?} after {written:?} was written; does something else set it too?", path = path.display())]
    NotInForce {
        /// The group.
        path: PathBuf,
        /// What was written.
        written: String,
        /// What is there.
        found: String,
    },
    /// A file of the thread under `/proc` cannot be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A file of a group does not have the form that the kernel documents.
    #[error("cannot make sense of {path}: {text:?}; please report this together with your kernel's version", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its first 80 characters.
        text: String,
    },
    /// An undo step names a group that landfall did not make.
    #[error("will not remove {path}: its name does not begin with {prefix}; it is none of landfall's groups", path = path.display(), prefix = super::group::GROUP_PREFIX)]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel rejected an operation on a file or directory.
    #[error("cannot {action} {path}{value}: {source}{remedy}", path = path.display(), value = WrittenValue(value), remedy = remedy(source))]
    System {
        /// The operation, as a verb: `read`, `write`, `make`, `list`, `remove`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The value that was to be written, if any.
        value: Option<String>,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl CgroupError {
    /// Makes the error for an operation that the kernel rejected.
    pub(super) fn system(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::System { action, path: path.to_owned(), value: None, source }
    }

    /// Makes the error for a file of an unknown form.
    pub(super) fn unreadable(path: &Path, text: &str) -> Self {
        Self::Unreadable { path: path.to_owned(), text: text.chars().take(80).collect() }
    }

    /// Returns the kernel's error number, if the kernel rejected an operation.
    pub(super) fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::System { source, .. } => rustix::io::Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// Displays the value that was to be written, if any.
struct WrittenValue<'a>(&'a Option<String>);

impl fmt::Display for WrittenValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| write!(f, " (value {value:?})"))
    }
}

/// Returns what to do about an error of the kernel; empty if that is not known.
fn remedy(source: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(source) {
        Some(Errno::ACCESS | Errno::PERM) => {
            "; run landfall as root or give its user write access to that group"
        }
        Some(Errno::ROFS) => "; mount the cgroup file system writable",
        Some(Errno::BUSY) => "; another program still uses that group",
        Some(Errno::OPNOTSUPP) => "; the group's cgroup.type does not allow it",
        Some(Errno::NOSPC) => {
            "; the group has no CPUs or memory nodes (cpuset), or the hierarchy has its most groups"
        }
        _ => "",
    }
}
