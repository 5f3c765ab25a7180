//! The hands of the loop: carry a decision out, and know the way back before the way out.

use std::path::Path;

use landfall_core::decision::{Decision, Hold, Tuning};
use landfall_core::requirements::Requirements;
use landfall_core::switch_over;
use landfall_core::telemetry::sample::VcpuCounters;
use landfall_core::telemetry::view::Levers;

use crate::cgroup::CpuLever;
use crate::guardian::{Guardian, GuardianError};
use crate::lock::GuestLock;
use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::procfs::Process;
use crate::qmp::QmpError;
use crate::rollback::Rollback;
use crate::vcpus;

/// The guest's vCPUs on this host, locked for this landfall.
#[derive(Debug)]
pub(super) struct Vcpus {
    pub(super) process: Process,
    pub(super) tids: Vec<i32>,
    pub(super) lever: Option<CpuLever>,
    pub(super) lock: GuestLock,
}

impl Vcpus {
    pub(super) fn counters(&self) -> Vec<VcpuCounters> {
        vcpus::read_vcpu_counters(&self.tids, self.lever.as_ref())
    }
}

/// Everything through which the loop can act on a guest.
#[derive(Debug)]
pub(super) struct Hands {
    pub(super) process: Process,
    pub(super) way_back: Rollback,
    vcpus: Vcpus,
    levers: Levers,
    found: MigrationParameters,
    tuned: Option<MigrationParameters>,
    guardian: Option<Guardian>,
    holds: Vec<Hold>,
    still_held: Vec<String>,
}

impl Hands {
    /// Starts the guardian and entrusts it with the way back.
    ///
    /// # Errors
    /// In words, if no guardian can be had: nothing is changed without one.
    pub(super) fn new(
        vcpus: Vcpus,
        levers: Levers,
        found: MigrationParameters,
        way_back: Rollback,
        program: &Path,
    ) -> Result<Hands, String> {
        let no_guardian = |error: GuardianError| format!("{error}; nothing was changed");
        let mut guardian = Guardian::spawn(program).map_err(no_guardian)?;
        guardian.update(&way_back).map_err(no_guardian)?;
        let kept = vcpus.lock.close_on_exec();
        kept.map_err(|error| {
            format!("cannot keep the guest's lock: {error}; nothing was changed")
        })?;
        let holds = vec![Hold::Free; vcpus.tids.len()];
        let process = vcpus.process;
        Ok(Hands {
            process,
            way_back,
            vcpus,
            levers,
            found,
            tuned: None,
            guardian: Some(guardian),
            holds,
            still_held: Vec::new(),
        })
    }

    pub(super) fn levers(&self) -> Levers {
        self.levers
    }

    /// How the vCPUs are held now.
    pub(super) fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// Whether the guest stands still by our doing.
    pub(super) fn stopped(&self) -> bool {
        self.holds.contains(&Hold::Stopped)
    }

    pub(super) fn counters(&self) -> Vec<VcpuCounters> {
        self.vcpus.counters()
    }

    /// Says to the guardian that the migration under way is ours from now on, or is no more.
    ///
    /// # Errors
    /// In words: the guardian is gone.
    pub(super) fn begun(&mut self, begun: bool) -> Result<(), String> {
        self.way_back.migration_started = begun;
        self.update()
    }

    /// Holds the vCPUs as a decision says; writes nothing that is in force already.
    ///
    /// # Errors
    /// In words; the caller gives the migration up.
    pub(super) async fn hold(
        &mut self,
        source: &mut QemuMonitor,
        decision: &Decision,
    ) -> Result<(), String> {
        let wanted: Vec<Hold> =
            (0..self.vcpus.tids.len()).map(|vcpu| decision.hold(vcpu)).collect();
        if wanted == self.holds {
            return Ok(());
        }
        self.check_guardian()?;
        match (self.stopped(), wanted.contains(&Hold::Stopped)) {
            (false, true) => return self.stop(source).await,
            (true, true) => return Ok(()),
            (true, false) => self.go_on(source).await?,
            (false, false) => {}
        }
        for (vcpu, hold) in wanted.into_iter().enumerate() {
            if self.holds[vcpu] == hold || self.holds[vcpu].is_nearly(hold) {
                continue;
            }
            let Some(lever) = &mut self.vcpus.lever else { continue };
            let quota = if let Hold::Quota(quota) = hold { Some(quota) } else { None };
            lever
                .hold_vcpu(vcpu, quota)
                .map_err(|error| format!("vCPU {vcpu} cannot be held: {error}"))?;
            self.holds[vcpu] = hold;
        }
        Ok(())
    }

    async fn stop(&mut self, source: &mut QemuMonitor) -> Result<(), String> {
        self.let_go();
        self.way_back.guest_stopped = true;
        self.update()?;
        source.stop().await.map_err(in_words)?;
        self.holds.fill(Hold::Stopped);
        Ok(())
    }

    async fn go_on(&mut self, source: &mut QemuMonitor) -> Result<(), String> {
        source.cont().await.map_err(in_words)?;
        self.went_on();
        self.update()
    }

    /// Changes QEMU's settings as a decision says; writes nothing that is in force already.
    ///
    /// # Errors
    /// In words; the caller gives the migration up.
    pub(super) async fn tune(
        &mut self,
        source: &mut QemuMonitor,
        tuning: Tuning,
    ) -> Result<(), String> {
        let mut settings = MigrationParameters::default();
        if let Some(limit) = tuning.downtime_limit {
            settings.set_downtime_limit(&self.found, limit);
        }
        if let Some(rate) = tuning.max_bandwidth {
            settings.set_max_bandwidth(&self.found, rate.per_second());
        }
        if let Some(rate) = tuning.switchover_bandwidth {
            settings.set_switchover_bandwidth(&self.found, rate.per_second());
        }
        if settings == MigrationParameters::default() || self.tuned.as_ref() == Some(&settings) {
            return Ok(());
        }
        source.set_migration_parameters(&settings).await.map_err(in_words)?;
        self.tuned = Some(settings);
        Ok(())
    }

    /// Has QEMU keep what is demanded now instead of what was: its bandwidth, and the blackout for
    /// which it switches over by itself, unless a policy has set that, and sets it again at its next
    /// decision. One that was raised to ship the rest is not left so.
    ///
    /// # Errors
    /// In words; what QEMU does not take is not in force.
    pub(super) async fn demand(
        &mut self,
        source: &mut QemuMonitor,
        was: &Requirements,
        now: &Requirements,
        shipping: bool,
    ) -> Result<(), String> {
        let mut settings = MigrationParameters::default();
        if now.max_bandwidth != was.max_bandwidth {
            match now.max_bandwidth {
                Some(rate) => settings.set_max_bandwidth(&self.found, rate.per_second()),
                None => settings.restore_max_bandwidth(&self.found),
            }
        }
        let by_policy = self.tuned.as_ref().is_some_and(MigrationParameters::has_downtime_limit);
        if now.max_stall != was.max_stall && (shipping || !by_policy) {
            settings.set_downtime_limit(&self.found, switch_over::limit(now.max_stall, None));
        }
        if settings == MigrationParameters::default() {
            return Ok(());
        }
        source.set_migration_parameters(&settings).await.map_err(in_words)?;
        self.tuned = None;
        Ok(())
    }

    /// Lets all vCPUs go, by the same steps the guardian would take. What cannot be undone now can
    /// be tried again, and is the guardian's in the end.
    pub(super) fn let_go(&mut self) {
        let Some(lever) = &mut self.vcpus.lever else { return };
        self.still_held = lever.release_all().iter().map(ToString::to_string).collect();
        if !self.stopped() {
            self.holds.fill(Hold::Free);
        }
    }

    /// What could not be undone when the vCPUs were let go, in words.
    pub(super) fn still_held(&self) -> &[String] {
        &self.still_held
    }

    /// Notes that the guest was let go on after a stop of ours.
    pub(super) fn went_on(&mut self) {
        self.way_back.guest_stopped = false;
        self.holds.fill(Hold::Free);
    }

    /// All is put back: sends the guardian home.
    pub(super) fn dismiss(&mut self) {
        if let Some(guardian) = self.guardian.take() {
            guardian.disarm();
        }
    }

    fn update(&mut self) -> Result<(), String> {
        let guardian = self.guardian.as_mut().ok_or("there is no guardian")?;
        guardian.update(&self.way_back).map_err(|error| error.to_string())
    }

    /// Nothing is steered without a guardian that would undo it. One that does not watch any more
    /// was ended by somebody, or has set out on the way back because this process did not move.
    ///
    /// # Errors
    /// In words: it is gone.
    pub(super) fn check_guardian(&self) -> Result<(), String> {
        let watches = self.guardian.as_ref().is_some_and(Guardian::is_watching);
        let gone = "the guardian has ended its watch (somebody ended it, or landfall itself was \
                    stopped for seconds): nothing is held without one";
        watches.then_some(()).ok_or_else(|| gone.to_owned())
    }
}

fn in_words(error: QmpError) -> String {
    error.to_string()
}
