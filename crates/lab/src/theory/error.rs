//! Why a measurement for the theory fails.

/// Why the experiment could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TheoryError {
    /// The guest did not start.
    #[error(transparent)]
    Vm(#[from] landfall_testguest::VmError),
    /// The guest is not heard of.
    #[error(transparent)]
    Guest(#[from] landfall_testguest::GuestError),
    /// QEMU does not do as it is asked.
    #[error(transparent)]
    Qmp(#[from] landfall_qemu::qmp::QmpError),
    /// QEMU does not do as the harness asks it.
    #[error(transparent)]
    RawQmp(#[from] landfall_testguest::RawQmpError),
    /// The guest cannot be held.
    #[error(transparent)]
    Cgroup(#[from] landfall_qemu::cgroup::CgroupError),
    /// The kernel's counters cannot be read.
    #[error("the kernel does not tell the CPU time of the vCPU threads (/proc/PID/schedstat)")]
    NoCounters,
    /// QEMU has measured nothing.
    #[error("QEMU has not measured the dirty rate; this takes QEMU 8.2 or later")]
    NotSampled,
    /// There was nothing to look at.
    #[error("the migration was over before its first pass")]
    Landed,
    /// A migration that was to land did not.
    #[error("a guest did not land: {0}")]
    NotLanded(String),
    /// Something else.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
