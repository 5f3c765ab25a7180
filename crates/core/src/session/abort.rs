//! Aborting a migration, and a monitor that does not answer.

use std::time::Duration;

use super::{Action, Session, SessionEnd};
use crate::decision::Hold;
use crate::report::Outcome;
use crate::telemetry::sample::Status;
use crate::units::{Moment, show_duration};

/// A monitor that has not answered for this long beyond the expected downtime counts as hanging.
const HANG: Duration = Duration::from_secs(10);

/// An aborted migration that is not over after this long is left as it is, and reported.
const ABORT_PATIENCE: Duration = Duration::from_secs(40);

/// The same for one that the hypervisor says it is cancelling: QEMU 7.2 does that for as long as the kernel
/// tries to connect, 130 s.
const CANCELLING_PATIENCE: Duration = Duration::from_secs(180);

/// A monitor that has not answered for this long while vCPUs are held may be waiting for one of them.
const HANG_WHILE_HELD: Duration = Duration::from_secs(3);

/// An abort: the migration is to end with the guest at the source.
#[derive(Debug, Clone, PartialEq)]
pub struct Abort {
    /// The outcome to report if it ends so.
    pub outcome: Outcome,
    /// Why it is aborted.
    pub reason: String,
    since: Moment,
    /// The hypervisor has taken the request to cancel.
    pub(super) requested: bool,
}

impl Session<'_> {
    /// Ends the migration with the guest at the source; the session continues until it is over. The
    /// first reason counts.
    pub fn abort(&mut self, outcome: Outcome, reason: String, at: Moment) {
        if self.abort.is_none() {
            // What the same sample has just decided is not begun any more.
            self.actions.retain(|action| matches!(action, Action::ContinueGuest));
            self.actions.push_back(Action::ReleaseAll);
            self.abort = Some(Abort { outcome, reason, since: at, requested: false });
        }
        self.retry_cancel();
    }

    /// Returns why the migration is aborted, if it is.
    pub fn aborted(&self) -> Option<&Abort> {
        self.abort.as_ref()
    }

    /// Asks to cancel an aborted migration, unless that was done or waits to be.
    pub(super) fn retry_cancel(&mut self) {
        let open = self.abort.as_ref().is_some_and(|abort| !abort.requested);
        if open && !self.actions.contains(&Action::Cancel) {
            self.actions.push_back(Action::Cancel);
        }
    }

    /// The monitor owes an answer for `silent_for`; zero where it owes none. Frees the vCPUs, in case
    /// it waits for one of them; then breaks the link, in case the final copy cannot get through;
    /// and gives up on an abort that does not come to an end.
    ///
    /// `can_fence` says whether the destination's monitor is known.
    pub fn check_monitor_stall(&mut self, now: Moment, silent_for: Duration, can_fence: bool) {
        let is_cancelling =
            self.last_migration().is_some_and(|last| last.status == Status::Cancelling);
        let patience = if is_cancelling { CANCELLING_PATIENCE } else { ABORT_PATIENCE };
        if let Some(abort) = self.abort.as_ref().filter(|it| now.since(it.since) > patience) {
            self.end = Some(SessionEnd::Stuck(format!(
                "{}; and it could not be cancelled for {}",
                abort.reason,
                show_duration(patience)
            )));
            return;
        }
        let held = self.holds.iter().any(|hold| matches!(hold, Hold::Quota(_)));
        if silent_for > HANG_WHILE_HELD && held {
            self.actions.push_back(Action::ReleaseAll);
        }
        // Breaking the link of a guest that fetches its pages would lose it.
        let patience = HANG.saturating_add(self.expected_downtime.saturating_mul(3));
        if silent_for <= patience || self.link_broken || self.post_copy {
            return;
        }
        self.link_broken = true;
        let mut reason =
            format!("QEMU's monitor has not answered for {}", show_duration(silent_for));
        if !can_fence && self.losses.stopped_since().is_some() {
            reason += " in the final copy, and the guest stands still: if the destination is lost, \
                       end its QEMU or break the connection, and the guest goes on here (with \
                       --destination-qmp landfall can do that safely)";
        }
        // The monitor takes no request to cancel now; it is asked at the next sample.
        let aborted = Abort { outcome: Outcome::Failed, reason, since: now, requested: false };
        self.abort.get_or_insert(aborted);
        self.actions.push_back(Action::BreakLink);
    }
}
