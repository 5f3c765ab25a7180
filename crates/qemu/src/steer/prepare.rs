//! Before the start: looks at everything, changes nothing, and refuses with the reason and remedy.

use std::time::{Duration, Instant};

use landfall_core::account::Account;
use landfall_core::policy::{Needs, Policy};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::sample::Sample;
use landfall_core::units::Moment;
use landfall_core::view::Levers;

use super::Order;
use super::hands::{Hands, Vcpus};
use crate::cgroup;
use crate::guardian::WayBack;
use crate::lock::Lock;
use crate::machine::{self, Machine, RunState, Settings};
use crate::qmp::{Events, QmpError};
use crate::vcpus;

/// Part of the stall allowed that is kept for stopping the vCPUs, the device state and the
/// destination's start, which QEMU's downtime limit does not count. Measured: `docs/measurements/`.
const SWITCH_OVER: Duration = Duration::from_millis(60);

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
    pub(super) source: Machine,
    pub(super) events: Events,
    pub(super) destination: Option<(Machine, Events)>,
    pub(super) hands: Hands,
    pub(super) policy: Box<dyn Policy>,
    pub(super) requirements: Requirements,
    pub(super) aggression: Aggression,
    pub(super) account: Account,
}

/// Checks, sets up and starts.
pub(super) async fn prepare(order: Order) -> Result<Ready, Refusal> {
    machine::check_uri(&order.destination)?;
    let needs = order.policy.needs();
    if needs.post_copy && !order.post_copy {
        return Err(format!(
            "policy {} needs --post-copy allow: from its start the guest is lost if the link or \
             either host fails",
            order.policy.name()
        )
        .into());
    }
    let (mut source, events) = Machine::connect(&order.source).await?;
    check_source(&mut source).await?;
    let tids = source.vcpu_threads().await?;
    let process = vcpus::process_of(&tids)?;
    let lock = Lock::take(process)?;
    let (lever, quota) = match cgroup::survey(process.pid, &tids) {
        Ok(lever) => (Some(lever), true),
        Err(error) if needs.quota => {
            return Err(format!("policy {} holds vCPUs: {error}", order.policy.name()).into());
        }
        Err(_) => (None, false),
    };
    let mut destination = connect_destination(&order).await?;
    let levers = Levers {
        quota,
        stop: destination.is_some(),
        post_copy: needs.post_copy,
        tick: cgroup::least_honest_quota(),
    };

    let found = source.settings().await?;
    let ours = our_settings(&order, needs, &found);
    let way_back = WayBack {
        cgroup: lever.as_ref().map(|lever| lever.undo()).unwrap_or_default(),
        source: Some(order.source.clone()),
        settings: ours.way_back(&found),
        destination: order.destination_qmp.clone(),
        arrives_stopped: false,
    };
    let vcpus = Vcpus { process, tids, lever, _lock: lock };
    let hands = Hands::new(vcpus, levers, found, way_back, &order.guardian)?;
    let mut account = Account::default();
    watch_appetite(&hands, &mut account).await;

    let mut ready = Ready {
        began: Instant::now(),
        source,
        events,
        destination: destination.take(),
        hands,
        policy: order.policy,
        requirements: order.requirements,
        aggression: order.aggression,
        account,
    };
    match ready.start(&ours, needs, &order.destination).await {
        Ok(()) => Ok(ready),
        Err(error) => Err(ready.take_back(error).await),
    }
}

async fn check_source(source: &mut Machine) -> Result<(), Refusal> {
    match source.run_state().await? {
        RunState::Running => {}
        RunState::AwaitsMigration => {
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
    let migration = source.migration().await?;
    use landfall_core::sample::Status;
    if !migration.status.is_over() {
        return Err(format!(
            "the guest is being migrated already (by somebody else; QEMU says {:?}): wait for that \
             to end, or cancel it (QMP migrate_cancel)",
            migration.status
        )
        .into());
    }
    debug_assert_ne!(migration.status, Status::Active);
    let blockers = source.blockers().await?;
    if !blockers.is_empty() {
        return Err(format!(
            "QEMU cannot migrate this guest: {}; detach the device, or move the guest shut down",
            blockers.join("; ")
        )
        .into());
    }
    Ok(())
}

async fn connect_destination(order: &Order) -> Result<Option<(Machine, Events)>, Refusal> {
    let Some(address) = &order.destination_qmp else { return Ok(None) };
    let (mut machine, events) = Machine::connect(address).await?;
    match machine.run_state().await? {
        RunState::AwaitsMigration => Ok(Some((machine, events))),
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
fn our_settings(order: &Order, needs: Needs, found: &Settings) -> Settings {
    let mut ours = Settings::default();
    ours.capability(found, "auto-converge", needs.auto_converge);
    ours.capability(found, "postcopy-ram", needs.post_copy);
    ours.capability(found, "pause-before-switchover", false);
    // The source then reports success only once the destination has said that it has everything.
    ours.capability(found, "return-path", machine::is_socket(&order.destination));
    let stall = order.requirements.max_stall;
    ours.downtime_limit(found, stall.saturating_sub(SWITCH_OVER).max(stall / 2));
    if let Some(rate) = order.requirements.max_bandwidth {
        ours.max_bandwidth(found, rate.per_second());
    }
    ours
}

/// Reads the vCPUs' counters twice, so that it is known how much CPU the guest wants.
async fn watch_appetite(hands: &Hands, account: &mut Account) {
    let first = Sample { at: Moment::START, migration: None, vcpus: hands.counters() };
    account.take(&first);
    tokio::time::sleep(APPETITE).await;
    let second = Sample { at: Moment(APPETITE), migration: None, vcpus: hands.counters() };
    account.take(&second);
    account.restart();
}

impl Ready {
    async fn start(&mut self, ours: &Settings, needs: Needs, uri: &str) -> Result<(), QmpError> {
        if needs.post_copy
            && let Some((destination, _)) = &mut self.destination
        {
            let known = destination.settings().await?;
            let mut theirs = Settings::default();
            theirs.capability(&known, "postcopy-ram", true);
            destination.apply(&theirs).await?;
        }
        self.source.apply(ours).await?;
        self.began = Instant::now();
        self.source.begin(uri).await
    }

    /// Puts back what was set when the start was refused.
    async fn take_back(mut self, error: QmpError) -> Refusal {
        let settings = self.hands.way_back.settings.clone();
        match self.source.apply(&settings).await {
            Ok(()) => {
                self.hands.dismiss();
                Refusal(error.to_string())
            }
            Err(second) => {
                Refusal(format!("{error}; and its settings could not be put back: {second}"))
            }
        }
    }
}
