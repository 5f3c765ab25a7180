//! The end: finds out where the guest is, puts everything back, writes the report.

use std::time::{Duration, Instant};

use landfall_core::report::{Class, Measured, Outcome, Report};
use landfall_core::sample::Status;
use landfall_core::units::Moment;

use super::{End, Steering};
use crate::machine::{Machine, RunState};
use crate::qmp::QmpError;

/// How long a guest may take to run again, here after a cancellation or there after landing.
const RUNS: Duration = Duration::from_secs(10);

impl Steering {
    /// Whatever the end was: lets go, finds the guest, puts the settings back, reports.
    pub(super) async fn settle(mut self, end: End) -> Report {
        let ended = self.now();
        self.let_go();
        let (outcome, reason) = match end {
            End::Over(Status::Completed, _) => self.landed().await,
            End::Over(status, error) => self.stayed(status, error).await,
            End::SourceLost(how) => self.source_lost(how).await,
            End::Hangs(how) => (
                Outcome::Unknown,
                Some(format!(
                    "{how}. The vCPUs are not held by landfall any more. Whether the guest runs is \
                     not known: QEMU is process {}, last heard of as {:?}",
                    self.hands.process.pid,
                    self.last.as_ref().map(|m| m.status)
                )),
            ),
        };
        if outcome == Outcome::Landed || outcome != Outcome::Unknown {
            self.put_settings_back().await;
        } else if !self.hands.process.is_alive() {
            // Nothing is left to put back.
            self.hands.dismiss();
        }
        self.report(outcome, reason, ended)
    }

    async fn landed(&mut self) -> (Outcome, Option<String>) {
        let Some((mut destination, mut events)) = self.destination.take() else {
            return (Outcome::Landed, self.broken_promise());
        };
        let outcome = self.see_it_run(&mut destination).await;
        while let Ok(event) = events.try_recv() {
            self.note(&event, true);
        }
        match outcome {
            Ok(()) => (Outcome::Landed, self.broken_promise()),
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

    /// Waits until the destination says that the guest runs, and continues it if we had stopped it.
    async fn see_it_run(&mut self, destination: &mut Machine) -> Result<(), String> {
        let deadline = Instant::now() + RUNS;
        loop {
            let state =
                destination.run_state().await.map_err(|error| format!("is lost: {error}"))?;
            match state {
                RunState::Running => return Ok(()),
                RunState::Stopped(_) if self.hands.way_back.arrives_stopped => {
                    destination.go_on().await.map_err(|error| format!("refuses: {error}"))?;
                    self.hands.went_on();
                }
                _ if Instant::now() > deadline => {
                    return Err(format!("does not run it (it is {state})"));
                }
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// What there is to say of a landing that was not the one wished for.
    fn broken_promise(&self) -> Option<String> {
        let (_, reason) = self.giving_up.as_ref()?;
        Some(format!("it landed although it was being given up ({reason})"))
    }

    /// It was cancelled or failed: the guest has to run at the source.
    async fn stayed(&mut self, status: Status, error: Option<String>) -> (Outcome, Option<String>) {
        let (outcome, reason) = match self.giving_up.take() {
            Some((outcome, reason)) => (outcome, reason),
            None if status == Status::Failed => (
                Outcome::Failed,
                error.map_or_else(
                    || "QEMU gave the migration up: it lost the destination".to_owned(),
                    |words| format!("QEMU gave the migration up: {words}"),
                ),
            ),
            None => (Outcome::Cancelled, "somebody else cancelled the migration".to_owned()),
        };
        match self.run_at_source().await {
            Ok(()) => {
                self.hands.went_on();
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

    async fn run_at_source(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + RUNS;
        loop {
            match self.source.run_state().await.map_err(|error| error.to_string())? {
                RunState::Running => return Ok(()),
                // It ran before: whoever stopped it, this migration did.
                RunState::Stopped(word) if word == "paused" => {
                    self.source.go_on().await.map_err(|error| error.to_string())?;
                }
                state if Instant::now() > deadline => return Err(format!("QEMU says {state}")),
                _ => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn source_lost(&mut self, how: String) -> (Outcome, Option<String>) {
        let pid = self.hands.process.pid;
        let source = if self.hands.process.is_alive() {
            format!("QEMU process {pid} still exists, so the guest may run there")
        } else {
            format!("QEMU process {pid} has ended, and the guest with it")
        };
        let destination = match &mut self.destination {
            None => "of the destination nothing is known (no --destination-qmp)".to_owned(),
            Some((destination, _)) => match destination.run_state().await {
                Ok(RunState::Running) => {
                    return (Outcome::Landed, Some(format!("the source was lost ({how})")));
                }
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

    async fn put_settings_back(&mut self) {
        let settings = self.hands.way_back.settings.clone();
        match self.source.apply(&settings).await {
            Ok(()) => self.hands.dismiss(),
            // The guardian, which is not told that all is done, tries again.
            Err(error) => eprintln!("landfall: QEMU's settings could not be put back: {error}"),
        }
    }

    fn report(mut self, outcome: Outcome, reason: Option<String>, ended: Moment) -> Report {
        let downtime = self.last.as_ref().and_then(|migration| migration.downtime);
        if outcome == Outcome::Landed
            && self.arrived.is_none()
            && let Some(length) = downtime
        {
            self.account.blackout(length);
        }
        let ram = self.last.as_ref().and_then(|migration| migration.ram);
        let losses = self.account.losses();
        let stalls_known = match outcome {
            // While it fetches its pages the guest stands still at every fault; nobody counts that.
            Outcome::Landed => !self.post_copied && (self.arrived.is_some() || downtime.is_some()),
            Outcome::Unknown => false,
            _ => true,
        };
        let measured = Measured {
            total: self.arrived.map_or(ended, |arrived| arrived.max(ended)).0,
            downtime: downtime.filter(|_| outcome == Outcome::Landed),
            losses,
            stalls_known,
            transferred: ram.map(|ram| ram.transferred),
            passes: ram.map(|ram| ram.syncs),
            peak_rate: self.peak_rate,
        };
        let mut report =
            Report::of(outcome, self.policy.name(), reason, &self.requirements, &measured);
        let hindered = losses.throttled > Duration::ZERO;
        report.class = match outcome {
            Outcome::Landed if self.shipped || self.post_copied => Class::Unknown,
            Outcome::Landed if hindered => Class::Middle,
            Outcome::Landed => Class::Unaided,
            _ => Class::Unknown,
        };
        if self.post_copied {
            report.guest_cpu_lost_s = None;
        }
        report
    }
}
