//! Runs the protocol by which a migration ends ([`EndProtocol`]) on real monitors.
//!
//! landfall, its guardian and `landfall release` end migrations by this one runner. It never waits for
//! anything but the next answer or the clock, and can be dropped and called again at any point: the driver
//! runs it beside its own loop.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use landfall_core::ending::{EndAnswer, EndProtocol, EndState, EndStep, Obligations};
use serde_json::Value;

use crate::monitor::{QemuMonitor, parse_query_migrate, parse_query_status};
use crate::qmp::{PendingResponse, QmpAddress, QmpError, QmpEvents, RESPONSE_TIMEOUT};

/// A destination at whose monitor nothing has listened for so long counts as ended. All that follows
/// is that the guest is no longer looked for there.
const ABSENT_PATIENCE: Duration = Duration::from_secs(10);

/// The pauses between two questions while a migration ends: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A connection attempt that goes on while other things happen.
type Connecting = Pin<Box<dyn Future<Output = Result<(QemuMonitor, QmpEvents), QmpError>> + Send>>;

/// The destination's monitor: known or not, connected or not. It is connected again when it is needed.
#[derive(Debug, Default)]
pub struct DestinationMonitor {
    address: Option<QmpAddress>,
    monitor: Option<QemuMonitor>,
    new_events: Option<QmpEvents>,
}

impl DestinationMonitor {
    /// A destination whose monitor has this address, not connected yet; `None` where it is not known.
    pub fn at(address: Option<QmpAddress>) -> DestinationMonitor {
        DestinationMonitor { address, monitor: None, new_events: None }
    }

    /// A destination whose monitor is connected.
    pub fn connected(monitor: QemuMonitor) -> DestinationMonitor {
        let address = Some(monitor.address().clone());
        DestinationMonitor { address, monitor: Some(monitor), new_events: None }
    }

    /// Returns the address, if the operator named one.
    pub fn address(&self) -> Option<&QmpAddress> {
        self.address.as_ref()
    }

    /// Returns the monitor, if it is connected.
    pub fn monitor(&mut self) -> Option<&mut QemuMonitor> {
        self.monitor.as_mut()
    }

    /// Returns the monitor, connected again if it has closed.
    ///
    /// # Errors
    /// Those of [`QemuMonitor::connect`]; `None` where its address is not known.
    pub async fn connect(&mut self) -> Option<Result<&mut QemuMonitor, QmpError>> {
        let address = self.address.clone()?;
        let usable = self.monitor.take().filter(|monitor| !monitor.is_closed());
        let monitor = match usable {
            Some(monitor) => monitor,
            None => match QemuMonitor::connect(&address).await {
                Ok((monitor, events)) => {
                    self.new_events = Some(events);
                    monitor
                }
                Err(error) => return Some(Err(error)),
            },
        };
        Some(Ok(self.monitor.insert(monitor)))
    }

    /// Returns the events of a connection that was made since the last call.
    pub fn take_new_events(&mut self) -> Option<QmpEvents> {
        self.new_events.take()
    }
}

/// How far a runner has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndProgress {
    /// Something is still to be done.
    UnderWay,
    /// It has ended so.
    Ended(EndState),
    /// The source's monitor is closed: nothing more can be done without another connection to it.
    SourceClosed,
}

/// Runs an [`EndProtocol`].
pub struct EndRunner {
    protocol: EndProtocol,
    pending: Option<PendingStep>,
    /// Since when the source has owed an answer.
    source_silent_since: Option<Instant>,
    /// The silence of the source after which its final copy counts as hanging.
    hang_patience: Duration,
    /// Since when nothing has listened at the destination's monitor.
    destination_absent_since: Option<Instant>,
    pause: Duration,
}

/// What is waited for.
enum PendingStep {
    /// The answer to a command.
    Response { response: PendingResponse, read: ReadAnswer, of_source: bool },
    /// The connection to the destination.
    Connecting(Connecting),
    /// The clock.
    Until(Instant),
}

/// How an answer is read.
type ReadAnswer = fn(&Value) -> EndAnswer;

impl EndRunner {
    /// A runner that goes on with what is owed. The final copy counts as hanging after `hang_patience`.
    pub fn new(
        obligations: Obligations,
        destination: &DestinationMonitor,
        hang_patience: Duration,
    ) -> EndRunner {
        EndRunner {
            protocol: EndProtocol::new(obligations, destination.address.is_some()),
            pending: None,
            source_silent_since: None,
            hang_patience,
            destination_absent_since: None,
            pause: PAUSES.0,
        }
    }

    /// Changes after how much silence of the source the final copy counts as hanging.
    pub fn set_hang_patience(&mut self, patience: Duration) {
        self.hang_patience = patience;
    }

    /// Does the next step, or waits for what became of the last one. `persist` writes the obligations
    /// down. May be dropped at any await and called again: nothing is lost or done twice.
    pub async fn advance(
        &mut self,
        source: &mut QemuMonitor,
        destination: &mut DestinationMonitor,
        persist: &mut (dyn FnMut(Obligations) + Send),
    ) -> EndProgress {
        if self.pending.is_none() {
            let begun = self.begin_step(source, destination, persist);
            if let Some(progress) = begun {
                return progress;
            }
        }
        let Some(answer) = self.wait(destination).await else { return EndProgress::UnderWay };
        if answer == EndAnswer::Unreachable && self.waits_for_source() {
            self.pending = None;
            return EndProgress::SourceClosed;
        }
        self.pending = None;
        self.take_answer(answer);
        EndProgress::UnderWay
    }

    fn waits_for_source(&self) -> bool {
        matches!(self.pending, Some(PendingStep::Response { of_source: true, .. }))
    }

    /// Gives the protocol an answer. The pauses grow while nothing changes.
    fn take_answer(&mut self, answer: EndAnswer) {
        let is_silence =
            matches!(answer, EndAnswer::Silent | EndAnswer::Unreachable | EndAnswer::Gone);
        match self.protocol.next_step() {
            EndStep::Wait => self.pause = (self.pause * 2).min(PAUSES.1),
            EndStep::QueryMigration => {}
            _ if is_silence => {}
            _ => self.pause = PAUSES.0,
        }
        self.protocol.on_answer(answer);
    }

    /// Begins a step; returns where that is all there is to do.
    fn begin_step(
        &mut self,
        source: &mut QemuMonitor,
        destination: &mut DestinationMonitor,
        persist: &mut (dyn FnMut(Obligations) + Send),
    ) -> Option<EndProgress> {
        let done: ReadAnswer = |_| EndAnswer::Done;
        let guest: ReadAnswer = |answer| EndAnswer::Guest(parse_query_status(answer).guest_state());
        let migration: ReadAnswer =
            |answer| EndAnswer::Migration(parse_query_migrate(answer).status);
        match self.protocol.next_step() {
            EndStep::End(end) => return Some(EndProgress::Ended(end)),
            EndStep::Wait => self.pending = Some(PendingStep::Until(Instant::now() + self.pause)),
            EndStep::Persist(obligations) => {
                persist(obligations);
                self.take_answer(EndAnswer::Done);
                return Some(EndProgress::UnderWay);
            }
            EndStep::QueryMigration => return self.ask_source(source, "query-migrate", migration),
            EndStep::QuerySource => return self.ask_source(source, "query-status", guest),
            EndStep::StopSource => return self.ask_source(source, "stop", done),
            EndStep::ContinueSource => return self.ask_source(source, "cont", done),
            EndStep::Cancel => return self.ask_source(source, "migrate_cancel", done),
            EndStep::BreakLink => {
                let sent = source.start_yank_migration();
                return self.await_source(sent, done);
            }
            EndStep::QueryDestination => self.ask_destination(destination, "query-status", guest),
            EndStep::StopDestination => self.ask_destination(destination, "stop", done),
            EndStep::ContinueDestination => self.ask_destination(destination, "cont", done),
        }
        None
    }

    fn ask_source(
        &mut self,
        source: &mut QemuMonitor,
        command: &str,
        read: ReadAnswer,
    ) -> Option<EndProgress> {
        let sent = source.start_command(command);
        self.await_source(sent, read)
    }

    fn await_source(
        &mut self,
        sent: Result<PendingResponse, QmpError>,
        read: ReadAnswer,
    ) -> Option<EndProgress> {
        match sent {
            Ok(response) => {
                self.source_silent_since.get_or_insert_with(Instant::now);
                self.pending = Some(PendingStep::Response { response, read, of_source: true });
                None
            }
            Err(QmpError::Closed { .. }) => Some(EndProgress::SourceClosed),
            Err(_) => {
                self.take_answer(EndAnswer::Rejected);
                Some(EndProgress::UnderWay)
            }
        }
    }

    fn ask_destination(
        &mut self,
        destination: &mut DestinationMonitor,
        command: &str,
        read: ReadAnswer,
    ) {
        let Some(address) = destination.address.clone() else {
            self.take_answer(EndAnswer::Unreachable);
            return;
        };
        if let Some(monitor) = destination.monitor() {
            if let Ok(response) = monitor.start_command(command) {
                self.pending = Some(PendingStep::Response { response, read, of_source: false });
                return;
            }
            destination.monitor = None;
        }
        let connecting = async move { QemuMonitor::connect(&address).await };
        self.pending = Some(PendingStep::Connecting(Box::pin(connecting)));
    }

    /// Waits for what is pending. `None` where the step has to be begun again.
    async fn wait(&mut self, destination: &mut DestinationMonitor) -> Option<EndAnswer> {
        match self.pending.as_mut()? {
            PendingStep::Until(until) => {
                tokio::time::sleep_until((*until).into()).await;
                Some(EndAnswer::Done)
            }
            PendingStep::Connecting(connecting) => match connecting.await {
                Ok((monitor, events)) => {
                    destination.monitor = Some(monitor);
                    destination.new_events = Some(events);
                    self.destination_absent_since = None;
                    self.pending = None;
                    None
                }
                Err(error) if error.is_nothing_there() => {
                    let since = self.destination_absent_since.get_or_insert_with(Instant::now);
                    Some(match since.elapsed() >= ABSENT_PATIENCE {
                        true => EndAnswer::Gone,
                        false => EndAnswer::Unreachable,
                    })
                }
                Err(_) => {
                    self.destination_absent_since = None;
                    Some(EndAnswer::Unreachable)
                }
            },
            PendingStep::Response { response, read, of_source } => {
                let limit = RESPONSE_TIMEOUT.saturating_sub(response.age());
                let answer = response.wait(limit).await;
                let of_source = *of_source;
                Some(match answer {
                    Ok(value) => {
                        if of_source {
                            self.source_silent_since = None;
                        }
                        read(&value)
                    }
                    Err(QmpError::Closed { .. }) => {
                        if !of_source {
                            destination.monitor = None;
                        }
                        EndAnswer::Unreachable
                    }
                    Err(QmpError::Timeout { .. }) => {
                        let silent_for = self.source_silent_since.map(|since| since.elapsed());
                        match of_source && silent_for.is_some_and(|it| it >= self.hang_patience) {
                            true => EndAnswer::Hung,
                            false => EndAnswer::Silent,
                        }
                    }
                    Err(_) => {
                        if of_source {
                            self.source_silent_since = None;
                        }
                        EndAnswer::Rejected
                    }
                })
            }
        }
    }
}

/// Says in a sentence where the guest is in the end.
pub fn describe_end(end: EndState) -> &'static str {
    match end {
        EndState::RunsAtDestination => {
            "the migration had completed, the guest runs at the destination"
        }
        EndState::AtDestination => {
            "the migration had completed; the destination's monitor is not known, so it was not asked \
             whether the guest runs there"
        }
        EndState::DestinationGone => {
            "the migration had completed, and nothing listens at the destination's monitor any more: its \
             QEMU has ended, perhaps with the guest. The source has the guest as it was at the \
             switch-over; QMP cont there runs it, unless it runs elsewhere or its disks have changed since"
        }
        EndState::StandsAtDestination(_) => {
            "the migration had completed, and the guest stands still at the destination; it was not \
             landfall that stopped it (QMP query-status there says why)"
        }
        EndState::RunsAtSource => "the migration is over, the guest runs at the source",
        EndState::RunsAtSourceCopyPaused => {
            "the migration had completed while it was being cancelled: the guest runs at the source, and \
             a stopped copy of it waits at the destination. End the destination's QEMU, and never \
             continue it"
        }
        EndState::RunsAtSourceAfterTwice => {
            "THE GUEST RAN TWICE for a moment, at the source and at the destination, because the migration \
             was ended by another program, or by a fault, when all of it had been sent. It was stopped \
             at the destination and runs at the source: end the destination's QEMU, never continue it, \
             and look after the guest's disks"
        }
        EndState::StandsAtSource(_) => {
            "the migration is over, and the guest stands still at the source; it was not landfall that \
             stopped it (QMP query-status says why)"
        }
        EndState::ArrivedRunningOrPaused => {
            "the migration had completed while it was being cancelled. Whether the guest arrived running \
             or stopped is not known, for the destination's monitor is not: look there with QMP \
             query-status, and continue it there (QMP cont) if it is paused"
        }
        EndState::InPostCopy => "post-copy is under way and was left to end",
        EndState::MigratedByOther => {
            "a migration is under way that landfall did not start, and was left alone"
        }
    }
}
