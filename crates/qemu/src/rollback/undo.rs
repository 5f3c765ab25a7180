//! Undoes a rollback: frees the vCPUs, ends the migration, puts the settings back.

use std::time::{Duration, Instant};

use landfall_core::ending::{EndState, GuestState, Obligations};

use super::Rollback;
use super::record::RollbackRecord;
use crate::cgroup::{CgroupError, UndoStep};
use crate::end_runner::{DestinationMonitor, EndProgress, EndRunner};
use crate::monitor::{QemuMonitor, RunState};
use crate::qmp::{QmpError, QmpEvents};
use crate::vcpus::are_threads_of;

/// The silence of the source's monitor after which its final copy counts as hanging. How long the final copy
/// may take by rights is known to nothing but the landfall that has died; this is rather long, for to
/// break off one that would have landed costs the whole migration.
const HANG_PATIENCE: Duration = Duration::from_secs(120);

/// How long to go on at a destination that has the guest, or not, after the source's QEMU has ended.
const AFTER_SOURCE: Duration = Duration::from_secs(60);

/// How undoing ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UndoEnd {
    /// The guest was found, and all is done.
    Settled(EndState),
    /// Something is left for a later try.
    Left(EndState),
    /// The source's QEMU has ended.
    SourceEnded,
    /// The source's monitor has closed: to be connected again.
    SourceClosed,
    /// The time given is over.
    OutOfTime,
}

/// What could not be undone.
#[derive(Debug, thiserror::Error)]
pub enum UndoProblem {
    /// A step on a control group.
    #[error("{step:?} failed: {error}")]
    Step {
        /// The step.
        step: UndoStep,
        /// Why.
        error: CgroupError,
    },
    /// The parameters of QEMU's migrations.
    #[error("QEMU's migration settings could not be put back: {0}")]
    Settings(QmpError),
    /// The file that says what has to be undone.
    #[error(transparent)]
    Record(#[from] super::record::RecordError),
}

impl Rollback {
    /// Lets the vCPU threads run. Returns what failed; all other steps were taken. May be called any
    /// number of times.
    pub fn release_vcpus(&self) -> Vec<UndoProblem> {
        let failure = |step: &UndoStep| {
            let error = step.apply().err()?;
            Some(UndoProblem::Step { step: step.clone(), error })
        };
        self.cgroup_steps.iter().filter_map(failure).collect()
    }

    /// Connects to the source's monitor; also returns its events from now on. `None` once the process has ended: another QEMU may listen
    /// there by then.
    ///
    /// # Errors
    /// [`QmpError`]: it has not noticed yet that landfall is gone, or hangs. To be tried again.
    pub async fn connect_source(&self) -> Result<Option<(QemuMonitor, QmpEvents)>, QmpError> {
        if !self.process.is_alive() {
            return Ok(None);
        }
        let (mut monitor, events) = QemuMonitor::connect(&self.source).await?;
        let tids = monitor.query_vcpu_threads().await?;
        Ok(are_threads_of(self.process, &tids).then_some((monitor, events)))
    }

    /// Ends the migration, makes sure that the guest runs, puts QEMU's settings back. Writes to `record`
    /// what becomes owed on the way.
    ///
    /// # Errors
    /// [`UndoProblem::Settings`]: all else is done.
    pub async fn undo_on(
        &mut self,
        source: &mut QemuMonitor,
        record: &RollbackRecord,
        deadline: Option<Instant>,
    ) -> Result<UndoEnd, UndoProblem> {
        let mut destination = DestinationMonitor::at(self.destination.clone());
        let mut runner = EndRunner::new(self.obligations, &destination, HANG_PATIENCE);
        let mut ended_since = None;
        let end = loop {
            let mut persist = |obligations: Obligations| {
                self.obligations = obligations;
                // The guest comes first: what cannot be written down is done all the same.
                let _ = record.write(self);
            };
            let advance = runner.advance(source, &mut destination, &mut persist);
            let progress = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline.into(), advance).await {
                    Ok(progress) => progress,
                    Err(_) => return Ok(UndoEnd::OutOfTime),
                },
                None => advance.await,
            };
            if self.process.is_alive() {
                ended_since = None;
            } else if ended_since.get_or_insert_with(Instant::now).elapsed() > AFTER_SOURCE {
                return Ok(UndoEnd::SourceEnded);
            }
            match progress {
                EndProgress::UnderWay => {}
                EndProgress::Ended(end) => break end,
                EndProgress::SourceClosed if self.process.is_alive() => {
                    return Ok(UndoEnd::SourceClosed);
                }
                EndProgress::SourceClosed => return Ok(UndoEnd::SourceEnded),
            }
        };
        let left = matches!(end, EndState::InPostCopy | EndState::MigratedByOther);
        if left {
            return Ok(UndoEnd::Left(end));
        }
        self.restore_parameters(source).await.map_err(UndoProblem::Settings)?;
        match self.obligations.is_empty() {
            true => Ok(UndoEnd::Settled(end)),
            false => Ok(UndoEnd::Left(end)),
        }
    }

    /// The source's QEMU has ended. Continues a guest that has arrived at the destination and stands
    /// still there only because landfall said so.
    pub async fn settle_without_source(&self) -> ArrivedGuest {
        let Some(address) = &self.destination else { return ArrivedGuest::NotOwed };
        if !self.obligations.may_arrive_paused() {
            return ArrivedGuest::NotOwed;
        }
        let mut destination = match QemuMonitor::connect(address).await {
            Ok((destination, _)) => destination,
            Err(error) if error.is_nothing_there() => return ArrivedGuest::NothingThere,
            Err(_) => return ArrivedGuest::NotSeen,
        };
        let state = |state: Result<RunState, QmpError>| state.map(|state| state.guest_state());
        if state(destination.query_run_state().await).is_ok_and(|it| it == GuestState::Paused) {
            // The state asked for next tells what became of it.
            let _ = destination.cont().await;
        }
        match state(destination.query_run_state().await) {
            Ok(GuestState::Running) => ArrivedGuest::Runs,
            _ => ArrivedGuest::NotSeen,
        }
    }
}

/// What became of a guest whose source has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArrivedGuest {
    /// It runs at the destination.
    Runs,
    /// It was not seen to run there.
    NotSeen,
    /// Nothing listens at the destination's monitor any more, so that there is nothing left to undo.
    NothingThere,
    /// landfall has neither stopped nor fenced it, or knows no destination's monitor.
    NotOwed,
}
