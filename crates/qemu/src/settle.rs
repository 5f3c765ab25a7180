//! Ending a migration so that the guest runs in exactly one place.
//!
//! `migrate_cancel` and `yank` make the source run the guest again. Once the whole state is on its
//! way the destination starts the guest as well, whatever becomes of the source: cancelled then,
//! the guest runs twice. So a migration is cancelled only
//!
//! - while the guest still runs at the source, or
//! - once the destination, where its monitor is known, has been told not to start what arrives
//!   (QMP `stop` while it waits for the migration), which closes the race as well.
//!
//! landfall and its guardian end migrations by these same functions.

use std::time::{Duration, Instant};

use landfall_core::telemetry::sample::Status;

use crate::monitor::{Machine, RunState};
use crate::qmp::QmpError;

/// For how long a migration that is being ended may take to be over.
const OVER: Duration = Duration::from_secs(30);

/// What became of the wish to cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancel {
    /// QEMU was told to.
    Told,
    /// Too late: the guest is on its way to the destination, or there already.
    TooLate,
    /// There is nothing to cancel.
    Over,
}

/// Cancels the migration of a source if the guest can not also start at the destination.
///
/// A destination that was told not to start the guest, and gets it all the same because it had
/// everything already, needs [`see_it_run`].
///
/// # Errors
/// A monitor does not answer.
pub async fn cancel(
    source: &mut Machine,
    destination: Option<&mut Machine>,
) -> Result<Cancel, QmpError> {
    let status = source.migration().await?.status;
    match status {
        Status::Setup => {}
        Status::Active | Status::SwitchOver => {
            let fenced = match destination {
                Some(destination) => fence(destination).await?,
                None => status == Status::Active && source.run_state().await? == RunState::Running,
            };
            if !fenced {
                return Ok(Cancel::TooLate);
            }
        }
        Status::PostCopy | Status::PostCopyPaused | Status::Unknown => return Ok(Cancel::TooLate),
        Status::Cancelling => return Ok(Cancel::Told),
        Status::None | Status::Cancelled | Status::Failed | Status::Completed => {
            return Ok(Cancel::Over);
        }
    }
    source.cancel().await?;
    Ok(Cancel::Told)
}

/// Breaks the link of a migration whose final copy does not get through, which blocks the source's
/// monitor for everything but this. Only where the destination can be told not to start the guest;
/// says whether it was done.
///
/// # Errors
/// The destination does not answer, or the source offers no way to do it.
pub async fn break_link(
    source: &mut Machine,
    destination: Option<&mut Machine>,
) -> Result<bool, QmpError> {
    let Some(destination) = destination else { return Ok(false) };
    if !fence(destination).await? {
        return Ok(false);
    }
    source.break_link().await?;
    Ok(true)
}

/// Tells a destination not to start what arrives; says whether it can no longer.
async fn fence(destination: &mut Machine) -> Result<bool, QmpError> {
    match destination.run_state().await {
        Ok(RunState::AwaitsMigration) => destination.stop().await?,
        Ok(RunState::Running) => return Ok(false),
        Ok(RunState::Stopped(_)) => {}
        // A QEMU that has ended starts nothing.
        Err(QmpError::Closed { .. }) => return Ok(true),
        Err(error) => return Err(error),
    }
    // It may have begun to run between the question and the stop, and stands still again now.
    Ok(destination.run_state().await? == RunState::AwaitsMigration)
}

/// Waits until the destination runs the guest; continues it once if it arrived stopped.
///
/// # Errors
/// In words: the destination is lost, or the guest does not run there.
pub async fn see_it_run(destination: &mut Machine, patience: Duration) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut continued = false;
    loop {
        let state = destination.run_state().await.map_err(|error| format!("is lost: {error}"))?;
        match state {
            RunState::Running => return Ok(()),
            RunState::Stopped(word) if !continued && is_waiting(&word) => {
                continued = true;
                destination.go_on().await.map_err(|error| format!("refuses: {error}"))?;
            }
            state if Instant::now() > deadline => {
                return Err(format!("does not run it (it is {state})"));
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Stopped for no other reason than that it was told to stop or not to start.
fn is_waiting(word: &str) -> bool {
    matches!(word, "paused" | "prelaunch")
}

/// Waits until the source runs the guest; continues it if `ours`, that is, if landfall stopped it.
/// QEMU itself lets a guest go on that it had stopped for a switch-over that failed.
///
/// # Errors
/// In words: the source cannot be asked, or the guest does not run there.
pub async fn run_at_source(
    source: &mut Machine,
    ours: bool,
    patience: Duration,
) -> Result<(), String> {
    let deadline = Instant::now() + patience;
    let mut continued = !ours;
    loop {
        match source.run_state().await.map_err(|error| error.to_string())? {
            RunState::Running => return Ok(()),
            RunState::Stopped(word) if !continued && is_waiting(&word) => {
                continued = true;
                source.go_on().await.map_err(|error| error.to_string())?;
            }
            RunState::Stopped(word) if is_waiting(&word) => {
                return Err(format!("it is {word}, and it was not landfall that stopped it"));
            }
            state if Instant::now() > deadline => return Err(format!("QEMU says {state}")),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Ends a migration that nobody steers any more, and sees to it that a guest landfall had stopped
/// runs. Says in words how it ended.
///
/// # Errors
/// The source's monitor does not answer.
pub async fn end_migration(
    source: &mut Machine,
    mut destination: Option<&mut Machine>,
    ours: bool,
) -> Result<String, QmpError> {
    let cancel = cancel(source, destination.as_deref_mut()).await?;
    let deadline = Instant::now() + OVER;
    let status = loop {
        let status = source.migration().await?.status;
        let waits = match cancel {
            Cancel::Told => !status.is_over(),
            // Too late to cancel, so it lands, or fails by itself.
            Cancel::TooLate => matches!(status, Status::Active | Status::SwitchOver),
            Cancel::Over => false,
        };
        if !waits || Instant::now() > deadline {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let ending = match status {
        Status::Completed => match destination {
            Some(destination) => match see_it_run(destination, OVER).await {
                Ok(()) => "the migration had completed, the guest runs at the destination".into(),
                Err(how) => format!("the migration had completed, but the destination {how}"),
            },
            None => "the migration had completed, the guest is at the destination".into(),
        },
        Status::Cancelled | Status::Failed | Status::None => {
            match run_at_source(source, ours, OVER).await {
                Ok(()) => "the migration was cancelled, the guest runs at the source".into(),
                Err(how) => format!("the migration was cancelled; the guest does not run: {how}"),
            }
        }
        Status::PostCopy | Status::PostCopyPaused => {
            "post-copy is under way and was left to end".into()
        }
        status => format!("the migration is still under way ({status:?}) and was left to end"),
    };
    Ok(ending)
}
