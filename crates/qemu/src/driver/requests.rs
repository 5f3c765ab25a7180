//! What is demanded otherwise while the migration goes on: taken up at the next look, at once.

use std::mem;

use landfall_core::report::Outcome;
use landfall_core::requirements::Requirement;
use landfall_core::requirements::changes;
use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::telemetry::progress::ProgressSnapshot;
use landfall_core::telemetry::sample::Status;
use tokio::sync::oneshot;

use super::actuator::Hands;
use super::{Decided, Steering};
use crate::control::server::{ControlServer, ControlServerError, SteeringRequest};
use crate::control::{ControlAnswer, SteeredMigration};
use crate::stdio::eprint_line;

/// Demands that wait for the next look.
pub(super) type Waiting = (Vec<Demand>, oneshot::Sender<ControlAnswer>);

/// The next thing that somebody asks; never, where nobody can.
pub(super) async fn next_ask(control: &mut Option<ControlServer>) -> SteeringRequest {
    if let Some(open) = control
        && let Some(ask) = open.next_request().await
    {
        return ask;
    }
    std::future::pending().await
}

/// Listens to whoever wants to see or change how the guest is steered. A migration goes on without,
/// where that cannot be had.
pub(super) fn open(hands: &Hands, steered: SteeredMigration) -> Option<ControlServer> {
    let open = ControlServer::listen(hands.process, steered);
    let problem = |error: &ControlServerError| {
        eprint_line(&format!("landfall: landfall set will not find this migration: {error}"));
    };
    open.inspect_err(problem).ok()
}

impl Steering {
    /// Takes in what somebody asks. Demands wait for the next look, which comes within 100 ms: whoever
    /// asks without end makes the loop look no oftener.
    pub(super) async fn hear(&mut self, ask: SteeringRequest) {
        match ask {
            SteeringRequest::Set { demands, answer } => {
                // Where QEMU does not answer there is no next look, and who asked is gone at last.
                self.waiting.retain(|(_, answer)| !answer.is_closed());
                self.waiting.push((demands, answer));
            }
            SteeringRequest::Cancel { answer } => {
                let reason = "cancelled from outside (landfall set --cancel)";
                self.give_up(Outcome::Cancelled, reason.to_owned()).await;
                // Whoever asked may be gone; it is done all the same.
                let _ = answer.send(ControlAnswer::Cancelling);
            }
        }
    }

    /// Puts what was demanded since the last look in force. Gives all that is demanded now, if that
    /// has changed.
    pub(super) async fn heed(&mut self, status: Status) -> Option<Demands> {
        let mut changed = false;
        for (demands, answer) in mem::take(&mut self.waiting) {
            if answer.is_closed() {
                continue;
            }
            let was = self.observer.settings().clone();
            let mut now = was.clone();
            demands.into_iter().for_each(|demand| now.apply(demand));
            let outcome = self.put_in_force(&was, &now, status).await;
            changed |= outcome.is_ok() && was != now;
            let _ = answer.send(match outcome {
                Ok(()) => ControlAnswer::Set { was, now },
                Err(reason) => ControlAnswer::Refused { reason },
            });
        }
        changed.then(|| self.observer.settings().clone())
    }

    async fn put_in_force(
        &mut self,
        was: &Demands,
        now: &Demands,
        status: Status,
    ) -> Result<(), String> {
        if let Some(giving_up) = &self.giving_up {
            return Err(format!("the migration is being given up: {}", giving_up.reason));
        }
        if !matches!(status, Status::Setup | Status::Active) {
            return Err("it is too late: the guest is on its way over".to_owned());
        }
        let (before, asked) = (&was.requirements, &now.requirements);
        self.hands.demand(&mut self.source, before, asked, self.shipped.is_some()).await?;
        if asked.max_stall != before.max_stall {
            self.shipped = None;
        }
        let tighter = |requirement| changes::is_tighter(before, asked, requirement);
        if tighter(Requirement::MaxBandwidth) {
            self.peak.restart();
        }
        if tighter(Requirement::MaxStall) {
            self.account.reset_stall_verdict();
        }
        if tighter(Requirement::MinCpu) {
            self.account.reset_share_verdict();
        }
        self.changes.extend(changes::between(was, now, self.now().as_secs_f64()));
        self.observer.set_settings(now.clone());
        Ok(())
    }

    /// Says how it stands to whoever asks.
    pub(super) fn tell(&self, decided: &Decided) {
        if let Some(control) = &self.control {
            control.publish_progress(self.observer.settings(), decided.glance());
        }
    }
}

impl Decided<'_> {
    /// The same, for people.
    pub fn glance(&self) -> ProgressSnapshot {
        ProgressSnapshot::of(self.view, self.done, self.time_left, &self.decision.reason)
    }
}
