//! Why a migration was not started.

use landfall_core::session::preflight::PolicyRefusal;
use landfall_core::telemetry::sample::Status;

use super::preflight::{EndsDiffer, OtherWork};
use crate::cgroup::CgroupError;
use crate::guardian::GuardianError;
use crate::identity::IdentityError;
use crate::lock::LockError;
use crate::monitor::RunState;
use crate::qmp::{QmpAddress, QmpError};
use crate::rollback::record::RecordError;

/// Why a migration was not started. The guest is as it was, unless the text says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The policy lacks something, or by what is known cannot keep the requirements.
    #[error(transparent)]
    Policy(#[from] PolicyRefusal),
    /// The operator, or the system, ended landfall before the start.
    #[error("{0}")]
    Interrupted(String),
    /// A monitor cannot be reached, or does not answer as one.
    #[error(transparent)]
    Monitor(#[from] QmpError),
    /// SOURCE is a QEMU that waits for a guest.
    #[error(
        "the QEMU at {source_address} waits for an incoming migration, so it has no guest to give: are \
         SOURCE and DESTINATION the wrong way round?"
    )]
    SourceAwaitsGuest {
        /// The source's monitor.
        source_address: QmpAddress,
    },
    /// The guest does not run.
    #[error(
        "the guest is not running (QEMU says {state:?}): there is nothing to steer; resume it first \
         (QMP cont), or move it as it is with QEMU's own migrate"
    )]
    NotRunning {
        /// QEMU's word for its run state.
        state: String,
    },
    /// A migration of the guest is under way.
    #[error(
        "the guest is being migrated already (by another program; QEMU says {status:?}): wait for that \
         to end, or cancel it (QMP migrate_cancel)"
    )]
    BeingMigrated {
        /// How far it is.
        status: Status,
    },
    /// Another migration of the guest began while this one was being set up.
    #[error(
        "another program has just begun to migrate the guest; wait for that to end, or cancel it (QMP migrate_cancel)"
    )]
    OvertakenByOther,
    /// A device or a setting keeps QEMU from migrating the guest.
    #[error(
        "QEMU cannot migrate this guest: {}; detach the device, or move the guest shut down",
        .reasons.join("; ")
    )]
    Blocked {
        /// In QEMU's words.
        reasons: Vec<String>,
    },
    /// Other programs are at work on the guest.
    #[error("{0}")]
    OtherWork(OtherWork),
    /// It is not certain which process the guest is.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Another landfall has the guest.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The policy holds vCPUs, and on this host that cannot be done.
    #[error("policy {policy} holds vCPUs: {error}")]
    VcpusCannotBeHeld {
        /// Which policy.
        policy: String,
        /// Why they cannot be held, and what to do.
        error: Box<CgroupError>,
    },
    /// The destination is not a QEMU that waits for a guest.
    #[error(
        "the QEMU at {monitor} does not wait for a migration (it is {state}): start it with -incoming \
         {uri}"
    )]
    DestinationNotWaiting {
        /// The destination's monitor.
        monitor: QmpAddress,
        /// What it does instead.
        state: RunState,
        /// The migration URI.
        uri: String,
    },
    /// The destination's QEMU is not like the source's.
    #[error(transparent)]
    Ends(EndsDiffer),
    /// No guardian can be had, and nothing is changed without one.
    #[error("{0}; nothing was changed")]
    NoGuardian(GuardianError),
    /// What has to be undone cannot be written down, and nothing is changed without that.
    #[error("{0}; nothing was changed")]
    NoRecord(RecordError),
    /// The guardian ended while the migration was being set up.
    #[error("{0}")]
    GuardianLost(String),
    /// The lock cannot be handed to the guardian.
    #[error("cannot keep the guest's lock: {0}; nothing was changed")]
    LockNotKept(std::io::Error),
    /// The start failed, and something that was set for it could not be put back.
    #[error("{refusal}. {problem}")]
    NotPutBack {
        /// Why it was not started.
        refusal: Box<Refusal>,
        /// What is not as it was.
        problem: String,
    },
}
