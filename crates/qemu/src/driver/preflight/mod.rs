//! Before the start: looks at everything, changes nothing, and refuses with the reason and remedy.

mod ends;
mod jobs;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use landfall_core::ending::Obligations;
use landfall_core::policy::Needs;
use landfall_core::report::Outcome;
use landfall_core::report::losses::LossMeter;
use landfall_core::session::preflight::{self, PolicyRefusal};
use landfall_core::session::{Session, SessionConfig};
use landfall_core::switch_over;
use landfall_core::telemetry::sample::Sample;
use landfall_core::telemetry::view::Levers;
use landfall_core::units::Moment;

pub use ends::{EndsDiffer, EndsDifference};
pub use jobs::OtherWork;

use super::actuator::{ActionError, Actuator, LockedVcpus};
use super::counters_budget::CountersBudget;
use super::destination_events::DestinationEvents;
use super::gate::Gate;
use super::{Driver, MigrationRequest, Refusal, requests};
use crate::cgroup;
use crate::control::{self, GuestIdentity, SteeredMigration};
use crate::end_runner::DestinationMonitor;
use crate::identity::find_guest_process;
use crate::lock::GuestLock;
use crate::monitor::{self, MigrationParameters, QemuMonitor, RunState};
use crate::qmp::{QmpError, QmpEvents};
use crate::rollback::Rollback;
use crate::rollback::record::{RecordError, limits_file};
use ends::EndsError;
use jobs::JobsError;

/// How long the guest's demand for CPU is watched before the start.
const DEMAND_WATCH: Duration = Duration::from_millis(100);

/// A migration that can be started; nothing has been changed for it yet.
pub(super) struct CheckedRequest {
    request: MigrationRequest,
    source: QemuMonitor,
    events: QmpEvents,
    destination: Option<(QemuMonitor, QmpEvents)>,
    vcpus: LockedVcpus,
    levers: Levers,
    found: MigrationParameters,
    /// Disk mirrors that other programs complete at the switch-over.
    mirrors: Vec<String>,
    losses: LossMeter,
    guest: GuestIdentity,
}

/// Looks at everything, and changes nothing.
pub(super) async fn check(mut request: MigrationRequest) -> Result<CheckedRequest, Refusal> {
    let needs = request.policy.needs();
    let policy = || request.policy.name().to_owned();
    if needs.post_copy && !request.post_copy {
        return Err(PolicyRefusal::PostCopyNotAllowed { policy: policy() }.into());
    }
    let (mut source, events) = QemuMonitor::connect(&request.source).await?;
    check_source(&mut source).await?;
    let mut tids = source.query_vcpu_threads().await?;
    // Several vCPUs on one thread (single-threaded TCG) are held, and counted, as one.
    let mut seen = BTreeSet::new();
    tids.retain(|tid| seen.insert(*tid));
    let process = find_guest_process(&source, &tids, request.qemu_pid)?;
    let lock = GuestLock::acquire(process)?;
    let (lever, quota) = match cgroup::find_cpu_lever(process.pid, &tids) {
        Ok(lever) => (Some(lever), true),
        Err(error) if needs.quota => {
            return Err(Refusal::VcpusCannotBeHeld { policy: policy(), error: Box::new(error) });
        }
        Err(_) => (None, false),
    };
    let mut destination = connect_destination(&request).await?;
    let levers = Levers {
        quota,
        stop: destination.is_some(),
        post_copy: needs.post_copy,
        tick: cgroup::scheduler_tick(),
    };
    let MigrationRequest { policy, settings, prior, .. } = &mut request;
    preflight::look_ahead(&mut **policy, settings, levers, prior, tids.len())?;
    let found = source.query_migration_parameters().await?;
    if let Some((destination, _)) = &mut destination {
        let ends = ends::check_ends(&mut source, &found, destination, needs.post_copy);
        ends.await.map_err(|error| match error {
            EndsError::Differ(differ) => Refusal::Ends(differ),
            EndsError::Monitor(error) => Refusal::Monitor(error),
        })?;
    }
    let mirrors =
        jobs::check_other_work(&mut source, &found).await.map_err(|error| match error {
            JobsError::Work(work) => Refusal::OtherWork(work),
            JobsError::Monitor(error) => Refusal::Monitor(error),
        })?;
    let vcpus = LockedVcpus { process, tids, lever, lock };
    let losses = watch_cpu_demand(&vcpus).await;
    let guest = GuestIdentity {
        pid: process.pid,
        name: source.query_guest_name().await?,
        source: control::absolute_address(&request.source),
    };
    Ok(CheckedRequest {
        request,
        source,
        events,
        destination,
        vcpus,
        levers,
        found,
        mirrors,
        losses,
        guest,
    })
}

async fn check_source(source: &mut QemuMonitor) -> Result<(), Refusal> {
    match source.query_run_state().await? {
        RunState::Running => {}
        RunState::InMigrate => {
            return Err(Refusal::SourceAwaitsGuest { source_address: source.address().clone() });
        }
        RunState::Stopped(state) => return Err(Refusal::NotRunning { state }),
    }
    let (migration, reasons) = source.query_migrate_and_blockers().await?;
    if !migration.status.is_over() {
        return Err(Refusal::BeingMigrated { status: migration.status });
    }
    match reasons.is_empty() {
        true => Ok(()),
        false => Err(Refusal::Blocked { reasons }),
    }
}

async fn connect_destination(
    request: &MigrationRequest,
) -> Result<Option<(QemuMonitor, QmpEvents)>, Refusal> {
    let Some(address) = &request.destination_qmp else { return Ok(None) };
    let (mut monitor, events) = QemuMonitor::connect(address).await?;
    match monitor.query_run_state().await? {
        RunState::InMigrate => Ok(Some((monitor, events))),
        state => Err(Refusal::DestinationNotWaiting {
            monitor: address.clone(),
            state,
            uri: request.destination.clone(),
        }),
    }
}

/// The parameters to migrate with. What the policy does not ask for is switched off, so that, for
/// example, an auto-converge that was left on does not throttle behind its back.
fn parameters_for(
    request: &MigrationRequest,
    needs: Needs,
    found: &MigrationParameters,
) -> MigrationParameters {
    let requirements = &request.settings.requirements;
    let mut ours = MigrationParameters::default();
    ours.set_capability(found, "auto-converge", needs.auto_converge);
    ours.set_capability(found, "dirty-limit", false);
    ours.set_capability(found, "postcopy-ram", needs.post_copy);
    // Otherwise as it was found: a program that moves the disks along may have set it.
    if request.gate.is_some() {
        ours.set_capability(found, "pause-before-switchover", true);
    }
    // The source then reports success only once the destination has said that it has everything.
    ours.set_capability(found, "return-path", monitor::supports_return_path(&request.destination));
    ours.set_downtime_limit(found, switch_over::limit(requirements.max_stall, None));
    if let Some(rate) = requirements.max_bandwidth {
        ours.set_max_bandwidth(found, rate.per_second());
    }
    ours
}

/// Parameters that are set, and what they were before.
#[derive(Default)]
pub(super) struct ChangedParameters {
    pub(super) set: MigrationParameters,
    pub(super) original: MigrationParameters,
}

impl ChangedParameters {
    /// Returns whether nothing was set.
    pub(super) fn is_empty(&self) -> bool {
        self.set == MigrationParameters::default()
    }

    /// Puts back what is still as it was set here.
    ///
    /// # Errors
    /// QEMU does not take it, or does not answer.
    pub(super) async fn restore(&self, monitor: &mut QemuMonitor) -> Result<(), QmpError> {
        let Self { set, original } = self;
        if self.is_empty() {
            return Ok(());
        }
        let now = monitor.query_migration_parameters().await?;
        let set = std::slice::from_ref(set);
        monitor.set_migration_parameters(&original.still_to_restore(&now, set)).await
    }
}

/// What is set at the destination for post-copy.
async fn destination_parameters(
    needs: Needs,
    destination: &mut QemuMonitor,
) -> Result<ChangedParameters, QmpError> {
    let mut changed = ChangedParameters::default();
    if needs.post_copy {
        let found = destination.query_migration_parameters().await?;
        changed.set.set_capability(&found, "postcopy-ram", true);
        changed.original = MigrationParameters {
            capabilities: changed.set.original_values(&found).capabilities,
            ..MigrationParameters::default()
        };
    }
    Ok(changed)
}

/// Reads the vCPUs' counters twice, so that it is known how much CPU the guest wants.
async fn watch_cpu_demand(vcpus: &LockedVcpus) -> LossMeter {
    let sample = |at| Sample { at, migration: None, vcpus: vcpus.read_counters() };
    let mut losses = LossMeter::default();
    losses.on_sample(&sample(Moment::START));
    tokio::time::sleep(DEMAND_WATCH).await;
    losses.on_sample(&sample(Moment(DEMAND_WATCH)));
    losses.restart();
    losses
}

impl CheckedRequest {
    /// Sets up and starts; what was set up is put back where the start is refused.
    pub(super) async fn start(self) -> Result<Driver, Refusal> {
        let CheckedRequest { request, mut source, events, mut destination, mut vcpus, .. } = self;
        let CheckedRequest { levers, found, mirrors, losses, guest, .. } = self;
        let needs = request.policy.needs();
        let ours = parameters_for(&request, needs, &found);
        if let Some(lever) = &mut vcpus.lever {
            let path = limits_file(vcpus.process);
            let failed =
                |source| Refusal::NoRecord(RecordError::File { path: path.clone(), source });
            lever.keep_journal(&path).map_err(failed)?;
        }
        let theirs = match &mut destination {
            Some((monitor, _)) => destination_parameters(needs, monitor).await?,
            None => ChangedParameters::default(),
        };
        let rollback = Rollback {
            cgroup_steps: vcpus.lever.as_ref().map(|lever| lever.undo_steps()).unwrap_or_default(),
            process: vcpus.process,
            source: request.source.clone(),
            destination: request.destination_qmp.clone(),
            original: ours.original_values(&found),
            set: Vec::new(),
            obligations: Obligations::default(),
        };
        let mut actuator = Actuator::new(vcpus, found, rollback, &request.guardian)?;
        if let Some((destination, _)) = &mut destination {
            destination.set_migration_parameters(&theirs.set).await?;
        }
        let uri = &request.destination;
        let started = match start_migration(&mut source, &mut actuator, &ours, uri).await {
            Ok(started) => started,
            Err(refusal) => {
                let refusal = match &mut destination {
                    Some((monitor, _)) => restore_destination(monitor, &theirs, refusal).await,
                    None => refusal,
                };
                return Err(undo_start(&mut source, &mut actuator, refusal).await);
            }
        };
        let steered = SteeredMigration {
            guest,
            destination: request.destination,
            policy: request.policy.name().to_owned(),
            settings: request.settings.clone(),
            progress: None,
        };
        let config = SessionConfig {
            settings: request.settings,
            levers,
            prior: &request.prior,
            forecast: request.forecast,
            vcpus: actuator.vcpu_count(),
        };
        let mut session = Session::new(config, request.policy)
            .with_losses(losses)
            .with_switch_over_deadline(request.switch_over_deadline);
        if let Some(unanswered) = started.unanswered {
            // QEMU may start it at any time from now on.
            session.abort(Outcome::Failed, unanswered.to_string(), Moment::START);
        }
        let (destination, destination_events) = match destination {
            Some((monitor, events)) => {
                let events = DestinationEvents::of(&monitor, events);
                (DestinationMonitor::connected(monitor), events)
            }
            None => (DestinationMonitor::default(), DestinationEvents::default()),
        };
        Ok(Driver {
            started: started.at,
            source,
            events,
            destination,
            destination_events,
            destination_parameters: theirs,
            session,
            control: requests::listen(actuator.process(), steered),
            actuator,
            pending_changes: Vec::new(),
            query: None,
            next_query: Instant::now(),
            last_tick: Instant::now(),
            counters: CountersBudget::default(),
            ending: None,
            found: None,
            gate: Gate::new(request.gate),
            was_stopped: false,
            was_waiting: false,
            mirrors,
        })
    }
}

/// A migration that was started, as far as is known.
struct StartedMigration {
    at: Instant,
    /// QEMU has not said whether it has started it.
    unanswered: Option<QmpError>,
}

async fn start_migration(
    source: &mut QemuMonitor,
    actuator: &mut Actuator,
    ours: &MigrationParameters,
    uri: &str,
) -> Result<StartedMigration, Refusal> {
    // Another migration may have begun since it was checked.
    let (migration, _) = source.query_migrate_and_blockers().await?;
    if !migration.status.is_over() {
        return Err(Refusal::OvertakenByOther);
    }
    actuator.set_parameters(source, ours).await.map_err(|error| match error {
        ActionError::Monitor(error) => Refusal::Monitor(error),
        error => Refusal::GuardianLost(error.to_string()),
    })?;
    actuator
        .set_migration_started(true)
        .map_err(|error| Refusal::GuardianLost(error.to_string()))?;
    let at = Instant::now();
    match source.migrate(uri).await {
        Ok(()) => Ok(StartedMigration { at, unanswered: None }),
        Err(refused @ QmpError::Rejected { .. }) => Err(refused.into()),
        Err(unanswered) => Ok(StartedMigration { at, unanswered: Some(unanswered) }),
    }
}

/// Puts back what was set at the destination when the start was refused.
async fn restore_destination(
    destination: &mut QemuMonitor,
    theirs: &ChangedParameters,
    refusal: Refusal,
) -> Refusal {
    match theirs.restore(destination).await {
        Ok(()) => refusal,
        Err(error) => Refusal::NotPutBack {
            refusal: Box::new(refusal),
            problem: format!("The destination's capability postcopy-ram is left on: {error}"),
        },
    }
}

/// Puts back what was set when the start was refused.
async fn undo_start(
    source: &mut QemuMonitor,
    actuator: &mut Actuator,
    refusal: Refusal,
) -> Refusal {
    let withdrawn = actuator.set_migration_started(false);
    let problem = match (actuator.restore_parameters(source).await, withdrawn) {
        (Ok(()), Ok(())) => {
            actuator.disarm_guardian();
            return refusal;
        }
        (Err(error), _) => format!(
            "QEMU's migration settings could not be put back yet (landfall's guardian tries again): \
             {error}"
        ),
        (_, Err(error)) => format!("And {error}"),
    };
    Refusal::NotPutBack { refusal: Box::new(refusal), problem }
}
