//! The end: finds out where the guest is, puts everything back, writes the report.

use std::time::{Duration, Instant};

use landfall_core::ending::{EndState, GuestState, Obligations};
use landfall_core::report::{Outcome, Report};
use landfall_core::session::{Action, SessionEnd};
use landfall_core::telemetry::sample::Status;
use tokio::time::timeout_at;

use super::{Driver, End};
use crate::end_runner::{EndProgress, EndRunner, describe_end};
use crate::qmp::QmpError;

/// How long to look for the guest, and wait for it to run, before the rest is left to the guardian.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a process may take to die: the kernel closes its monitor before it takes its memory apart.
const DYING: Duration = Duration::from_secs(2);

/// The pause before the source's monitor is connected again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// Where the guest was found.
enum FoundGuest {
    /// So it ended.
    Ended(EndState),
    /// The source's QEMU has ended.
    SourceEnded,
    /// It was not found in the time given.
    NotFound,
}

impl Driver {
    /// Whatever the end was: lifts the holds, finds the guest, puts the settings back, reports.
    pub(super) async fn finalize(mut self, end: End) -> Report {
        let ended = self.now();
        // Nothing can be asked for any more.
        self.control = None;
        self.destination_events.stop_connecting();
        self.release_all();
        let stuck = match &end {
            End::Session(SessionEnd::Stuck(how)) => Some(how.clone()),
            _ => None,
        };
        let (outcome, reason) = match stuck {
            Some(how) => (Outcome::Unknown, Some(self.all_that_is_known(&how))),
            None => match self.find_guest(&end).await {
                FoundGuest::Ended(found) => self.ended(&end, found).await,
                FoundGuest::SourceEnded => self.source_ended(&end).await,
                FoundGuest::NotFound => {
                    let how = self.why_it_ended(&end);
                    (Outcome::Unknown, Some(self.all_that_is_known(&how)))
                }
            },
        };
        let reason = self.put_back(reason).await;
        let reason = match outcome {
            Outcome::Landed => match self.restore_destination().await {
                Ok(()) => reason,
                Err(error) => Some(with_destination_note(reason, &error)),
            },
            _ => reason,
        };
        self.session.report(outcome, reason, ended)
    }

    /// Lifts the holds. What stays held is named in the report, and is the guardian's in the end.
    fn release_all(&mut self) {
        let _ = self.actuator.release_all();
        self.session.on_action_done(Action::ReleaseAll);
        while self.session.poll_action().is_some() {}
    }

    /// Goes on with the end of the migration until the guest is found, with new connections to monitors
    /// that have closed.
    async fn find_guest(&mut self, end: &End) -> FoundGuest {
        if let Some(found) = self.found.take().filter(|found| *found != EndState::InPostCopy) {
            return FoundGuest::Ended(found);
        }
        let deadline = Instant::now() + PATIENCE;
        let mut closed = matches!(end, End::SourceLost(_));
        let mut runner = self.ending.take();
        loop {
            if closed {
                if !self.still_alive_after(DYING).await {
                    return FoundGuest::SourceEnded;
                }
                match timeout_at(deadline.into(), self.reconnect_source()).await {
                    Ok(true) => (closed, runner) = (false, None),
                    Ok(false) => continue,
                    Err(_) => return FoundGuest::NotFound,
                }
            }
            let runner = runner.get_or_insert_with(|| {
                EndRunner::new(self.actuator.obligations(), &self.destination, Duration::MAX)
            });
            let mut persist = |obligations| self.actuator.persist(obligations);
            let advance = runner.advance(&mut self.source, &mut self.destination, &mut persist);
            let Ok(progress) = timeout_at(deadline.into(), advance).await else {
                return FoundGuest::NotFound;
            };
            if let Some(events) = self.destination.take_new_events() {
                self.destination_events.replace(events);
            }
            self.note_events();
            match progress {
                EndProgress::UnderWay => {}
                EndProgress::Ended(found) => return FoundGuest::Ended(found),
                EndProgress::SourceClosed => closed = true,
            }
        }
    }

    /// Connects to the source's monitor again. Returns whether it is that of the same QEMU.
    async fn reconnect_source(&mut self) -> bool {
        match self.actuator.connect_source().await {
            Ok(Some((monitor, events))) => {
                (self.source, self.events) = (monitor, events);
                true
            }
            Ok(None) => false,
            Err(_) => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
                false
            }
        }
    }

    /// Takes in the events that have arrived: when the guest stopped, and ran again.
    fn note_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.note_event(&event, false);
        }
        while let Some(event) = self.destination_events.try_next() {
            self.note_event(&event, true);
        }
    }

    /// What the report says of a guest that was found.
    async fn ended(&mut self, end: &End, found: EndState) -> (Outcome, Option<String>) {
        let how = self.why_it_ended(end);
        let stayed = match self.session.aborted() {
            Some(abort) => abort.outcome,
            None => match end {
                End::Session(SessionEnd::Over(Status::Cancelled, _)) => Outcome::Cancelled,
                _ => Outcome::Failed,
            },
        };
        match found {
            EndState::RunsAtDestination | EndState::AtDestination => {
                match self.unfinished_mirrors().await {
                    Some(doubt) => (Outcome::Unknown, Some(format!("{how}. But {doubt}"))),
                    None => (Outcome::Landed, self.why_landed_nevertheless(end)),
                }
            }
            EndState::StandsAtDestination(GuestState::Paused)
                if self.session.is_paused_by_other() =>
            {
                let paused = "another program paused the guest on the way: it has arrived paused";
                (Outcome::Landed, Some(paused.to_owned()))
            }
            EndState::RunsAtSource if self.runs_there_too().await => (
                Outcome::Unknown,
                Some(format!(
                    "{how}. THE GUEST RUNS TWICE, at the source and at the destination: end one \
                     of the two now, and look after its disks"
                )),
            ),
            EndState::RunsAtSource if self.may_have_arrived(end) => (
                Outcome::Unknown,
                Some(format!(
                    "{how}. The guest runs at the source at full speed. But it had been stopped for the \
                     final copy by then, and without the destination's monitor (--destination-qmp) it \
                     cannot be known whether all of it had arrived: it may run at the destination as well. \
                     Look there (QMP query-status), and end that QEMU if it runs"
                )),
            ),
            EndState::RunsAtSource => {
                (stayed, Some(format!("{how}. The guest runs at the source at full speed")))
            }
            EndState::RunsAtSourceCopyPaused | EndState::RunsAtSourceAfterTwice => {
                (stayed, Some(format!("{how}. {}", describe_end(found))))
            }
            EndState::DestinationGone
            | EndState::StandsAtSource(_)
            | EndState::StandsAtDestination(_)
            | EndState::ArrivedRunningOrPaused
            | EndState::InPostCopy
            | EndState::MigratedByOther => {
                (Outcome::Unknown, Some(format!("{how}. And {}", describe_end(found))))
            }
        }
    }

    /// Returns whether a guest that runs at the source may run at the destination as well: its migration was
    /// ended in the final copy, by another program or by a failure, and the destination cannot be asked.
    fn may_have_arrived(&self, end: &End) -> bool {
        let unseen = self.destination.address().is_none() && !self.actuator.was_fenced();
        // The source could not send all of it.
        let incomplete = matches!(end, End::Session(SessionEnd::Over(Status::Failed, Some(words)))
            if words.contains("Unable to write"));
        unseen && self.was_stopped && !self.was_waiting && !incomplete
    }

    /// Says which mirrors of disks were there at the start and are still: whatever the guest wrote last may be
    /// missing at the destination.
    async fn unfinished_mirrors(&mut self) -> Option<String> {
        if self.mirrors.is_empty() {
            return None;
        }
        let doubt = |which: &str| {
            format!(
                "the disk mirror {which} was not completed before the switch-over, as far as is known: \
                 the disk may differ at the destination. Compare it before the guest writes more \
                 (QMP query-block-jobs at the source)"
            )
        };
        match self.source.query_block_jobs().await {
            Ok(jobs) => {
                let left = self.mirrors.iter().find(|mirror| jobs.contains(mirror))?;
                Some(doubt(left))
            }
            Err(_) => Some(doubt(&self.mirrors.join(", "))),
        }
    }

    /// Why the migration ended, in words.
    fn why_it_ended(&self, end: &End) -> String {
        if let Some(abort) = self.session.aborted() {
            return abort.reason.clone();
        }
        match end {
            End::SourceLost(how) => format!("the source's monitor was lost ({how})"),
            End::Session(SessionEnd::Stuck(how)) => how.clone(),
            End::Session(SessionEnd::Over(Status::Completed, _)) => {
                "the migration has completed".to_owned()
            }
            End::Session(SessionEnd::Over(Status::Failed, error)) => error.as_ref().map_or_else(
                || "QEMU gave the migration up: it lost the destination".to_owned(),
                |words| format!("QEMU gave the migration up: {words}"),
            ),
            End::Session(SessionEnd::Over(..)) => {
                "another program cancelled the migration".to_owned()
            }
        }
    }

    fn why_landed_nevertheless(&self, end: &End) -> Option<String> {
        if let Some(abort) = self.session.aborted() {
            return Some(format!("it landed although it was being given up ({})", abort.reason));
        }
        match end {
            End::SourceLost(how) => Some(format!("the source was lost ({how})")),
            End::Session(_) => None,
        }
    }

    async fn runs_there_too(&mut self) -> bool {
        match self.destination.monitor() {
            Some(destination) => {
                let state = destination.query_run_state().await;
                state.is_ok_and(|state| state.guest_state() == GuestState::Running)
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
             and at the destination can tell. The guardian goes on until the guest is seen to run",
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

    async fn source_ended(&mut self, end: &End) -> (Outcome, Option<String>) {
        let how = self.why_it_ended(end);
        let pid = self.actuator.process().pid;
        let source = format!("QEMU process {pid} has ended, and the guest with it");
        let owed = self.actuator.obligations();
        let destination = match self.destination.connect().await {
            None => {
                let reason = format!(
                    "{how}: {source}; of the destination nothing is known (no --destination-qmp)"
                );
                return (Outcome::Unknown, Some(reason));
            }
            Some(Err(error)) => {
                let reason = format!("{how}: {source}; the destination cannot be asked ({error})");
                return (Outcome::Unknown, Some(reason));
            }
            Some(Ok(destination)) => destination,
        };
        let mut state = destination.query_run_state().await.map(|state| state.guest_state());
        if matches!(state, Ok(GuestState::Paused)) && owed.continues_at_destination() {
            // The state asked for next tells what became of it.
            let _ = destination.cont().await;
            state = destination.query_run_state().await.map(|state| state.guest_state());
        }
        let completed =
            destination.query_migrate().await.is_ok_and(|it| it.status == Status::Completed);
        if matches!(state, Ok(GuestState::Running)) {
            self.actuator.persist(Obligations::default());
        }
        let destination = match state {
            Ok(GuestState::Running) if completed => {
                return (Outcome::Landed, Some(format!("{how}; QEMU process {pid} has ended")));
            }
            Ok(GuestState::Running) => "the destination runs the guest without all of its memory, \
                                        which was at the source: it is lost"
                .to_owned(),
            Ok(state) => format!("the destination does not run the guest ({state:?})"),
            Err(error) => format!("the destination cannot be asked ({error})"),
        };
        (Outcome::Unknown, Some(format!("{how}: {source}; {destination}")))
    }

    /// Puts back what was set at a destination where the guest is now: its next migration starts from
    /// there. A QEMU that the guest did not reach ends by itself.
    async fn restore_destination(&mut self) -> Result<(), QmpError> {
        if self.destination_parameters.is_empty() {
            return Ok(());
        }
        match self.destination.connect().await {
            Some(connected) => self.destination_parameters.restore(connected?).await,
            None => Ok(()),
        }
    }

    /// Puts QEMU's settings back and ends the guardian if nothing is left for it to do.
    async fn put_back(&mut self, reason: Option<String>) -> Option<String> {
        if !self.actuator.still_held().is_empty() {
            // Once more: what stood in the way may be gone.
            self.release_all();
        }
        let owed = self.actuator.obligations();
        let is_alive = self.actuator.process().is_alive();
        let may_arrive = self.destination.address().is_some();
        let is_owed_there = may_arrive && owed.may_arrive_paused();
        if !is_alive && !is_owed_there {
            self.actuator.disarm_guardian();
            return reason;
        }
        if !is_alive || !owed.is_empty() {
            // The guardian is told nothing, and does the rest when this process ends.
            return reason;
        }
        let mut problems: Vec<String> = self.actuator.still_held().to_vec();
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

fn with_destination_note(reason: Option<String>, error: &QmpError) -> String {
    let note = format!("the destination's capability postcopy-ram could not be put back: {error}");
    match reason {
        Some(reason) => format!("{reason}. And {note}"),
        None => note,
    }
}
