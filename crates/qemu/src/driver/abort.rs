//! Giving a migration up, and a monitor that does not answer.

use std::time::{Duration, Instant};

use landfall_core::decision::Hold;
use landfall_core::report::Outcome;
use landfall_core::units::show_duration;

use super::{End, Steering};
use crate::migration_end;
use crate::qmp::PendingResponse;

/// A monitor that has not answered for so long beyond the blackout expected is taken to hang.
const HANG: Duration = Duration::from_secs(10);

/// A migration that is being given up and is not over after so long is left as it is, and said so.
const LEAVE: Duration = Duration::from_secs(40);

/// A monitor that has not answered for so long while vCPUs are held may be waiting for one of them.
const HELD_HANG: Duration = Duration::from_secs(3);

/// A migration that is to be ended with the guest at the source.
#[derive(Debug)]
pub(super) struct GivingUp {
    pub(super) outcome: Outcome,
    pub(super) reason: String,
    since: Instant,
    /// QEMU was told to cancel.
    told: bool,
}

impl GivingUp {
    fn now(outcome: Outcome, reason: String) -> Self {
        GivingUp { outcome, reason, since: Instant::now(), told: false }
    }
}

impl Steering {
    /// Ends the migration with the guest at the source; the loop goes on until it is over.
    pub(super) async fn give_up(&mut self, outcome: Outcome, reason: String) {
        self.let_go();
        self.giving_up.get_or_insert_with(|| GivingUp::now(outcome, reason));
        self.cancel().await;
    }

    /// Tells QEMU to cancel a migration that is being given up, unless the guest could then run
    /// twice. Tried again at every look: the monitor may have been busy.
    pub(super) async fn cancel(&mut self) {
        let Some(giving_up) = self.giving_up.as_mut().filter(|giving_up| !giving_up.told) else {
            return;
        };
        let destination = self.destination.as_mut().map(|(machine, _)| machine);
        let outcome = migration_end::cancel_migration(&mut self.source, destination).await;
        giving_up.told = matches!(outcome, Ok(migration_end::CancelOutcome::Requested));
    }

    /// A monitor that does not answer: lets the vCPUs go, in case it waits for one of them; then
    /// breaks the link, in case the final copy cannot get through; then gives the question up.
    pub(super) async fn mind_a_hang(&mut self) -> Result<(), End> {
        if let Some(giving_up) = self.giving_up.as_ref().filter(|it| it.since.elapsed() > LEAVE) {
            return Err(End::Stuck(format!(
                "{}; and it could not be cancelled for {}",
                giving_up.reason,
                show_duration(LEAVE)
            )));
        }
        let Some(age) = self.asked.as_ref().map(PendingResponse::age) else { return Ok(()) };
        if age > HELD_HANG && self.hands.holds().iter().any(|hold| matches!(hold, Hold::Quota(_))) {
            self.let_go();
        }
        // Breaking the link of a guest that fetches its pages would lose it.
        if age <= HANG + self.expected_blackout.saturating_mul(3)
            || self.link_broken
            || self.post_copied
        {
            return Ok(());
        }
        self.link_broken = true;
        let mut reason = format!("QEMU's monitor has not answered for {}", show_duration(age));
        if self.destination.is_none() && self.account.stopped_since().is_some() {
            reason += " in the final copy, and the guest stands still: if the destination is lost, \
                       end its QEMU or break the connection, and the guest goes on here (with \
                       --destination-qmp landfall can do that safely)";
        }
        self.giving_up.get_or_insert_with(|| GivingUp::now(Outcome::Failed, reason));
        let destination = self.destination.as_mut().map(|(machine, _)| machine);
        // Where this cannot be done safely, or is refused, there is nothing better than to wait on.
        let _ = migration_end::break_migration_link(&mut self.source, destination).await;
        Ok(())
    }
}
