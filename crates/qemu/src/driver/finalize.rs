//! The end: finds out where the guest is, puts everything back, writes the report.

use std::time::{Duration, Instant};

use landfall_core::report::{Outcome, Report};
use landfall_core::session::{Action, SessionEnd};
use landfall_core::telemetry::sample::Status;

use super::{Driver, End};
use crate::migration_end;
use crate::monitor::{QemuMonitor, RunState};
use crate::qmp::QmpError;

/// Whether a destination has all of the guest: in post-copy it runs before that.
async fn has_everything(destination: &mut QemuMonitor) -> bool {
    destination.query_migrate().await.is_ok_and(|migration| migration.status == Status::Completed)
}

/// How long a guest may take to run again, here after a cancellation or there after landing.
const RUNS: Duration = Duration::from_secs(10);

/// How long a process may take to die: the kernel closes its monitor before it takes its memory apart.
const DYING: Duration = Duration::from_secs(2);

impl Driver {
    /// Whatever the end was: lifts the holds, finds the guest, puts the settings back, reports.
    pub(super) async fn finalize(mut self, end: End) -> Report {
        let ended = self.now();
        // Nothing can be asked for any more.
        self.control = None;
        self.release_all();
        if matches!(end, End::Session(SessionEnd::Over(..))) {
            // From here on a migration of this guest is not landfall's. A guardian that is gone does
            // not cancel it either.
            let _ = self.actuator.set_migration_started(false);
        }
        let (outcome, reason) = match end {
            End::Session(SessionEnd::Over(Status::Completed, _)) => self.landed().await,
            End::Session(SessionEnd::Over(status, error)) => self.stayed(status, error).await,
            End::Session(SessionEnd::Stuck(how)) => {
                (Outcome::Unknown, Some(self.all_that_is_known(&how)))
            }
            End::SourceLost(how) => self.source_lost(how).await,
        };
        let reason = self.put_back(outcome, reason).await;
        self.session.report(outcome, reason, ended)
    }

    /// Lifts the holds. What stays held is named in the report, and is the guardian's in the end.
    fn release_all(&mut self) {
        let _ = self.actuator.release_all();
        self.session.on_action_done(Action::ReleaseAll);
        while self.session.poll_action().is_some() {}
    }

    async fn landed(&mut self) -> (Outcome, Option<String>) {
        let reason = self
            .session
            .aborted()
            .map(|abort| format!("it landed although it was being given up ({})", abort.reason));
        let Some((mut destination, mut events)) = self.destination.take() else {
            return (Outcome::Landed, reason);
        };
        if self.session.is_paused_by_other() {
            let paused = "another program paused the guest on the way: it has arrived paused";
            return (Outcome::Landed, Some(paused.to_owned()));
        }
        let outcome = migration_end::wait_until_running(&mut destination, RUNS).await;
        while let Ok(event) = events.try_recv() {
            self.note_event(&event, true);
        }
        match outcome {
            Ok(()) => {
                self.actuator.forget_stop();
                (Outcome::Landed, reason)
            }
            Err(how) => (
                Outcome::Unknown,
                Some(format!(
                    "the migration has completed, but the destination at {} {how}; the source holds \
                     the guest's state still, stopped (QMP cont there would run it at the source: do \
                     that only if it does not run at the destination)",
                    destination.address()
                )),
            ),
        }
    }

    /// It was cancelled or failed: the guest has to run at the source.
    async fn stayed(&mut self, status: Status, error: Option<String>) -> (Outcome, Option<String>) {
        let (outcome, reason) = match self.session.aborted() {
            Some(abort) => (abort.outcome, abort.reason.clone()),
            None if status == Status::Failed => (
                Outcome::Failed,
                error.map_or_else(
                    || "QEMU gave the migration up: it lost the destination".to_owned(),
                    |words| format!("QEMU gave the migration up: {words}"),
                ),
            ),
            None => (Outcome::Cancelled, "another program cancelled the migration".to_owned()),
        };
        let runs = migration_end::ensure_running_at_source(
            &mut self.source,
            self.session.is_stopped_by_landfall(),
            RUNS,
        )
        .await;
        while let Ok(event) = self.events.try_recv() {
            self.note_event(&event, false);
        }
        let twice = self.runs_there_too().await;
        match runs {
            Ok(()) if twice => (
                Outcome::Unknown,
                Some(format!(
                    "{reason}. THE GUEST RUNS TWICE, at the source and at the destination: end one \
                     of the two now, and look after its disks"
                )),
            ),
            Ok(()) => {
                self.actuator.forget_stop();
                (outcome, Some(format!("{reason}. The guest runs at the source at full speed")))
            }
            Err(problem) => (
                Outcome::Unknown,
                Some(format!(
                    "{reason}. And the guest does not run at the source: {problem}; look at it with \
                     QMP query-status at {}",
                    self.source.address()
                )),
            ),
        }
    }

    async fn runs_there_too(&mut self) -> bool {
        match &mut self.destination {
            Some((destination, _)) => {
                matches!(destination.query_run_state().await, Ok(RunState::Running))
            }
            None => false,
        }
    }

    fn all_that_is_known(&self, how: &str) -> String {
        let status = self
            .session
            .last_migration()
            .map_or("unknown".to_owned(), |m| format!("{:?}", m.status));
        format!(
            "{how}. The guest's vCPUs are not held by landfall any more. QEMU is process {} and its \
             migration was last heard of as {status}; where the guest runs, QMP query-status at {} \
             and at the destination can tell. The guardian ends the migration when QEMU answers",
            self.actuator.process().pid,
            self.source.address()
        )
    }

    /// Whether the source's process is there, and still is after a while.
    async fn still_alive_after(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while self.actuator.process().is_alive() {
            if Instant::now() >= deadline {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn source_lost(&mut self, how: String) -> (Outcome, Option<String>) {
        let pid = self.actuator.process().pid;
        let source = if self.still_alive_after(DYING).await {
            format!("QEMU process {pid} still exists, so the guest may run there")
        } else {
            format!("QEMU process {pid} has ended, and the guest with it")
        };
        let destination = match &mut self.destination {
            None => "of the destination nothing is known (no --destination-qmp)".to_owned(),
            Some((destination, _)) => match destination.query_run_state().await {
                Ok(RunState::Running) if has_everything(destination).await => {
                    return (Outcome::Landed, Some(format!("the source was lost ({how})")));
                }
                Ok(RunState::Running) => "the destination runs the guest without all of its \
                                          memory, which was at the source: it is lost"
                    .to_owned(),
                Ok(state) => format!("the destination does not run the guest (it is {state})"),
                Err(QmpError::Closed { .. }) => {
                    "the destination's QEMU has ended as well".to_owned()
                }
                Err(error) => format!("the destination cannot be asked ({error})"),
            },
        };
        let reason = format!("the source was lost ({how}): {source}; {destination}");
        (Outcome::Unknown, Some(reason))
    }

    /// Puts QEMU's settings back and sends the guardian home if nothing is left for it to do.
    async fn put_back(&mut self, outcome: Outcome, reason: Option<String>) -> Option<String> {
        if !self.actuator.still_held().is_empty() {
            // Once more: what stood in the way may be gone.
            self.release_all();
        }
        if !self.actuator.process().is_alive() {
            self.actuator.disarm_guardian();
            return reason;
        }
        let mut problems: Vec<String> = self.actuator.still_held().to_vec();
        if outcome == Outcome::Unknown {
            // The guardian is told nothing, and goes the way back when this process ends.
            return reason;
        }
        if let Err(error) = self.actuator.restore_parameters(&mut self.source).await
            && self.actuator.process().is_alive()
        {
            problems.push(format!("QEMU's settings could not be put back: {error}"));
        }
        if problems.is_empty() {
            self.actuator.disarm_guardian();
            return reason;
        }
        let problems = problems.join("; ");
        Some(match reason {
            Some(reason) => format!("{reason}. But {problems} (the guardian tries again)"),
            None => format!("{problems} (the guardian tries again)"),
        })
    }
}
