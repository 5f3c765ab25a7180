//! One migration, from probe to report: what `landfall migrate` and every experiment have in common.
//!
//! The caller goes through it step by step, so that it can do its own things in between: ask hooks, show
//! the forecast, listen for a request to end.
//!
//! ```text
//! MigrationRun::new -> record_to -> probe -> steer  -> report
//!                                      \---> refuse -> report
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::report::Report;
use landfall_core::requirements::{Aggression, Requirements, Settings};
use landfall_qemu::driver::{self, Interrupts, MigrationRequest, SwitchOverGate, Tick};
use landfall_qemu::qmp::{QmpAddress, QmpError};
use landfall_script::Tell;
use landfall_sim::Expected;

use crate::policy_registry::NamedPolicy;
use crate::preflight::Preflight;
use crate::recording::{CreateError, Recorder, RecordingStart};

/// What to migrate, where to, and how.
#[derive(Debug, Clone)]
pub struct RunConfig {
    /// QMP monitor of the QEMU that the guest is to leave.
    pub source: QmpAddress,
    /// Migration URI at which the destination waits.
    pub destination: String,
    /// QMP monitor of the destination, if it can be reached.
    pub destination_qmp: Option<QmpAddress>,
    /// The process that the operator says the source's QEMU is.
    pub qemu_pid: Option<i32>,
    /// The requirements.
    pub requirements: Requirements,
    /// How fast against how gentle.
    pub aggression: Aggression,
    /// The policy that steers.
    pub policy: NamedPolicy,
    /// Whether the guest may run at the destination before all its memory is there.
    pub post_copy: bool,
    /// For how long QEMU may wait before the switch-over for another program.
    pub switch_over_deadline: Duration,
}

/// A migration before its start.
pub struct MigrationRun {
    policy: NamedPolicy,
    request: MigrationRequest,
    recorder: Option<Recorder>,
}

/// A migration after its end.
#[derive(Debug, Clone)]
pub struct FinishedRun {
    /// The report.
    pub report: Report,
    /// The requirements at the end; they may have been changed on the way.
    pub requirements: Requirements,
}

impl MigrationRun {
    /// Prepares a migration. `tell` is called at once when a script fails. This program has to know the
    /// guardian's subcommand ([`landfall_qemu::guardian::SUBCOMMAND`]): it is started again as guardian.
    pub fn new(config: RunConfig, tell: &Tell) -> MigrationRun {
        let RunConfig { policy, .. } = config;
        let request = MigrationRequest {
            source: config.source,
            destination: config.destination,
            destination_qmp: config.destination_qmp,
            qemu_pid: config.qemu_pid,
            settings: Settings { requirements: config.requirements, aggression: config.aggression },
            policy: policy.create(tell),
            post_copy: config.post_copy,
            prior: Prior::default(),
            forecast: None,
            // The file that runs, also where an upgrade has replaced it since: the two processes have to
            // understand each other.
            gate: None,
            switch_over_deadline: config.switch_over_deadline,
            guardian: PathBuf::from("/proc/self/exe"),
        };
        MigrationRun { policy, request, recorder: None }
    }

    /// Has a program of the operator asked before the switch-over.
    pub fn set_gate(&mut self, gate: Option<SwitchOverGate>) {
        self.request.gate = gate;
    }

    /// Records the migration into a file, which is created at once.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn record_to(&mut self, path: &Path) -> Result<(), CreateError> {
        let start = RecordingStart {
            policy: self.policy.name().to_owned(),
            script: self.policy.script_text(),
            aggression: self.request.settings.aggression,
            requirements: self.request.settings.requirements.clone(),
            prior: self.request.prior.clone(),
        };
        self.recorder = Some(Recorder::create(path, start)?);
        Ok(())
    }

    /// Probes the guest for about `budget` and makes the forecast; the policy starts with what was found.
    ///
    /// # Errors
    /// [`QmpError`]: the source's monitor cannot be reached.
    pub async fn probe(
        &mut self,
        budget: Duration,
    ) -> Result<(Preflight, Option<Expected>), QmpError> {
        let asked = &self.request.settings.requirements;
        let preflight =
            Preflight::probe(&self.request.source, self.request.qemu_pid, asked, budget).await?;
        let expected = preflight.forecast(&self.policy, asked, self.request.settings.aggression);
        self.request.forecast = expected.as_ref().and_then(|expected| expected.forecast);
        self.request.prior = preflight.prior.clone();
        if let Some(recorder) = &mut self.recorder {
            recorder.set_prior(&self.request.prior);
        }
        Ok((preflight, expected))
    }

    /// Ends the run before the migration has started, for a reason to be reported.
    pub fn refuse(self, reason: String) -> FinishedRun {
        let report = Report::refused(self.policy.name(), reason);
        if let Some(recorder) = self.recorder {
            recorder.finish(&report);
        }
        FinishedRun { report, requirements: self.request.settings.requirements }
    }

    /// Steers the migration to its end. `watch` sees every sample; a reason that comes by
    /// `interrupts` ends the migration.
    pub async fn steer(
        self,
        interrupts: &mut Interrupts,
        watch: &mut dyn FnMut(&Tick<'_>),
    ) -> FinishedRun {
        let MigrationRun { request, mut recorder, .. } = self;
        let mut requirements = request.settings.requirements.clone();
        let report = driver::migrate(request, interrupts, &mut |tick| {
            watch(tick);
            if let Some(changed) = tick.changed {
                requirements = changed.requirements.clone();
            }
            if let Some(recorder) = &mut recorder {
                recorder.write_tick(tick);
            }
        })
        .await;
        if let Some(recorder) = recorder {
            recorder.finish(&report);
        }
        FinishedRun { report, requirements }
    }
}
