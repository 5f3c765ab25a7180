//! What the operator changes while the migration goes on.
//!
//! A change is taken up in two steps, for the hypervisor may refuse it: [`Session::propose`] says
//! what would be asked for, the driver has the hypervisor take it, and [`Session::accept`] puts it
//! in force.

use super::Session;
use crate::requirements::{Requirement, Setting, Settings, changes_between, is_tighter};
use crate::telemetry::sample::Status;
use crate::units::Moment;

/// A change of settings that may be put in force.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsProposal {
    /// What is asked for now.
    pub before: Settings,
    /// What would be.
    pub after: Settings,
}

/// Why settings cannot change now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsRefusal {
    /// The migration is being aborted.
    #[error("the migration is being given up: {0}")]
    Aborting(String),
    /// The guest is being switched over, or is at the destination already.
    #[error("it is too late: the guest is on its way over")]
    TooLate,
}

impl Session<'_> {
    /// What a change of settings comes to, for a migration with this status.
    ///
    /// # Errors
    /// [`SettingsRefusal`]: it is too late for a change.
    pub fn propose(
        &self,
        changed: impl IntoIterator<Item = Setting>,
        status: Status,
    ) -> Result<SettingsProposal, SettingsRefusal> {
        if let Some(abort) = self.aborted() {
            return Err(SettingsRefusal::Aborting(abort.reason.clone()));
        }
        if !matches!(status, Status::Setup | Status::Active) {
            return Err(SettingsRefusal::TooLate);
        }
        let before = self.settings().clone();
        let mut after = before.clone();
        changed.into_iter().for_each(|setting| after.apply(setting));
        Ok(SettingsProposal { before, after })
    }

    /// Puts a proposal in force that the hypervisor has taken.
    pub fn accept(&mut self, proposal: &SettingsProposal, at: Moment) {
        let SettingsProposal { before, after } = proposal;
        let (was, now) = (&before.requirements, &after.requirements);
        if now.max_stall != was.max_stall {
            self.shipping_since = None;
        }
        let tighter = |requirement| is_tighter(was, now, requirement);
        if tighter(Requirement::MaxBandwidth) {
            self.peak_rate.restart();
        }
        if tighter(Requirement::MaxStall) {
            self.losses.reset_stall_verdict();
        }
        if tighter(Requirement::MinCpu) {
            self.losses.reset_share_verdict();
        }
        self.changes.extend(changes_between(before, after, at.as_secs_f64()));
        self.observer.set_settings(after.clone());
    }
}
