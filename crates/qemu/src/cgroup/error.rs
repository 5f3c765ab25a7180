//! What can go wrong with the CPU lever: each error names the thing, the value and the remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landfall_core::decision::Quota;

use crate::procfs::ProcError;

/// Why the CPU lever cannot be found, moved or put back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// No thread was named.
    #[error("no vCPU thread was named for process {pid}; ask QEMU for them with query-cpus-fast")]
    NoThreads {
        /// The process.
        pid: i32,
    },
    /// There is no such thread, or it has ended.
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
    /// There is no such vCPU.
    #[error("there is no vCPU {vcpu}: the survey was given {count}")]
    NoSuchVcpu {
        /// The number asked for.
        vcpu: usize,
        /// How many there are.
        count: usize,
    },
    /// A CFS quota does not hold a real-time thread.
    #[error(
        "thread {tid} runs under a real-time policy, which a CFS quota does not hold; \
             give it a normal one: chrt --other --pid 0 {tid}"
    )]
    RealTime {
        /// The thread.
        tid: i32,
    },
    /// The cpu controller is in a v1 hierarchy that is not mounted, or there is no hierarchy at all.
    #[error("the cpu controller of cgroup {version} is not mounted; mount it: {remedy}")]
    NotMounted {
        /// `v1` or `v2`.
        version: &'static str,
        /// The command.
        remedy: &'static str,
    },
    /// The thread's group does not show at any mount that this process sees.
    #[error("thread {tid} is in cgroup {group}, which no mount in this namespace shows; \
             run landfall in the host's cgroup and mount namespaces: nsenter --target 1 --cgroup --mount landfall ...", group = group.display())]
    OutsideNamespace {
        /// The thread.
        tid: i32,
        /// Its group, as this process's namespace names it.
        group: PathBuf,
    },
    /// v2: the cpu controller is not handed down to the thread's group.
    #[error("the cpu controller is not available in {group}: enable it with: {remedy}", group = group.display())]
    NoController {
        /// The group.
        group: PathBuf,
        /// The command that hands it down, from the nearest group that has it.
        remedy: String,
    },
    /// v2: the thread's group cannot have threaded children.
    #[error("{group} cannot hold single threads: {reason}; {remedy}", group = group.display())]
    NotThreadable {
        /// The group.
        group: PathBuf,
        /// What the kernel would object to.
        reason: String,
        /// The way out.
        remedy: String,
    },
    /// The operating-system user may not make the changes that a hold needs.
    #[error("no right to change {path}: {reason}; run landfall as root or give its user write access to that group", path = path.display())]
    NoRight {
        /// The file or directory.
        path: PathBuf,
        /// The kernel's word, or which identity is needed.
        reason: String,
    },
    /// The group that was to be made is there already and holds other threads.
    #[error("{path} exists and holds threads of another process; is another landfall at work on this guest? \
             If not, remove the group", path = path.display())]
    GroupInUse {
        /// The group.
        path: PathBuf,
    },
    /// A quota that the kernel does not take.
    #[error("a quota of {quota} is out of range; the quota is at least 1ms, the period 1ms to 1s")]
    OutOfRange {
        /// What was asked.
        quota: Quota,
    },
    /// v1: a group may not be given a larger share than its parent has.
    #[error("{group} cannot be given {asked}: {parent} above it is limited to {limit}; ask for that or less", group = group.display(), parent = parent.display())]
    AboveParent {
        /// The group.
        group: PathBuf,
        /// What was asked.
        asked: Quota,
        /// The group that limits it.
        parent: PathBuf,
        /// Its limit.
        limit: Quota,
    },
    /// The kernel took a limit and shows another.
    #[error("{path} reads {found:?} after {asked:?} was written; does something else set it too?", path = path.display())]
    NotKept {
        /// The file.
        path: PathBuf,
        /// What was written.
        asked: String,
        /// What is there.
        found: String,
    },
    /// A file of the thread's under `/proc` gives no answer.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A file of the kernel says what landfall does not understand.
    #[error("cannot make sense of {path}: {text:?}; please report this together with your kernel's version", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Its beginning.
        text: String,
    },
    /// An undo record would touch what is not landfall's.
    #[error("will not remove {path}: its name does not begin with {prefix}; it is none of landfall's groups", path = path.display(), prefix = super::group::PREFIX)]
    NotOurs {
        /// The directory.
        path: PathBuf,
    },
    /// The kernel refused an operation.
    #[error("cannot {action} {path}{value}: {source}{remedy}", path = path.display(), value = Value(value), remedy = remedy(source))]
    System {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What was written, if something was.
        value: Option<String>,
        /// The kernel's word.
        source: io::Error,
    },
}

impl CgroupError {
    /// The kernel refused to do something to a path.
    pub(super) fn system(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::System { action, path: path.to_owned(), value: None, source }
    }

    /// A file that reads as nothing the kernel is known to write.
    pub(super) fn unreadable(path: &Path, text: &str) -> Self {
        Self::Unreadable { path: path.to_owned(), text: text.chars().take(80).collect() }
    }

    /// The kernel's error number, where the kernel refused.
    pub(super) fn errno(&self) -> Option<rustix::io::Errno> {
        match self {
            Self::System { source, .. } => rustix::io::Errno::from_io_error(source),
            _ => None,
        }
    }
}

/// What was being written, in an error's text.
struct Value<'a>(&'a Option<String>);

impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| write!(f, " (value {value:?})"))
    }
}

/// What to do about an error of the kernel, where something can be said.
fn remedy(source: &io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(source) {
        Some(Errno::ACCESS | Errno::PERM) => {
            "; run landfall as root or give its user write access to that group"
        }
        Some(Errno::ROFS) => "; mount the cgroup file system writable",
        Some(Errno::BUSY) => "; something else still uses that group",
        Some(Errno::OPNOTSUPP) => "; the group's cgroup.type does not allow it",
        Some(Errno::NOSPC) => {
            "; the hierarchy also carries cpuset (set its cpus and mems), or has its most groups"
        }
        _ => "",
    }
}
