//! Carries a session's actions out, and knows how to undo each before it is done.

use std::path::Path;

use landfall_core::decision::{Hold, Tuning};
use landfall_core::ending::Obligations;
use landfall_core::requirements::Requirements;
use landfall_core::session::Action;
use landfall_core::switch_over;
use landfall_core::telemetry::sample::VcpuCounters;

use super::refusal::Refusal;
use crate::cgroup::{CgroupError, CpuLever};
use crate::guardian::{Guardian, GuardianError};
use crate::lock::GuestLock;
use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::procfs::Process;
use crate::qmp::{QmpError, QmpEvents};
use crate::rollback::Rollback;
use crate::rollback::record::RollbackRecord;
use crate::vcpus;

/// The guest's vCPUs on this host, locked for this landfall.
#[derive(Debug)]
pub(super) struct LockedVcpus {
    pub(super) process: Process,
    pub(super) tids: Vec<i32>,
    pub(super) lever: Option<CpuLever>,
    pub(super) lock: GuestLock,
}

impl LockedVcpus {
    pub(super) fn read_counters(&self) -> Vec<VcpuCounters> {
        vcpus::read_vcpu_counters(&self.tids, self.lever.as_ref())
    }
}

/// Why an action was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ActionError {
    /// The guardian does not watch any more: someone ended it, or it has set out to put everything
    /// back because this process did not move. Nothing is held without one.
    #[error(
        "the guardian has ended its watch (it was killed, or landfall itself was stopped for \
         seconds): nothing is held without one"
    )]
    GuardianGone,
    /// The guardian could not be told what to undo.
    #[error(transparent)]
    Guardian(#[from] GuardianError),
    /// The kernel did not take a quota.
    #[error("vCPU {vcpu} cannot be held: {error}")]
    Quota {
        /// Which vCPU.
        vcpu: usize,
        /// Why.
        error: CgroupError,
    },
    /// There is no control group by which the vCPUs could be held.
    #[error("vCPU {0} cannot be held: no control group was found for it")]
    NoLever(usize),
    /// A quota could not be lifted; it is tried again, and is the guardian's in the end.
    #[error("{0}")]
    StillHeld(String),
    /// QEMU did not do it, or does not say that it did.
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

/// Everything through which a guest can be acted on.
#[derive(Debug)]
pub(super) struct Actuator {
    vcpus: LockedVcpus,
    rollback: Rollback,
    /// The source was seen to be fenced.
    was_fenced: bool,
    record: RollbackRecord,
    /// QEMU's parameters as they were found.
    found: MigrationParameters,
    /// Those that were set last for the policy.
    tuned: Option<MigrationParameters>,
    guardian: Option<Guardian>,
    still_held: Vec<String>,
}

impl Actuator {
    /// Starts the guardian, gives it the rollback and writes that to a file: nothing is changed without
    /// either.
    ///
    /// # Errors
    /// No guardian can be had, or the file cannot be written.
    pub(super) fn new(
        mut vcpus: LockedVcpus,
        found: MigrationParameters,
        rollback: Rollback,
        program: &Path,
    ) -> Result<Actuator, Refusal> {
        let mut guardian = Guardian::spawn(program).map_err(Refusal::NoGuardian)?;
        vcpus.lock.close_on_exec().map_err(Refusal::LockNotKept)?;
        let record = RollbackRecord::of(vcpus.process);
        record.write(&rollback).map_err(Refusal::NoRecord)?;
        guardian.update(&rollback).map_err(Refusal::NoGuardian)?;
        Ok(Actuator {
            vcpus,
            rollback,
            was_fenced: false,
            record,
            found,
            tuned: None,
            guardian: Some(guardian),
            still_held: Vec::new(),
        })
    }

    /// The guest's QEMU.
    pub(super) fn process(&self) -> Process {
        self.vcpus.process
    }

    /// How many vCPUs can be held.
    pub(super) fn vcpu_count(&self) -> usize {
        self.vcpus.tids.len()
    }

    pub(super) fn read_counters(&self) -> Vec<VcpuCounters> {
        self.vcpus.read_counters()
    }

    /// Carries out one action. The driver ends migrations ([`Action::Cancel`], [`Action::BreakLink`]) itself,
    /// by the protocol for that.
    ///
    /// # Errors
    /// It was not done, or QEMU does not say that it was.
    pub(super) async fn carry_out(
        &mut self,
        action: Action,
        source: &mut QemuMonitor,
    ) -> Result<(), ActionError> {
        match action {
            Action::Hold { vcpu, hold } => self.hold_vcpu(vcpu, hold),
            Action::ReleaseAll => self.release_all(),
            Action::StopGuest => self.stop_guest(source).await,
            Action::ContinueGuest => self.continue_guest(source).await,
            Action::Tune(tuning) => self.tune(source, tuning).await,
            Action::StartPostCopy => self.start_post_copy(source).await,
            Action::Cancel | Action::BreakLink => Ok(()),
        }
    }

    fn hold_vcpu(&mut self, vcpu: usize, hold: Hold) -> Result<(), ActionError> {
        self.check_guardian()?;
        let quota = match hold {
            Hold::Quota(quota) => Some(quota),
            Hold::Free | Hold::Stopped => None,
        };
        match &mut self.vcpus.lever {
            Some(lever) => match lever.hold_vcpu(vcpu, quota) {
                Ok(_) => Ok(()),
                Err(error) => Err(ActionError::Quota { vcpu, error }),
            },
            None if quota.is_none() => Ok(()),
            None => Err(ActionError::NoLever(vcpu)),
        }
    }

    /// Lifts all quotas, by the same steps the guardian would take. What cannot be undone now can be
    /// tried again, and is the guardian's in the end.
    pub(super) fn release_all(&mut self) -> Result<(), ActionError> {
        let Some(lever) = &mut self.vcpus.lever else { return Ok(()) };
        self.still_held = lever.release_all().iter().map(ToString::to_string).collect();
        match self.still_held.is_empty() {
            true => Ok(()),
            false => Err(ActionError::StillHeld(self.still_held.join("; "))),
        }
    }

    /// What could not be undone when the quotas were lifted last, in words.
    pub(super) fn still_held(&self) -> &[String] {
        &self.still_held
    }

    async fn stop_guest(&mut self, source: &mut QemuMonitor) -> Result<(), ActionError> {
        self.check_guardian()?;
        // A vCPU that a quota keeps from running would answer late.
        let _ = self.release_all();
        self.rollback.obligations.guest_stopped = true;
        self.update_guardian()?;
        Ok(source.stop().await?)
    }

    async fn continue_guest(&mut self, source: &mut QemuMonitor) -> Result<(), ActionError> {
        source.cont().await?;
        self.rollback.obligations.guest_stopped = false;
        self.update_guardian()
    }

    async fn start_post_copy(&mut self, source: &mut QemuMonitor) -> Result<(), ActionError> {
        self.rollback.obligations.post_copy_requested = true;
        self.update_guardian()?;
        Ok(source.migrate_start_postcopy().await?)
    }

    /// Changes QEMU's parameters as a decision says; writes nothing that is in force already.
    async fn tune(&mut self, source: &mut QemuMonitor, tuning: Tuning) -> Result<(), ActionError> {
        let mut parameters = MigrationParameters::default();
        if let Some(limit) = tuning.downtime_limit {
            parameters.set_downtime_limit(&self.found, limit);
        }
        if let Some(rate) = tuning.max_bandwidth {
            parameters.set_max_bandwidth(&self.found, rate.per_second());
        }
        if let Some(rate) = tuning.switchover_bandwidth {
            parameters.set_switchover_bandwidth(&self.found, rate.per_second());
        }
        let in_force = self.tuned.as_ref() == Some(&parameters);
        if parameters == MigrationParameters::default() || in_force {
            return Ok(());
        }
        self.set_parameters(source, &parameters).await?;
        self.tuned = Some(parameters);
        Ok(())
    }

    /// Sets parameters of QEMU's migrations, which are put back later.
    ///
    /// # Errors
    /// QEMU does not take them, or does not say that it did; the guardian is gone.
    pub(super) async fn set_parameters(
        &mut self,
        source: &mut QemuMonitor,
        parameters: &MigrationParameters,
    ) -> Result<(), ActionError> {
        self.rollback.note_set(parameters);
        self.update_guardian()?;
        Ok(source.set_migration_parameters(parameters).await?)
    }

    /// Has QEMU keep what is asked for now instead of what was: its bandwidth, and the downtime for
    /// which it switches over by itself, unless a policy has set that, and sets it again at its next
    /// decision. One that was raised to ship the rest is not left so.
    ///
    /// # Errors
    /// What QEMU does not take is not in force.
    pub(super) async fn apply_requirements(
        &mut self,
        source: &mut QemuMonitor,
        before: &Requirements,
        after: &Requirements,
        shipping: bool,
    ) -> Result<(), ActionError> {
        let mut parameters = MigrationParameters::default();
        if after.max_bandwidth != before.max_bandwidth {
            match after.max_bandwidth {
                Some(rate) => parameters.set_max_bandwidth(&self.found, rate.per_second()),
                None => parameters.restore_max_bandwidth(&self.found),
            }
        }
        let by_policy = self.tuned.as_ref().is_some_and(MigrationParameters::has_downtime_limit);
        if after.max_stall != before.max_stall && (shipping || !by_policy) {
            parameters.set_downtime_limit(&self.found, switch_over::limit(after.max_stall, None));
        }
        if parameters == MigrationParameters::default() {
            return Ok(());
        }
        self.set_parameters(source, &parameters).await?;
        self.tuned = None;
        Ok(())
    }

    /// Puts QEMU's parameters back as they were found, where they are what landfall has set.
    ///
    /// # Errors
    /// QEMU does not take them.
    pub(super) async fn restore_parameters(
        &self,
        source: &mut QemuMonitor,
    ) -> Result<(), QmpError> {
        self.rollback.restore_parameters(source).await
    }

    // ---- The guardian --------------------------------------------------------------------------

    /// Connects to the source's monitor again.
    ///
    /// # Errors
    /// Those of [`Rollback::connect_source`].
    pub(super) async fn connect_source(
        &self,
    ) -> Result<Option<(QemuMonitor, QmpEvents)>, QmpError> {
        self.rollback.connect_source().await
    }

    /// What is owed to the guest.
    pub(super) fn obligations(&self) -> Obligations {
        self.rollback.obligations
    }

    /// Writes down what is owed from now on. A guardian that is gone cannot be told, but the file can.
    pub(super) fn persist(&mut self, obligations: Obligations) {
        self.was_fenced |= obligations.source_fenced;
        self.rollback.obligations = obligations;
        let _ = self.update_guardian();
    }

    /// Returns whether the source was seen to be fenced, so that what has arrived is paused.
    pub(super) fn was_fenced(&self) -> bool {
        self.was_fenced
    }

    /// Says to the guardian that the migration under way is landfall's from now on, or is no more.
    ///
    /// # Errors
    /// The guardian is gone.
    pub(super) fn set_migration_started(&mut self, started: bool) -> Result<(), ActionError> {
        self.rollback.obligations.migration_started = started;
        self.update_guardian()
    }

    /// All is put back: ends the guardian, and removes what was written down for later.
    pub(super) fn disarm_guardian(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.disarm();
        }
        let _ = self.record.remove();
        self.vcpus.lock.take_back();
    }

    /// # Errors
    /// [`ActionError::GuardianGone`].
    pub(super) fn check_guardian(&mut self) -> Result<(), ActionError> {
        let watches = self.guardian.as_mut().is_some_and(Guardian::is_watching);
        watches.then_some(()).ok_or(ActionError::GuardianGone)
    }

    /// The file is written first, so that it is never behind the guardian. Where it cannot be written any
    /// more, as on a full disk, the guardian alone knows the rest.
    fn update_guardian(&mut self) -> Result<(), ActionError> {
        let _ = self.record.write(&self.rollback);
        let guardian = self.guardian.as_mut().ok_or(ActionError::GuardianGone)?;
        Ok(guardian.update(&self.rollback)?)
    }
}
