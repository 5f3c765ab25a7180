//! Before the start: looks at everything, changes nothing, and refuses with the reason and remedy.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use landfall_core::model::prior::Prior;
use landfall_core::policy::{Needs, Policy};
use landfall_core::report::Forecast;
use landfall_core::report::losses::LossMeter;
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::switch_over;
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::sample::Sample;
use landfall_core::telemetry::view::Levers;
use landfall_core::units::Moment;

use super::Order;
use super::actuator::{Hands, Vcpus};
use crate::cgroup;
use crate::control::{self, GuestIdentity};
use crate::lock::GuestLock;
use crate::monitor::{self, MigrationParameters, QemuMonitor, RunState};
use crate::procfs::Process;
use crate::qmp::{QmpAddress, QmpEvents};
use crate::rollback::Rollback;
use crate::vcpus;

/// How long the guest's appetite for CPU is watched before the start.
const APPETITE: Duration = Duration::from_millis(100);

/// Why it was not started. The guest is as it was.
pub(super) struct Refusal(pub(super) String);

impl<T: std::fmt::Display> From<T> for Refusal {
    fn from(reason: T) -> Self {
        Refusal(reason.to_string())
    }
}

/// A migration that has just been started.
pub(super) struct Ready {
    pub(super) began: Instant,
    pub(super) source: QemuMonitor,
    pub(super) events: QmpEvents,
    pub(super) destination: Option<(QemuMonitor, QmpEvents)>,
    pub(super) hands: Hands,
    pub(super) policy: Box<dyn Policy>,
    pub(super) requirements: Requirements,
    pub(super) aggression: Aggression,
    pub(super) prior: Prior,
    pub(super) forecast: Option<Forecast>,
    pub(super) account: LossMeter,
    pub(super) guest: GuestIdentity,
    pub(super) uri: String,
}

/// A migration that can be started; nothing has been changed for it yet.
pub(super) struct Checked {
    order: Order,
    source: QemuMonitor,
    events: QmpEvents,
    destination: Option<(QemuMonitor, QmpEvents)>,
    vcpus: Vcpus,
    levers: Levers,
    found: MigrationParameters,
    account: LossMeter,
    guest: GuestIdentity,
}

/// Looks at everything, and changes nothing.
pub(super) async fn check(mut order: Order) -> Result<Checked, Refusal> {
    let needs = order.policy.needs();
    if needs.post_copy && !order.post_copy {
        return Err(format!(
            "policy {} needs --post-copy allow: from its start the guest is lost if the link or \
             either host fails",
            order.policy.name()
        )
        .into());
    }
    let (mut source, events) = QemuMonitor::connect(&order.source).await?;
    check_source(&mut source).await?;
    let mut tids = source.query_vcpu_threads().await?;
    // Several vCPUs on one thread (single-threaded TCG) are held, and counted, as one.
    let mut seen = BTreeSet::new();
    tids.retain(|tid| seen.insert(*tid));
    check_host(&order.source)?;
    let process = vcpus::find_qemu_process(&tids)?;
    check_peer(&source, process)?;
    let lock = GuestLock::acquire(process)?;
    let (lever, quota) = match cgroup::find_cpu_lever(process.pid, &tids) {
        Ok(lever) => (Some(lever), true),
        Err(error) if needs.quota => {
            return Err(format!("policy {} holds vCPUs: {error}", order.policy.name()).into());
        }
        Err(_) => (None, false),
    };
    let destination = connect_destination(&order).await?;
    let levers = Levers {
        quota,
        stop: destination.is_some(),
        post_copy: needs.post_copy,
        tick: cgroup::scheduler_tick(),
    };
    look_ahead(&mut order, levers, tids.len()).map_err(Refusal)?;
    let found = source.query_migration_parameters().await?;
    let vcpus = Vcpus { process, tids, lever, lock };
    let account = watch_appetite(&vcpus).await;
    let guest = GuestIdentity {
        pid: process.pid,
        name: source.query_guest_name().await?,
        source: control::absolute_address(&order.source),
    };
    Ok(Checked { order, source, events, destination, vcpus, levers, found, account, guest })
}

/// Asks the policy whether it would start, where there is anything known to tell it by.
fn look_ahead(order: &mut Order, levers: Levers, vcpus: usize) -> Result<(), String> {
    let Some(contents) = order.prior.contents else { return Ok(()) };
    let asked = order.requirements.clone();
    let observer = Observer::new(asked, order.aggression, levers, &order.prior);
    order.policy.preflight(&observer.view_before_start(contents, vcpus))
}

/// Two QEMUs, one of which made the socket while the other has the threads it names, are not one:
/// the ids come from another PID namespace and name the wrong guest's threads.
fn check_peer(source: &QemuMonitor, process: Process) -> Result<(), Refusal> {
    match source.peer_pid().map(|pid| vcpus::find_qemu_process(&[pid])) {
        Some(Ok(peer)) if peer != process => Err(Refusal(format!(
            "the monitor {} belongs to QEMU process {}, but the thread ids it gives are those of QEMU \
             process {}: QEMU runs in another PID namespace; run landfall in that one",
            source.address(),
            peer.pid,
            process.pid
        ))),
        _ => Ok(()),
    }
}

/// Thread ids that a monitor on another host names are those of other threads here.
fn check_host(source: &QmpAddress) -> Result<(), Refusal> {
    match source {
        QmpAddress::Unix(_) => Ok(()),
        QmpAddress::Tcp(host_port) => {
            let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
            let here = host == "localhost" || host.starts_with("127.") || host == "[::1]";
            here.then_some(()).ok_or_else(|| {
                Refusal(format!(
                    "the monitor tcp:{host_port} is on another host: landfall holds the guest's \
                     threads, so it has to run where QEMU runs"
                ))
            })
        }
    }
}

async fn check_source(source: &mut QemuMonitor) -> Result<(), Refusal> {
    match source.query_run_state().await? {
        RunState::Running => {}
        RunState::InMigrate => {
            return Err(format!(
                "the QEMU at {} waits for an incoming migration, so it has no guest to give: are \
                 SOURCE and DESTINATION the wrong way round?",
                source.address()
            )
            .into());
        }
        RunState::Stopped(word) => {
            return Err(format!(
                "the guest is not running (QEMU says {word:?}): there is nothing to steer; resume it \
                 first (QMP cont), or move it as it is with QEMU's own migrate"
            )
            .into());
        }
    }
    let (migration, blockers) = source.query_migrate_and_blockers().await?;
    if !migration.status.is_over() {
        return Err(format!(
            "the guest is being migrated already (by somebody else; QEMU says {:?}): wait for that \
             to end, or cancel it (QMP migrate_cancel)",
            migration.status
        )
        .into());
    }
    if !blockers.is_empty() {
        return Err(format!(
            "QEMU cannot migrate this guest: {}; detach the device, or move the guest shut down",
            blockers.join("; ")
        )
        .into());
    }
    Ok(())
}

async fn connect_destination(order: &Order) -> Result<Option<(QemuMonitor, QmpEvents)>, Refusal> {
    let Some(address) = &order.destination_qmp else { return Ok(None) };
    let (mut machine, events) = QemuMonitor::connect(address).await?;
    match machine.query_run_state().await? {
        RunState::InMigrate => Ok(Some((machine, events))),
        state => Err(format!(
            "the QEMU at {address} does not wait for a migration (it is {state}): start it with \
             -incoming {}",
            order.destination
        )
        .into()),
    }
}

/// The settings to migrate with. What the policy does not ask for is switched off, so that, for
/// example, an auto-converge left on by somebody does not throttle behind its back.
fn our_settings(order: &Order, needs: Needs, found: &MigrationParameters) -> MigrationParameters {
    let mut ours = MigrationParameters::default();
    ours.set_capability(found, "auto-converge", needs.auto_converge);
    ours.set_capability(found, "dirty-limit", false);
    ours.set_capability(found, "postcopy-ram", needs.post_copy);
    ours.set_capability(found, "pause-before-switchover", false);
    // The source then reports success only once the destination has said that it has everything.
    ours.set_capability(found, "return-path", monitor::supports_return_path(&order.destination));
    ours.set_downtime_limit(found, switch_over::limit(order.requirements.max_stall, None));
    if let Some(rate) = order.requirements.max_bandwidth {
        ours.set_max_bandwidth(found, rate.per_second());
    }
    ours
}

/// Reads the vCPUs' counters twice, so that it is known how much CPU the guest wants.
async fn watch_appetite(vcpus: &Vcpus) -> LossMeter {
    let mut account = LossMeter::default();
    account.on_sample(&Sample { at: Moment::START, migration: None, vcpus: vcpus.counters() });
    tokio::time::sleep(APPETITE).await;
    account.on_sample(&Sample { at: Moment(APPETITE), migration: None, vcpus: vcpus.counters() });
    account.restart();
    account
}

impl Checked {
    /// Sets up and starts; what was set up is put back where the start is refused.
    pub(super) async fn start(self) -> Result<Ready, Refusal> {
        let Checked { order, mut source, events, mut destination, vcpus, .. } = self;
        let Checked { levers, found, account, guest, .. } = self;
        let needs = order.policy.needs();
        let ours = our_settings(&order, needs, &found);
        let way_back = Rollback {
            cgroup_steps: vcpus.lever.as_ref().map(|lever| lever.undo_steps()).unwrap_or_default(),
            process: vcpus.process,
            source: order.source.clone(),
            parameters: ours.original_values(&found),
            destination: order.destination_qmp.clone(),
            migration_started: false,
            guest_stopped: false,
        };
        let mut hands = Hands::new(vcpus, levers, found, way_back, &order.guardian)?;
        if needs.post_copy
            && let Some((destination, _)) = &mut destination
        {
            let known = destination.query_migration_parameters().await?;
            let mut theirs = MigrationParameters::default();
            theirs.set_capability(&known, "postcopy-ram", true);
            destination.set_migration_parameters(&theirs).await?;
        }
        match begin(&mut source, &mut hands, &ours, &order.destination).await {
            Ok(began) => Ok(Ready {
                began,
                source,
                events,
                destination,
                hands,
                policy: order.policy,
                requirements: order.requirements,
                aggression: order.aggression,
                prior: order.prior,
                forecast: order.forecast,
                account,
                guest,
                uri: order.destination,
            }),
            Err(refusal) => Err(take_back(&mut source, &mut hands, refusal).await),
        }
    }
}

async fn begin(
    source: &mut QemuMonitor,
    hands: &mut Hands,
    ours: &MigrationParameters,
    uri: &str,
) -> Result<Instant, Refusal> {
    // Somebody else may have begun since it was checked.
    let (migration, _) = source.query_migrate_and_blockers().await?;
    if !migration.status.is_over() {
        return Err("somebody else has begun to migrate the guest just now".into());
    }
    source.set_migration_parameters(ours).await?;
    hands.begun(true)?;
    let began = Instant::now();
    source.migrate(uri).await?;
    Ok(began)
}

/// Puts back what was set when the start was refused.
async fn take_back(source: &mut QemuMonitor, hands: &mut Hands, refusal: Refusal) -> Refusal {
    let settings = hands.way_back.parameters.clone();
    let not_ours = hands.begun(false);
    match (source.set_migration_parameters(&settings).await, not_ours) {
        (Ok(()), Ok(())) => {
            hands.dismiss();
            refusal
        }
        (Err(error), _) => Refusal(format!(
            "{}. QEMU's migration settings could not be put back: {error}",
            refusal.0
        )),
        (_, Err(error)) => Refusal(format!("{}. And {error}", refusal.0)),
    }
}
