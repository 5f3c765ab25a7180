//! The steering loop: observes, decides, acts, records; and leaves nothing behind.
//!
//! - [`prepare`] looks at everything before anything is changed, and refuses with the reason.
//! - This file runs the migration: it polls, asks the policy, and hands its decision to the hands.
//! - [`hands`] carries decisions out and knows the way back of each.
//! - [`demands`] takes up what the operator demands otherwise on the way.
//! - [`giving_up`] ends a migration early, and does what can be done where a monitor does not answer.
//! - [`link`] notices a link on which nothing moves.
//! - [`ending`] finds out where the guest is, puts everything back and writes the report.
//!
//! Two clocks tick: the hypervisor is asked ten times a second, for QEMU renews its own figures no
//! oftener, and more often near the end of a pass; the kernel's counters, which cost a hundredth of
//! that, are read every 10 to 20 ms while the guest is hindered, so that each gap of a quota is seen by
//! itself.

mod abort;
mod actuator;
mod finalize;
mod link;
mod preflight;
mod requests;

use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use landfall_core::decision::{Decision, Finish, Hold, Tuning};
use landfall_core::guard::enforce;
use landfall_core::model::prior::Prior;
use landfall_core::planner;
use landfall_core::policy::Policy;
use landfall_core::report::losses::LossMeter;
use landfall_core::report::peak_rate::PeakRateMeter;
use landfall_core::report::{Class, Forecast, Outcome, Report};
use landfall_core::requirements::changes::Change;
use landfall_core::requirements::settings::Demands;
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::switch_over;
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::progress::{Progress, time_left};
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status};
use landfall_core::telemetry::view::{Levers, Phase, SAMPLE_INTERVAL, View};
use landfall_core::units::{Moment, Share};

use tokio::sync::mpsc;

use crate::control::SteeredMigration;
use crate::control::server::ControlServer;
use crate::monitor::{QemuMonitor, RunState, parse_query_migrate};
use crate::qmp::{PendingResponse, QmpAddress, QmpError, QmpEvent, QmpEvents};
use abort::GivingUp;
use actuator::Hands;
use link::{LinkWatch, Minded};
use requests::{Waiting, next_ask};

/// How often the kernel's counters are read while the guest is hindered: twice a period of its quota,
/// within these. The kernel has the length of each gap; where the guest stands still by other means, or may
/// soon, the looks have it, and are as close as they may be.
const WATCH: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(20));

/// A migration to be steered.
pub struct Order {
    /// The monitor of the QEMU the guest is to leave.
    pub source: QmpAddress,
    /// The migration URI of the QEMU it is to go to.
    pub destination: String,
    /// The monitor of that QEMU.
    pub destination_qmp: Option<QmpAddress>,
    /// What the operator demands.
    pub requirements: Requirements,
    /// The second dial of 2011.
    pub aggression: Aggression,
    /// The law.
    pub policy: Box<dyn Policy>,
    /// Post-copy may be used.
    pub post_copy: bool,
    /// What is known already.
    pub prior: Prior,
    /// What is expected of it.
    pub forecast: Option<Forecast>,
    /// The program that becomes the guardian when called with [`crate::guardian::SUBCOMMAND`].
    pub guardian: PathBuf,
}

/// One look, for whoever watches: the live line, the record.
pub struct Look<'a> {
    /// The raw counters.
    pub sample: &'a Sample,
    /// The levers there are.
    pub levers: Levers,
    /// All that is demanded, where that has changed since the look before.
    pub changed: Option<&'a Demands>,
    /// What was made of them; `None` for a look at the kernel's counters alone.
    pub decided: Option<Decided<'a>>,
}

/// A view, and what was decided on it.
pub struct Decided<'a> {
    /// What is known.
    pub view: &'a View,
    /// How the vCPUs were held, as the view has it.
    pub holds: &'a [Hold],
    /// What is done about it.
    pub decision: &'a Decision,
    /// Share of the way, 0 to 1; never less than before.
    pub done: f64,
    /// Time until the end at these rates.
    pub time_left: Option<Duration>,
}

/// Reasons to give a migration up, as they come: signals, mostly. After a second one landfall ends
/// without waiting for the migration to be over, and the guardian does the rest.
pub type Stops = mpsc::UnboundedReceiver<String>;

/// Steers a migration to its end and reports. `watch` sees every look.
pub async fn migrate(order: Order, stops: &mut Stops, watch: &mut dyn FnMut(&Look)) -> Report {
    let policy = order.policy.name().to_owned();
    let checked = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(preflight::Refusal(reason)),
        checked = preflight::check(order) => checked,
    };
    let ready = match checked {
        Ok(checked) => checked.start().await,
        Err(refusal) => Err(refusal),
    };
    match ready {
        Ok(ready) => {
            let mut steering = Steering::begin(ready);
            let end = steering.run(stops, watch).await;
            steering.settle(end).await
        }
        Err(refusal) => Report::refused(&policy, refusal.0),
    }
}

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The hypervisor says it is over.
    Over(Status, Option<String>),
    /// The source's monitor is closed: QEMU has ended, or its monitor was taken away.
    SourceLost(String),
    /// It can be neither steered nor ended from here: a monitor hangs, or the destination has
    /// everything and is not heard of.
    Stuck(String),
}

/// A migration under way.
struct Steering {
    started: Instant,
    source: QemuMonitor,
    events: QmpEvents,
    destination: Option<(QemuMonitor, QmpEvents)>,
    hands: Hands,
    policy: Box<dyn Policy>,
    control: Option<ControlServer>,
    waiting: Vec<Waiting>,
    changes: Vec<Change>,
    observer: Observer,
    class: Class,
    forecast: Option<Forecast>,
    account: LossMeter,
    progress: Progress,
    asked: Option<PendingResponse>,
    next_ask: Instant,
    ask_after: Duration,
    last: Option<Migration>,
    last_ram: Option<Ram>,
    expected_blackout: Duration,
    link: LinkWatch,
    peak: PeakRateMeter,
    giving_up: Option<GivingUp>,
    link_broken: bool,
    shipped: Option<u64>,
    post_copied: bool,
    /// Who stopped the guest that stands still, once that was asked.
    paused_by_other: Option<bool>,
    hindered_by_qemu: bool,
    /// When the guest was seen to run at the destination.
    arrived: Option<Moment>,
}

impl Steering {
    fn begin(ready: preflight::Ready) -> Self {
        let now = Instant::now();
        let observer =
            Observer::new(ready.requirements, ready.aggression, ready.hands.levers(), &ready.prior);
        let control = requests::open(
            &ready.hands,
            SteeredMigration {
                guest: ready.guest,
                destination: ready.uri,
                policy: ready.policy.name().to_owned(),
                demands: observer.settings().clone(),
                progress: None,
            },
        );
        Steering {
            started: ready.began,
            source: ready.source,
            events: ready.events,
            destination: ready.destination,
            hands: ready.hands,
            policy: ready.policy,
            control,
            waiting: Vec::new(),
            changes: Vec::new(),
            observer,
            class: Class::Unknown,
            forecast: ready.forecast,
            account: ready.account,
            progress: Progress::default(),
            asked: None,
            next_ask: now,
            ask_after: SAMPLE_INTERVAL,
            last: None,
            last_ram: None,
            expected_blackout: Duration::ZERO,
            link: LinkWatch::new(),
            peak: PeakRateMeter::default(),
            giving_up: None,
            link_broken: false,
            shipped: None,
            post_copied: false,
            paused_by_other: None,
            hindered_by_qemu: false,
            arrived: None,
        }
    }

    async fn run(&mut self, stops: &mut Stops, watch: &mut dyn FnMut(&Look)) -> End {
        let mut stopping = false;
        loop {
            let next_tick = self.next_tick();
            let turn = tokio::select! {
                biased;
                Some(reason) = stops.recv() => if stopping {
                    Err(End::Stuck(format!("{reason}, twice: not waiting for the end")))
                } else {
                    stopping = true;
                    self.give_up(Outcome::Cancelled, reason).await;
                    Ok(())
                },
                event = self.events.recv() => match event {
                    Some(event) => { self.note(&event, false); Ok(()) }
                    None => Err(End::SourceLost("its monitor closed the connection".to_owned())),
                },
                event = recv(&mut self.destination) => {
                    if let Some(event) = event { self.note(&event, true) }
                    Ok(())
                }
                answer = answer(&mut self.asked) => {
                    self.asked = None;
                    match answer {
                        Ok(value) => self.look(parse_query_migrate(&value), watch).await,
                        Err(error) if error.is_closed() => Err(End::SourceLost(error.to_string())),
                        Err(error) => { self.give_up(Outcome::Failed, error.to_string()).await; Ok(()) }
                    }
                }
                () = tokio::time::sleep_until(next_tick.into()) => self.tick(watch).await,
                ask = next_ask(&mut self.control) => { self.hear(ask).await; Ok(()) }
            };
            if let Err(end) = turn {
                return end;
            }
        }
    }

    fn next_tick(&self) -> Instant {
        let watch = Instant::now() + if self.hindered() { self.watch() } else { SAMPLE_INTERVAL };
        if self.asked.is_none() { watch.min(self.next_ask) } else { watch }
    }

    /// How soon to read the counters again while the guest is hindered.
    fn watch(&self) -> Duration {
        let may_stop = self.shipped.is_some() || self.ask_after < SAMPLE_INTERVAL;
        if self.hindered_by_qemu || may_stop || self.account.stopped_since().is_some() {
            return WATCH.0;
        }
        let periods = self.hands.holds().iter().filter_map(|hold| match hold {
            Hold::Quota(quota) => Some(quota.period),
            Hold::Free | Hold::Stopped => None,
        });
        periods.min().map_or(WATCH.0, |period| (period / 2).clamp(WATCH.0, WATCH.1))
    }

    fn hindered(&self) -> bool {
        self.hands.holds().iter().any(|hold| *hold != Hold::Free)
            || self.hindered_by_qemu
            || self.account.stopped_since().is_some()
    }

    fn now(&self) -> Moment {
        Moment(self.started.elapsed())
    }

    /// Reads the kernel's counters, asks the hypervisor if it is time, and watches over the answer.
    async fn tick(&mut self, watch: &mut dyn FnMut(&Look)) -> Result<(), End> {
        if self.giving_up.is_none()
            && let Err(problem) = self.hands.check_guardian()
        {
            self.give_up(Outcome::Failed, problem).await;
        }
        if self.asked.is_none() && Instant::now() >= self.next_ask {
            self.next_ask = Instant::now() + self.ask_after;
            let asked = self.source.start_query_migrate();
            self.asked = Some(asked.map_err(|error| End::SourceLost(error.to_string()))?);
        } else {
            let sample = Sample { at: self.now(), migration: None, vcpus: self.hands.counters() };
            self.account.on_sample(&sample);
            self.observer.on_sample(&sample);
            watch(&Look {
                sample: &sample,
                levers: self.observer.levers(),
                changed: None,
                decided: None,
            });
        }
        self.mind_a_hang().await
    }

    /// Takes in what the hypervisor says, decides and acts.
    async fn look(
        &mut self,
        mut migration: Migration,
        watch: &mut dyn FnMut(&Look),
    ) -> Result<(), End> {
        // QEMU calls the final copy "active"; that the guest stands still without our doing tells.
        let stopped = self.account.stopped_since().is_some() && !self.hands.stopped();
        if migration.status == Status::Active && stopped && !self.paused_by_somebody().await {
            migration.status = Status::SwitchOver;
        }
        self.hindered_by_qemu |= migration.own_throttle.is_some_and(|share| share > Share::NONE);
        self.post_copied |= matches!(migration.status, Status::PostCopy | Status::PostCopyPaused);
        let changed = self.heed(migration.status).await;
        let sample =
            Sample { at: self.now(), migration: Some(migration), vcpus: self.hands.counters() };
        self.account.on_sample(&sample);
        let view = self.observer.on_sample(&sample);
        let migration = sample.migration.as_ref().expect("set above");
        if let Some(ram) = migration.ram {
            self.link.take(ram.transferred);
            if migration.status == Status::Active {
                self.peak.on_transferred(sample.at, ram.transferred);
            }
        }
        self.last_ram = migration.ram.or(self.last_ram);
        self.last = Some(migration.clone());
        if let Some(view) = view {
            self.ask_after = view.next_sample_in();
            let decision = enforce(&view, self.decide(&view));
            if view.syncs > 0 && view.phase == Phase::Iterating {
                self.class = planner::classify_view(&view).unwrap_or(self.class);
            }
            let done = self.progress.fraction(&view);
            let time_left = time_left(&view);
            let holds = self.observer.holds();
            let decided = Decided { view: &view, holds, decision: &decision, done, time_left };
            let levers = self.observer.levers();
            self.tell(&decided);
            let changed = changed.as_ref();
            watch(&Look { sample: &sample, levers, changed, decided: Some(decided) });
            self.expected_blackout = view.downtime_if_shipped().unwrap_or_default();
            if !migration.status.is_over() && self.giving_up.is_none() {
                self.act(&view, decision).await;
            }
        }
        if migration.status.is_over() {
            return Err(End::Over(migration.status, migration.error.clone()));
        }
        match self.link.mind(migration.status) {
            Minded::Good => {}
            Minded::Still(reason) if self.giving_up.is_none() => {
                self.give_up(Outcome::Failed, reason).await;
            }
            Minded::Still(_) => {}
            Minded::Lost(how) => return Err(End::Stuck(how)),
        }
        self.cancel().await;
        Ok(())
    }

    /// Whether it was somebody else who stopped the guest, and not QEMU for the final copy.
    async fn paused_by_somebody(&mut self) -> bool {
        if self.paused_by_other.is_none() {
            let state = self.source.query_run_state().await;
            self.paused_by_other =
                state.ok().map(|state| state == RunState::Stopped("paused".to_owned()));
        }
        self.paused_by_other == Some(true)
    }

    /// Asks the policy. One that panics ends the migration, not the program: the guest comes first.
    fn decide(&mut self, view: &View) -> Decision {
        let policy = &mut self.policy;
        let decided = panic::catch_unwind(AssertUnwindSafe(|| policy.decide(view)));
        decided.unwrap_or_else(|_| {
            let why = format!("policy {} panicked; this is a bug in it", policy.name());
            Decision::finish(Finish::Cancel, why)
        })
    }

    async fn act(&mut self, view: &View, decision: Decision) {
        // A look at the bitmap after the decision to ship, and the guest still runs: it had
        // dirtied more than was known. The policy decides anew.
        if view.phase == Phase::Iterating {
            self.shipped = self.shipped.filter(|intervals| *intervals == view.syncs);
        }
        let outcome = match decision.finish {
            Some(Finish::Cancel) => {
                self.give_up(Outcome::Cancelled, decision.reason.into_owned()).await;
                return;
            }
            Some(Finish::PostCopy) if !self.post_copied => {
                self.post_copied = true;
                self.let_go();
                self.source.migrate_start_postcopy().await.map_err(|error| error.to_string())
            }
            Some(Finish::Ship) if self.shipped.is_none() => {
                self.shipped = Some(view.syncs);
                self.ship(view, &decision).await
            }
            _ if self.shipped.is_some() => Ok(()),
            // What stands still needs no hold, and what was stopped has to arrive stopped.
            _ if matches!(view.phase, Phase::SwitchOver | Phase::PostCopy) => Ok(()),
            _ => self.tune_and_hold(&decision).await,
        };
        self.note_holds();
        if let Err(problem) = outcome {
            self.give_up(Outcome::Failed, problem).await;
        }
    }

    /// Has QEMU switch over. What is held stays held until the guest stands still, unless it is said
    /// how else: a guest let go now would dirty again what was just sent.
    async fn ship(&mut self, view: &View, decision: &Decision) -> Result<(), String> {
        if !decision.holds.is_empty() {
            self.hands.hold(&mut self.source, decision).await?;
        }
        let limit = decision.tuning.downtime_limit.unwrap_or_else(|| self.longest(view));
        let tuning = Tuning { downtime_limit: Some(limit), ..decision.tuning };
        self.hands.tune(&mut self.source, tuning).await
    }

    /// Longest shipment that the operator allows.
    fn longest(&self, view: &View) -> Duration {
        if view.requirements.may_break(Requirement::MaxStall) {
            return Duration::MAX;
        }
        switch_over::limit(view.requirements.max_stall, view.link)
    }

    async fn tune_and_hold(&mut self, decision: &Decision) -> Result<(), String> {
        self.hands.tune(&mut self.source, decision.tuning).await?;
        self.hands.hold(&mut self.source, decision).await
    }

    fn let_go(&mut self) {
        self.hands.let_go();
        self.note_holds();
    }

    fn note_holds(&mut self) {
        self.account.on_holds(self.hands.holds());
        self.observer.on_holds(self.hands.holds());
    }

    fn note(&mut self, event: &QmpEvent, at_destination: bool) {
        let at = Moment(event.received_at.saturating_duration_since(self.started));
        match (event.name.as_str(), at_destination) {
            ("STOP", false) => {
                self.account.on_stop(at);
                self.link.has_moved();
                if !self.hands.stopped() {
                    // A quota on a thread that stands still only delays its next steps.
                    self.let_go();
                }
            }
            ("RESUME", _) => {
                self.account.on_resume(at);
                self.paused_by_other = None;
                if at_destination {
                    self.arrived = Some(at);
                }
            }
            _ => {}
        }
    }
}

/// The next event of the destination; never, where there is none to listen to.
async fn recv(destination: &mut Option<(QemuMonitor, QmpEvents)>) -> Option<QmpEvent> {
    match destination {
        Some((_, events)) if !events.is_closed() || !events.is_empty() => events.recv().await,
        _ => std::future::pending().await,
    }
}

/// The answer to the pending question; never, where none is pending.
async fn answer(asked: &mut Option<PendingResponse>) -> Result<serde_json::Value, QmpError> {
    match asked {
        Some(pending) => loop {
            match pending.wait(Duration::from_secs(60)).await {
                Err(QmpError::Timeout { .. }) => {}
                answer => return answer,
            }
        },
        None => std::future::pending().await,
    }
}
