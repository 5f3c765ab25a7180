//! What the operator asks for while the migration goes on (`landfall set`, the page): taken up at the
//! next sample.

use std::mem;

use landfall_core::report::Outcome;
use landfall_core::requirements::{Setting, Settings};
use landfall_core::session::{Observation, SettingsProposal, SettingsRefusal};
use landfall_core::telemetry::sample::Status;
use tokio::sync::oneshot;

use super::Driver;
use super::actuator::ActionError;
use crate::control::server::{ControlServer, ControlServerError, SteeringRequest};
use crate::control::{ControlAnswer, SteeredMigration};
use crate::procfs::Process;
use crate::stdio::eprint_line;

/// A change of settings that waits for the next sample, and where to answer.
pub(super) type PendingChange = (Vec<Setting>, oneshot::Sender<ControlAnswer>);

/// Why settings were not changed.
#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error(transparent)]
    Refused(#[from] SettingsRefusal),
    #[error(transparent)]
    Action(#[from] ActionError),
}

/// Returns the next request; waits without end where there is no control socket.
pub(super) async fn next_request(control: &mut Option<ControlServer>) -> SteeringRequest {
    if let Some(server) = control
        && let Some(request) = server.next_request().await
    {
        return request;
    }
    std::future::pending().await
}

/// Listens for requests. Where that cannot be had, the migration goes on without.
pub(super) fn listen(process: Process, steered: SteeredMigration) -> Option<ControlServer> {
    let problem = |error: &ControlServerError| {
        eprint_line(&format!("landfall: landfall set will not find this migration: {error}"));
    };
    ControlServer::listen(process, steered).inspect_err(problem).ok()
}

impl Driver {
    /// Takes a request in. Changes wait for the next sample, which comes within 100 ms: requests
    /// without end do not make the loop ask QEMU more often.
    pub(super) async fn on_request(&mut self, request: SteeringRequest) {
        match request {
            SteeringRequest::Set { settings, answer } => {
                // Where QEMU does not answer there is no next sample, and those who asked give up.
                self.pending_changes.retain(|(_, answer)| !answer.is_closed());
                self.pending_changes.push((settings, answer));
            }
            SteeringRequest::Cancel { answer } => {
                let reason = "cancelled from outside (landfall set --cancel)".to_owned();
                self.abort(Outcome::Cancelled, reason).await;
                // The one who asked may be gone; it is done all the same.
                let _ = answer.send(ControlAnswer::Cancelling);
            }
        }
    }

    /// Puts the changes that wait in force. Returns all that is asked for now, if that has changed.
    pub(super) async fn apply_pending_changes(&mut self, status: Status) -> Option<Settings> {
        let mut changed = false;
        for (settings, answer) in mem::take(&mut self.pending_changes) {
            if answer.is_closed() {
                continue;
            }
            let _ = answer.send(match self.apply_change(settings, status).await {
                Ok(SettingsProposal { before, after }) => {
                    changed |= before != after;
                    ControlAnswer::Set { was: before, now: after }
                }
                Err(error) => ControlAnswer::Refused { reason: error.to_string() },
            });
        }
        changed.then(|| self.session.settings().clone())
    }

    async fn apply_change(
        &mut self,
        settings: Vec<Setting>,
        status: Status,
    ) -> Result<SettingsProposal, ChangeError> {
        let proposal = self.session.propose(settings, status)?;
        let (before, after) = (&proposal.before.requirements, &proposal.after.requirements);
        let shipping = self.session.is_shipping();
        self.actuator.apply_requirements(&mut self.source, before, after, shipping).await?;
        self.session.accept(&proposal, self.now());
        Ok(proposal)
    }

    /// Shows those who ask how it stands.
    pub(super) fn publish_progress(&self, observation: &Observation) {
        if let Some(control) = &self.control {
            control.publish_progress(self.session.settings(), observation.progress());
        }
    }
}
