//! Drives a [`Session`] on a real guest: observes, carries out, records; and leaves nothing behind.
//!
//! What to do is decided in `landfall_core::session`. What is done here is the rest of it: wait for the
//! monitors, for the clock and for people; read counters; carry actions out on QEMU and the control
//! groups; and find out at the end where the guest is.
//!
//! - [`preflight`] looks at everything before anything is changed, and refuses ([`refusal`]).
//! - This file runs the migration: it waits for what comes next and gives it to the session.
//! - [`actuator`] carries the session's actions out and knows how to undo each.
//! - [`gate`] waits for the operator's program before the switch-over.
//! - [`requests`] takes up what the operator changes on the way.
//! - [`finalize`] finds out where the guest is, puts everything back and reports.
//!
//! Two clocks tick: the hypervisor is asked ten times a second, for QEMU renews its own figures no
//! more often, and more often near the end of a pass; the kernel's counters, which cost a hundredth of
//! that, are read every 10 to 20 ms while the guest is hindered, so that each gap of a quota is seen by
//! itself.

mod actuator;
mod counters_budget;
mod destination_events;
mod finalize;
mod gate;
mod preflight;
mod refusal;
mod requests;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use landfall_core::decision::Hold;
use landfall_core::ending::{EndState, GuestState, Obligations};
use landfall_core::model::prior::Prior;
use landfall_core::policy::Policy;
use landfall_core::report::{Forecast, Outcome, Report};
use landfall_core::requirements::Settings;
use landfall_core::session::{Action, Observation, Session, SessionEnd};
use landfall_core::telemetry::sample::{Migration, Sample, Status, VcpuCounters};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::Moment;
use tokio::sync::mpsc;

use crate::control::server::ControlServer;
use crate::end_runner::{DestinationMonitor, EndProgress, EndRunner};
use crate::monitor::{QemuMonitor, parse_query_migrate};
use crate::qmp::{PendingResponse, QmpAddress, QmpError, QmpEvent, QmpEvents};
use actuator::Actuator;
use counters_budget::CountersBudget;
use destination_events::{DestinationEvents, FromDestination};
use gate::Gate;
use preflight::ChangedParameters;
use requests::{PendingChange, next_request};

pub use gate::{GateVerdict, SwitchOverGate};
pub use preflight::{EndsDiffer, EndsDifference, OtherWork};
pub use refusal::Refusal;

/// A migration to be steered.
pub struct MigrationRequest {
    /// The monitor of the QEMU that the guest is to leave.
    pub source: QmpAddress,
    /// The migration URI of the QEMU that it is to go to.
    pub destination: String,
    /// The monitor of that QEMU.
    pub destination_qmp: Option<QmpAddress>,
    /// The process that the operator says the source's QEMU is. Where it is `None`, the process that serves
    /// the monitor must be the one whose threads it names.
    pub qemu_pid: Option<i32>,
    /// What the operator asks for.
    pub settings: Settings,
    /// The policy that steers.
    pub policy: Box<dyn Policy>,
    /// Post-copy may be used.
    pub post_copy: bool,
    /// What is known already.
    pub prior: Prior,
    /// What is expected of it.
    pub forecast: Option<Forecast>,
    /// Has QEMU wait before the switch-over until a program of the operator has done its part; `None` where
    /// none is to be asked.
    pub gate: Option<SwitchOverGate>,
    /// For how long QEMU may wait before the switch-over, for whichever program. The guest stands still
    /// meanwhile.
    pub switch_over_deadline: Duration,
    /// The program that becomes the guardian when called with [`crate::guardian::SUBCOMMAND`].
    pub guardian: PathBuf,
}

/// One sample, for those who watch: the progress line, the recording, the hooks.
pub struct Tick<'a> {
    /// The raw counters.
    pub sample: &'a Sample,
    /// The levers there are.
    pub levers: Levers,
    /// All that is asked for, where that has changed since the sample before.
    pub changed: Option<&'a Settings>,
    /// What was made of it; `None` for a sample of the kernel's counters alone.
    pub decided: Option<Decided<'a>>,
}

/// What a sample of the hypervisor led to.
pub struct Decided<'a> {
    /// What is known, and what is done about it.
    pub observation: &'a Observation,
    /// How the vCPUs were held when the view was made.
    pub holds: &'a [Hold],
}

/// Reasons to cancel the migration, as they come: signals, mostly. After a second one landfall ends
/// without waiting for the migration to be over, and the guardian does the rest.
pub type Interrupts = mpsc::UnboundedReceiver<String>;

/// Steers a migration to its end and reports. `watch` sees every sample.
pub async fn migrate(
    request: MigrationRequest,
    interrupts: &mut Interrupts,
    watch: &mut dyn FnMut(&Tick),
) -> Report {
    let policy = request.policy.name().to_owned();
    let checked = tokio::select! {
        biased;
        Some(reason) = interrupts.recv() => Err(Refusal::Interrupted(reason)),
        checked = preflight::check(request) => checked,
    };
    let started = match checked {
        Ok(checked) => checked.start().await,
        Err(refusal) => Err(refusal),
    };
    match started {
        Ok(mut driver) => {
            let end = driver.run(interrupts, watch).await;
            driver.finalize(end).await
        }
        Err(refusal) => Report::refused(&policy, refusal.to_string()),
    }
}

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The session has come to an end.
    Session(SessionEnd),
    /// The source's monitor is closed: QEMU has ended, or its monitor was taken away.
    SourceLost(String),
}

/// A migration under way.
struct Driver {
    started: Instant,
    source: QemuMonitor,
    events: QmpEvents,
    destination: DestinationMonitor,
    destination_events: DestinationEvents,
    /// What landfall has set at the destination.
    destination_parameters: ChangedParameters,
    session: Session<'static>,
    actuator: Actuator,
    control: Option<ControlServer>,
    pending_changes: Vec<PendingChange>,
    /// The question to QEMU that has not been answered yet, and when to ask the next.
    query: Option<PendingResponse>,
    next_query: Instant,
    last_tick: Instant,
    counters: CountersBudget,
    /// What ends the migration, once it is to be ended.
    ending: Option<EndRunner>,
    /// Where that has found the guest.
    found: Option<EndState>,
    gate: Gate,
    /// The guest was stopped at the source, as for the final copy.
    was_stopped: bool,
    /// QEMU was last seen to wait before the switch-over, when nothing of the final copy has been sent.
    was_waiting: bool,
    /// Disk mirrors that other programs complete at the switch-over.
    mirrors: Vec<String>,
}

impl Driver {
    async fn run(&mut self, interrupts: &mut Interrupts, watch: &mut dyn FnMut(&Tick)) -> End {
        let mut interrupted = false;
        self.carry_out_actions().await;
        loop {
            let next_tick = self.next_tick();
            let ended = tokio::select! {
                biased;
                Some(reason) = interrupts.recv() => {
                    if std::mem::replace(&mut interrupted, true) {
                        let reason = format!("{reason}, twice: not waiting for the end");
                        return End::Session(SessionEnd::Stuck(reason));
                    }
                    self.abort(Outcome::Cancelled, reason).await;
                    Ok(())
                }
                // Before everything that another process can keep busy.
                () = tokio::time::sleep_until(next_tick.into()) => self.on_tick(watch).await,
                event = self.events.recv() => match event {
                    Some(event) => { self.on_event(&event, false).await; Ok(()) }
                    None => Err(End::SourceLost("its monitor closed the connection".to_owned())),
                },
                from_there = self.destination_events.next() => {
                    match from_there {
                        FromDestination::Event(event) => self.on_event(&event, true).await,
                        FromDestination::Connected(monitor) => {
                            self.destination = DestinationMonitor::connected(monitor);
                        }
                    }
                    Ok(())
                }
                answer = answer_to(&mut self.query) => {
                    self.query = None;
                    self.on_answer(answer, watch).await
                }
                progress = advance_end(
                    &mut self.ending, &mut self.source, &mut self.destination, &mut self.actuator
                ) => self.on_end_progress(progress),
                verdict = self.gate.verdict() => {
                    self.on_verdict(verdict).await;
                    Ok(())
                }
                request = next_request(&mut self.control) => {
                    self.on_request(request).await;
                    Ok(())
                }
            };
            if let Err(end) = ended {
                return end;
            }
            if let Some(end) = self.session.end() {
                return End::Session(end.clone());
            }
        }
    }

    fn next_tick(&self) -> Instant {
        let counters = self.last_tick + self.counters.no_sooner(self.session.next_counters_in());
        if self.query.is_none() { counters.min(self.next_query) } else { counters }
    }

    fn read_counters(&mut self) -> Vec<VcpuCounters> {
        let begun = Instant::now();
        let counters = self.actuator.read_counters();
        self.counters.note(begun.elapsed());
        self.last_tick = Instant::now();
        counters
    }

    fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    /// Reads the kernel's counters, or asks the hypervisor if it is time, and watches over the answer.
    async fn on_tick(&mut self, watch: &mut dyn FnMut(&Tick)) -> Result<(), End> {
        if self.session.aborted().is_none()
            && let Err(problem) = self.actuator.check_guardian()
        {
            self.abort(Outcome::Failed, problem.to_string()).await;
        }
        if self.query.is_none() && Instant::now() >= self.next_query {
            self.last_tick = Instant::now();
            self.next_query =
                Instant::now() + self.counters.no_sooner(self.session.next_sample_in());
            let query = self.source.start_query_migrate();
            self.query = Some(query.map_err(|error| End::SourceLost(error.to_string()))?);
        } else {
            let vcpus = self.read_counters();
            let sample = Sample { at: self.now(), migration: None, vcpus };
            self.session.on_sample(&sample);
            let levers = self.session.levers();
            watch(&Tick { sample: &sample, levers, changed: None, decided: None });
        }
        let silent_for = self.query.as_ref().map_or(Duration::ZERO, PendingResponse::age);
        let can_fence = self.destination.address().is_some();
        self.session.check_monitor_stall(self.now(), silent_for, can_fence);
        self.carry_out_actions().await;
        Ok(())
    }

    async fn on_answer(
        &mut self,
        answer: Result<serde_json::Value, QmpError>,
        watch: &mut dyn FnMut(&Tick),
    ) -> Result<(), End> {
        match answer {
            Ok(value) => self.on_migration(parse_query_migrate(&value), watch).await,
            Err(error) if error.is_closed() => return Err(End::SourceLost(error.to_string())),
            Err(error) => self.abort(Outcome::Failed, error.to_string()).await,
        }
        Ok(())
    }

    /// Gives the session what the hypervisor says, and does what it asks for.
    async fn on_migration(&mut self, migration: Migration, watch: &mut dyn FnMut(&Tick)) {
        if self.session.must_query_run_state(&migration) {
            let state = self.source.query_run_state().await.ok();
            // Paused as a fence is not paused by another program.
            let by_landfall = self.actuator.obligations().guest_stopped;
            let state = state.map(|state| state.guest_state());
            let owed = self.actuator.obligations();
            if state == Some(GuestState::Paused) && !by_landfall && !owed.paused_by_other {
                self.actuator.persist(Obligations { paused_by_other: true, ..owed });
            }
            self.session.on_run_state(state.filter(|it| !by_landfall || *it != GuestState::Paused));
        }
        let migration = self.session.interpret(migration);
        if !migration.status.is_over() && migration.status != Status::Cancelling {
            self.was_waiting = migration.status == Status::PreSwitchOver;
        }
        self.gate.on_status(migration.status);
        let changed = self.apply_pending_changes(migration.status).await;
        let vcpus = self.read_counters();
        let sample = Sample { at: self.now(), migration: Some(migration), vcpus };
        if let Some(observation) = self.session.on_sample(&sample) {
            self.session.classify(&observation.view);
            self.publish_progress(&observation);
            let holds = self.session.observed_holds();
            let decided = Some(Decided { observation: &observation, holds });
            let levers = self.session.levers();
            watch(&Tick { sample: &sample, levers, changed: changed.as_ref(), decided });
        }
        self.carry_out_actions().await;
    }

    async fn on_event(&mut self, event: &QmpEvent, at_destination: bool) {
        self.note_event(event, at_destination);
        self.carry_out_actions().await;
    }

    /// QEMU waits before the switch-over, and the operator's program has answered.
    async fn on_verdict(&mut self, verdict: GateVerdict) {
        match verdict {
            GateVerdict::Refuse(reason) => self.abort(Outcome::Cancelled, reason).await,
            GateVerdict::GoOn if self.session.aborted().is_none() => {
                // Where this fails QEMU goes on waiting, and the deadline ends that.
                let _ = self.source.start_migrate_continue();
            }
            GateVerdict::GoOn => {}
        }
    }

    fn note_event(&mut self, event: &QmpEvent, at_destination: bool) {
        if event.name == "STOP" && !at_destination && self.gate.is_ahead() {
            // It stands still until the program is asked.
            self.next_query = Instant::now();
        }
        let at = Moment(event.received_at.saturating_duration_since(self.started));
        match (event.name.as_str(), at_destination) {
            ("STOP", false) => {
                self.was_stopped = true;
                self.session.on_stop(at);
            }
            ("RESUME", _) => {
                let owed = self.actuator.obligations();
                if owed.paused_by_other && !at_destination {
                    self.actuator.persist(Obligations { paused_by_other: false, ..owed });
                }
                self.session.on_resume(at, at_destination);
            }
            _ => {}
        }
    }

    async fn abort(&mut self, outcome: Outcome, reason: String) {
        self.session.abort(outcome, reason, self.now());
        self.carry_out_actions().await;
    }

    async fn carry_out_actions(&mut self) {
        while let Some(action) = self.session.poll_action() {
            let done = match action {
                Action::Cancel => {
                    self.begin_end();
                    Ok(())
                }
                Action::BreakLink => {
                    self.begin_end().set_hang_patience(Duration::ZERO);
                    Ok(())
                }
                action => self.actuator.carry_out(action, &mut self.source).await,
            };
            match done {
                Ok(()) => self.session.on_action_done(action),
                Err(error) => {
                    self.session.on_action_failed(action, error.to_string(), self.now());
                }
            }
        }
    }

    /// Begins to end the migration, beside the loop. What is under way goes on.
    fn begin_end(&mut self) -> &mut EndRunner {
        let obligations = self.actuator.obligations();
        self.destination_events.stop_connecting();
        self.ending
            .get_or_insert_with(|| EndRunner::new(obligations, &self.destination, Duration::MAX))
    }

    fn on_end_progress(&mut self, progress: EndProgress) -> Result<(), End> {
        if let Some(events) = self.destination.take_new_events() {
            self.destination_events.replace(events);
        }
        match progress {
            EndProgress::UnderWay => Ok(()),
            // The session sees by itself that the migration is over.
            EndProgress::Ended(found) => {
                self.ending = None;
                self.found = Some(found);
                Ok(())
            }
            EndProgress::SourceClosed => {
                Err(End::SourceLost("its monitor closed the connection".to_owned()))
            }
        }
    }
}

/// Goes on with the end of the migration; waits without end while it is not to be ended.
async fn advance_end(
    ending: &mut Option<EndRunner>,
    source: &mut QemuMonitor,
    destination: &mut DestinationMonitor,
    actuator: &mut Actuator,
) -> EndProgress {
    match ending {
        Some(runner) => {
            let mut persist = |obligations| actuator.persist(obligations);
            runner.advance(source, destination, &mut persist).await
        }
        None => std::future::pending().await,
    }
}

/// The answer to the pending question; never, where none is pending.
async fn answer_to(query: &mut Option<PendingResponse>) -> Result<serde_json::Value, QmpError> {
    match query {
        Some(pending) => loop {
            match pending.wait(Duration::from_secs(60)).await {
                Err(QmpError::Timeout { .. }) => {}
                answer => return answer,
            }
        },
        None => std::future::pending().await,
    }
}
