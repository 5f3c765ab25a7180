//! The end: finds out where the guest is, puts everything back, writes the report.

use std::time::{Duration, Instant};

use landfall_core::policy::with_fallback_reason;
use landfall_core::report::{Class, Measurements, Outcome, Report};
use landfall_core::telemetry::sample::Status;
use landfall_core::units::Moment;

use super::{End, Steering};
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

impl Steering {
    /// Whatever the end was: lets go, finds the guest, puts the settings back, reports.
    pub(super) async fn settle(mut self, end: End) -> Report {
        let ended = self.now();
        // Nothing can be demanded any more.
        self.control = None;
        self.let_go();
        if matches!(end, End::Over(..)) {
            // From here on a migration of this guest is somebody else's. A guardian that is gone
            // does not cancel it either.
            let _ = self.hands.begun(false);
        }
        let (outcome, reason) = match end {
            End::Over(Status::Completed, _) => self.landed().await,
            End::Over(status, error) => self.stayed(status, error).await,
            End::SourceLost(how) => self.source_lost(how).await,
            End::Stuck(how) => (Outcome::Unknown, Some(self.all_that_is_known(&how))),
        };
        let reason = self.put_back(outcome, reason).await;
        self.report(outcome, reason, ended)
    }

    async fn landed(&mut self) -> (Outcome, Option<String>) {
        let reason = self.giving_up.as_ref().map(|giving_up| {
            format!("it landed although it was being given up ({})", giving_up.reason)
        });
        let Some((mut destination, mut events)) = self.destination.take() else {
            return (Outcome::Landed, reason);
        };
        if self.paused_by_other == Some(true) {
            let paused = "somebody else paused the guest on the way: it has arrived paused";
            return (Outcome::Landed, Some(paused.to_owned()));
        }
        let outcome = migration_end::wait_until_running(&mut destination, RUNS).await;
        while let Ok(event) = events.try_recv() {
            self.note(&event, true);
        }
        match outcome {
            Ok(()) => {
                self.hands.went_on();
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
        let (outcome, reason) = match self.giving_up.take() {
            Some(giving_up) => (giving_up.outcome, giving_up.reason),
            None if status == Status::Failed => (
                Outcome::Failed,
                error.map_or_else(
                    || "QEMU gave the migration up: it lost the destination".to_owned(),
                    |words| format!("QEMU gave the migration up: {words}"),
                ),
            ),
            None => (Outcome::Cancelled, "somebody else cancelled the migration".to_owned()),
        };
        let runs =
            migration_end::ensure_running_at_source(&mut self.source, self.hands.stopped(), RUNS)
                .await;
        while let Ok(event) = self.events.try_recv() {
            self.note(&event, false);
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

    async fn runs_there_too(&mut self) -> bool {
        match &mut self.destination {
            Some((destination, _)) => {
                matches!(destination.query_run_state().await, Ok(RunState::Running))
            }
            None => false,
        }
    }

    fn all_that_is_known(&self, how: &str) -> String {
        let status = self.last.as_ref().map_or("unknown".to_owned(), |m| format!("{:?}", m.status));
        format!(
            "{how}. The guest's vCPUs are not held by landfall any more. QEMU is process {} and its \
             migration was last heard of as {status}; where the guest runs, QMP query-status at {} \
             and at the destination can tell. The guardian ends the migration when QEMU answers",
            self.hands.process.pid,
            self.source.address()
        )
    }

    /// Whether the source's process is there, and still is after a while.
    async fn still_alive_after(&self, most: Duration) -> bool {
        let deadline = Instant::now() + most;
        while self.hands.process.is_alive() {
            if Instant::now() >= deadline {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    async fn source_lost(&mut self, how: String) -> (Outcome, Option<String>) {
        let pid = self.hands.process.pid;
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
        if !self.hands.still_held().is_empty() {
            // Once more: what stood in the way may be gone.
            self.let_go();
        }
        if !self.hands.process.is_alive() {
            self.hands.dismiss();
            return reason;
        }
        let mut problems: Vec<String> = self.hands.still_held().to_vec();
        if outcome == Outcome::Unknown {
            // The guardian is told nothing, and goes the way back when this process ends.
            return reason;
        }
        if let Err(error) =
            self.source.set_migration_parameters(&self.hands.way_back.parameters.clone()).await
            && self.hands.process.is_alive()
        {
            problems.push(format!("QEMU's settings could not be put back: {error}"));
        }
        if problems.is_empty() {
            self.hands.dismiss();
            return reason;
        }
        let problems = problems.join("; ");
        Some(match reason {
            Some(reason) => format!("{reason}. But {problems} (the guardian tries again)"),
            None => format!("{problems} (the guardian tries again)"),
        })
    }

    fn report(mut self, outcome: Outcome, reason: Option<String>, ended: Moment) -> Report {
        let downtime = self.last.as_ref().and_then(|migration| migration.downtime);
        if outcome == Outcome::Landed
            && self.arrived.is_none()
            && let Some(length) = downtime
        {
            self.account.on_reported_downtime(length);
        }
        let ram = self.last_ram;
        let losses = self.account.losses();
        let stalls_known = match outcome {
            // While it fetches its pages the guest stands still at every fault; nobody counts that.
            Outcome::Landed => !self.post_copied && (self.arrived.is_some() || downtime.is_some()),
            Outcome::Unknown => false,
            _ => self.account.stopped_since().is_none(),
        };
        let measured = Measurements {
            total: self.arrived.unwrap_or(ended).0,
            downtime: downtime.filter(|_| outcome == Outcome::Landed),
            losses,
            judged: self.account.since_tightened(),
            stalls_known,
            transferred: ram.map(|ram| ram.transferred),
            passes: ram.map(|ram| ram.syncs),
            peak_rate: self.peak.peak(),
        };
        let asked = &self.observer.settings().requirements;
        let mut report = Report::of(outcome, self.policy.name(), reason, asked, &measured);
        report.changes = self.changes;
        let hindered = losses.throttled > Duration::ZERO;
        report.class = match outcome {
            Outcome::Landed if !hindered && self.shipped.is_none() && !self.post_copied => {
                Class::Unaided
            }
            // That it landed with help does not say that it would not have without: its curve does.
            _ => self.class,
        };
        report.forecast = self.forecast;
        if outcome == Outcome::Landed && report.reason.is_none() {
            report.reason = self.policy.explanation();
        }
        report.reason = with_fallback_reason(&*self.policy, report.reason);
        if self.post_copied {
            report.guest_cpu_lost_s = None;
        }
        report
    }
}
