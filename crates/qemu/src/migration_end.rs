//! Ending a migration so that the guest runs in exactly one place.
//!
//! `migrate_cancel` and `yank` make the source run the guest again. Once the source has sent the whole
//! state, the destination starts the guest too, whatever becomes of the source: a migration cancelled
//! after that would leave the guest running twice. So a migration is cancelled only
//!
//! - while the guest still runs at the source, or
//! - once the destination, if its monitor is known, was told not to start what arrives (QMP `stop`
//!   while it waits for the migration). This is called *fencing* the destination here.
//!
//! landfall and its guardian end migrations by these same functions.

use std::fmt;
use std::time::{Duration, Instant};

use landfall_core::telemetry::sample::Status;

use crate::monitor::{QemuMonitor, RunState};
use crate::qmp::QmpError;

/// How long a migration may take to end after it was cancelled, or the guest to run after that.
const END_TIMEOUT: Duration = Duration::from_secs(30);

/// What became of a request to cancel a migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// QEMU was told to cancel, now or before.
    Requested,
    /// The guest is on its way to the destination, or there already: cancelling could make it run
    /// twice.
    TooLate,
    /// No migration is under way.
    NothingToCancel,
}

/// Why a guest does not run at the destination. The text continues a sentence about the destination.
#[derive(Debug, thiserror::Error)]
pub enum DestinationNotRunning {
    /// The destination's monitor does not answer.
    #[error("is lost: {0}")]
    Lost(QmpError),
    /// The guest arrived stopped, and QEMU did not continue it.
    #[error("refuses: {0}")]
    ContRejected(QmpError),
    /// The guest is in another state after all the time that it was given.
    #[error("does not run it (it is {0})")]
    StillIn(RunState),
}

/// Why a guest does not run at the source.
#[derive(Debug, thiserror::Error)]
pub enum SourceNotRunning {
    /// The source's monitor does not answer, or QEMU did not continue the guest.
    #[error(transparent)]
    Monitor(#[from] QmpError),
    /// The guest is stopped, and was not stopped by landfall: it is not landfall's to continue.
    #[error("it is {state}, and it was not landfall that stopped it")]
    StoppedByOther {
        /// QEMU's word for the state.
        state: String,
    },
    /// The guest is in another state after all the time that it was given.
    #[error("QEMU says {0}")]
    StillIn(RunState),
}

/// How a migration ended that was ended by [`end_migration`]. Displayed as a sentence.
#[derive(Debug)]
pub enum MigrationEnd {
    /// It had completed, and the guest runs at the destination.
    RunsAtDestination,
    /// It had completed. The destination's monitor is not known, so it was not asked.
    AtDestination,
    /// It had completed, but the guest does not run.
    DestinationNotRunning(DestinationNotRunning),
    /// It was cancelled or has failed, and the guest runs at the source.
    RunsAtSource,
    /// It was cancelled or has failed, but the guest does not run.
    SourceNotRunning(SourceNotRunning),
    /// Post-copy has begun, which cannot be cancelled.
    LeftInPostCopy,
    /// It has not ended within 30 s.
    StillUnderWay(Status),
}

impl fmt::Display for MigrationEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RunsAtDestination => {
                f.write_str("the migration had completed, the guest runs at the destination")
            }
            Self::AtDestination => {
                f.write_str("the migration had completed, the guest is at the destination")
            }
            Self::DestinationNotRunning(reason) => {
                write!(f, "the migration had completed, but the destination {reason}")
            }
            Self::RunsAtSource => {
                f.write_str("the migration was cancelled, the guest runs at the source")
            }
            Self::SourceNotRunning(reason) => {
                write!(f, "the migration was cancelled; the guest does not run: {reason}")
            }
            Self::LeftInPostCopy => f.write_str("post-copy is under way and was left to end"),
            Self::StillUnderWay(status) => {
                write!(f, "the migration is still under way ({status:?}) and was left to end")
            }
        }
    }
}

/// Cancels the migration of a source, unless the guest could then start at the destination as well.
///
/// A fenced destination that had received everything before it was fenced has the guest, stopped:
/// [`wait_until_running`] continues it there.
///
/// # Errors
/// [`QmpError`] of either monitor.
pub async fn cancel_migration(
    source: &mut QemuMonitor,
    destination: Option<&mut QemuMonitor>,
) -> Result<CancelOutcome, QmpError> {
    let status = source.query_migrate().await?.status;
    match status {
        Status::Setup => {}
        Status::Active | Status::SwitchOver => {
            let fenced = match destination {
                Some(destination) => fence_destination(destination).await?,
                None => {
                    status == Status::Active && source.query_run_state().await? == RunState::Running
                }
            };
            if !fenced {
                return Ok(CancelOutcome::TooLate);
            }
        }
        Status::PostCopy | Status::PostCopyPaused | Status::Unknown => {
            return Ok(CancelOutcome::TooLate);
        }
        Status::Cancelling => return Ok(CancelOutcome::Requested),
        Status::None | Status::Cancelled | Status::Failed | Status::Completed => {
            return Ok(CancelOutcome::NothingToCancel);
        }
    }
    source.migrate_cancel().await?;
    Ok(CancelOutcome::Requested)
}

/// Breaks the connection of a migration whose final copy does not get through: QEMU's main loop is
/// blocked then, and the monitor answers no other command. Done only if the destination can be fenced;
/// returns whether it was done.
///
/// # Errors
/// [`QmpError`]: the destination does not answer, or the source offers no out-of-band commands.
pub async fn break_migration_link(
    source: &mut QemuMonitor,
    destination: Option<&mut QemuMonitor>,
) -> Result<bool, QmpError> {
    let Some(destination) = destination else { return Ok(false) };
    if !fence_destination(destination).await? {
        return Ok(false);
    }
    source.yank_migration().await?;
    Ok(true)
}

/// Tells a destination not to start the guest when it arrives. Returns whether the guest cannot start
/// there any more.
async fn fence_destination(destination: &mut QemuMonitor) -> Result<bool, QmpError> {
    match destination.query_run_state().await {
        Ok(RunState::InMigrate) => destination.stop().await?,
        Ok(RunState::Running) => return Ok(false),
        Ok(RunState::Stopped(_)) => {}
        // A QEMU that has ended starts nothing.
        Err(QmpError::Closed { .. }) => return Ok(true),
        Err(error) => return Err(error),
    }
    // The guest may have started between the question and the stop; then it is stopped now, and not
    // waiting any more.
    Ok(destination.query_run_state().await? == RunState::InMigrate)
}

/// Waits until the destination runs the guest, for at most `patience`. Continues it once if it
/// arrived stopped.
///
/// # Errors
/// [`DestinationNotRunning`].
pub async fn wait_until_running(
    destination: &mut QemuMonitor,
    patience: Duration,
) -> Result<(), DestinationNotRunning> {
    let deadline = Instant::now() + patience;
    let mut continued = false;
    loop {
        match destination.query_run_state().await.map_err(DestinationNotRunning::Lost)? {
            RunState::Running => return Ok(()),
            RunState::Stopped(state) if !continued && is_deliberate_stop(&state) => {
                continued = true;
                destination.cont().await.map_err(DestinationNotRunning::ContRejected)?;
            }
            state if Instant::now() > deadline => {
                return Err(DestinationNotRunning::StillIn(state));
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Returns whether a guest in this state is stopped only because it was told to stop, or not to start.
fn is_deliberate_stop(state: &str) -> bool {
    matches!(state, "paused" | "prelaunch")
}

/// Waits until the source runs the guest, for at most `patience`. Continues it once if
/// `stopped_by_landfall`; QEMU itself continues a guest that it had stopped for a switch-over that
/// failed.
///
/// # Errors
/// [`SourceNotRunning`].
pub async fn ensure_running_at_source(
    source: &mut QemuMonitor,
    stopped_by_landfall: bool,
    patience: Duration,
) -> Result<(), SourceNotRunning> {
    let deadline = Instant::now() + patience;
    let mut continued = !stopped_by_landfall;
    loop {
        match source.query_run_state().await? {
            RunState::Running => return Ok(()),
            RunState::Stopped(state) if !continued && is_deliberate_stop(&state) => {
                continued = true;
                source.cont().await?;
            }
            RunState::Stopped(state) if is_deliberate_stop(&state) => {
                return Err(SourceNotRunning::StoppedByOther { state });
            }
            state if Instant::now() > deadline => return Err(SourceNotRunning::StillIn(state)),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Ends a migration that is no longer steered, and makes sure that a guest which landfall had stopped
/// runs.
///
/// # Errors
/// [`QmpError`]: the source's monitor does not answer.
pub async fn end_migration(
    source: &mut QemuMonitor,
    mut destination: Option<&mut QemuMonitor>,
    stopped_by_landfall: bool,
) -> Result<MigrationEnd, QmpError> {
    let cancel = cancel_migration(source, destination.as_deref_mut()).await?;
    let deadline = Instant::now() + END_TIMEOUT;
    let status = loop {
        let status = source.query_migrate().await?.status;
        let must_wait = match cancel {
            CancelOutcome::Requested => !status.is_over(),
            // Too late to cancel, so it lands, or fails by itself.
            CancelOutcome::TooLate => matches!(status, Status::Active | Status::SwitchOver),
            CancelOutcome::NothingToCancel => false,
        };
        if !must_wait || Instant::now() > deadline {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    Ok(match status {
        Status::Completed => match destination {
            Some(destination) => match wait_until_running(destination, END_TIMEOUT).await {
                Ok(()) => MigrationEnd::RunsAtDestination,
                Err(reason) => MigrationEnd::DestinationNotRunning(reason),
            },
            None => MigrationEnd::AtDestination,
        },
        Status::Cancelled | Status::Failed | Status::None => {
            match ensure_running_at_source(source, stopped_by_landfall, END_TIMEOUT).await {
                Ok(()) => MigrationEnd::RunsAtSource,
                Err(reason) => MigrationEnd::SourceNotRunning(reason),
            }
        }
        Status::PostCopy | Status::PostCopyPaused => MigrationEnd::LeftInPostCopy,
        status => MigrationEnd::StillUnderWay(status),
    })
}
