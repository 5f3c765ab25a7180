//! The steering loop: observes, decides, acts, records; and leaves nothing behind.
//!
//! - [`prepare`] looks at everything before anything is changed, and refuses with the reason.
//! - This file runs the migration: it polls, asks the policy, and hands its decision to the hands.
//! - [`hands`] carries decisions out and knows the way back of each.
//! - [`ending`] finds out where the guest is, puts everything back and writes the report.
//!
//! Two clocks tick: the hypervisor is asked ten times a second, for QEMU renews its own figures no
//! oftener; the kernel's counters, which cost a hundredth of that, are read every 10 ms while the
//! guest is hindered, so that each gap of a quota is seen by itself.

mod ending;
mod hands;
mod prepare;

use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use landfall_core::account::Account;
use landfall_core::decision::{Decision, Finish, Hold};
use landfall_core::guard::guard;
use landfall_core::observer::Observer;
use landfall_core::policy::Policy;
use landfall_core::progress::{Progress, time_left};
use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::sample::{Migration, Sample, Status};
use landfall_core::units::{ByteRate, Bytes, Moment, Share, show_duration};
use landfall_core::view::{Phase, View};

use crate::machine::{Machine, read_migration};
use crate::qmp::{Address, Event, Events, Pending, QmpError};
use hands::Hands;

/// How often the hypervisor is asked: QEMU renews its rates every 100 ms.
const ASK: Duration = Duration::from_millis(100);

/// How often the kernel's counters are read while the guest is hindered.
const WATCH: Duration = Duration::from_millis(10);

/// A migration of which not a byte moves for so long is given up: the destination does not answer.
const NO_BYTE: Duration = Duration::from_secs(10);

/// A monitor that has not answered for so long beyond the blackout expected is taken to hang.
const HANG: Duration = Duration::from_secs(10);

/// A monitor that has not answered for so long while vCPUs are held may be waiting for one of them.
const HELD_HANG: Duration = Duration::from_secs(3);

/// A migration to be steered.
pub struct Order {
    /// The monitor of the QEMU the guest is to leave.
    pub source: Address,
    /// The migration URI of the QEMU it is to go to.
    pub destination: String,
    /// The monitor of that QEMU.
    pub destination_qmp: Option<Address>,
    /// What the operator demands.
    pub requirements: Requirements,
    /// The second dial of 2011.
    pub aggression: Aggression,
    /// The law.
    pub policy: Box<dyn Policy>,
    /// Post-copy may be used.
    pub post_copy: bool,
    /// The program that becomes the guardian when called with [`crate::guardian::SUBCOMMAND`].
    pub guardian: PathBuf,
}

/// One look, for whoever watches: the live line, the record.
pub struct Look<'a> {
    /// The raw counters.
    pub sample: &'a Sample,
    /// What was made of them; `None` for a look at the kernel's counters alone.
    pub decided: Option<Decided<'a>>,
}

/// A view, and what was decided on it.
pub struct Decided<'a> {
    /// What is known.
    pub view: &'a View,
    /// What is done about it.
    pub decision: &'a Decision,
    /// Share of the way, 0 to 1; never less than before.
    pub done: f64,
    /// Time until the end at these rates.
    pub time_left: Option<Duration>,
}

/// Steers a migration to its end and reports.
///
/// `stop` resolves with a reason when the operator wants it given up. `watch` sees every look.
pub async fn migrate(
    order: Order,
    stop: impl Future<Output = String>,
    watch: &mut dyn FnMut(&Look),
) -> Report {
    let policy = order.policy.name();
    match prepare::prepare(order).await {
        Ok(ready) => {
            let mut steering = Steering::begin(ready);
            let end = steering.run(stop, watch).await;
            steering.settle(end).await
        }
        Err(refusal) => Report::refused(policy, refusal.0),
    }
}

/// Why the loop ended.
#[derive(Debug)]
enum End {
    /// The hypervisor says it is over.
    Over(Status, Option<String>),
    /// The source's monitor is closed: QEMU has ended, or its monitor was taken away.
    SourceLost(String),
    /// The source's monitor hangs and nothing brought it back.
    Hangs(String),
}

/// A migration under way.
struct Steering {
    started: Instant,
    source: Machine,
    events: Events,
    destination: Option<(Machine, Events)>,
    hands: Hands,
    policy: Box<dyn Policy>,
    requirements: Requirements,
    observer: Observer,
    account: Account,
    progress: Progress,
    asked: Option<Pending>,
    next_ask: Instant,
    last: Option<Migration>,
    last_expected_blackout: Duration,
    moved: (Bytes, Instant),
    rates: Vec<(Moment, Bytes)>,
    peak_rate: Option<ByteRate>,
    /// Why we are giving up, once we are.
    giving_up: Option<(Outcome, String)>,
    link_broken: Option<Instant>,
    shipped: bool,
    post_copied: bool,
    hindered_by_qemu: bool,
    /// When the guest was seen to run at the destination.
    arrived: Option<Moment>,
}

impl Steering {
    fn begin(ready: prepare::Ready) -> Self {
        let now = Instant::now();
        let observer =
            Observer::new(ready.requirements.clone(), ready.aggression, ready.hands.levers());
        Steering {
            started: ready.began,
            source: ready.source,
            events: ready.events,
            destination: ready.destination,
            hands: ready.hands,
            policy: ready.policy,
            requirements: ready.requirements,
            observer,
            account: ready.account,
            progress: Progress::default(),
            asked: None,
            next_ask: now,
            last: None,
            last_expected_blackout: Duration::ZERO,
            moved: (Bytes(0), now),
            rates: Vec::new(),
            peak_rate: None,
            giving_up: None,
            link_broken: None,
            shipped: false,
            post_copied: false,
            hindered_by_qemu: false,
            arrived: None,
        }
    }

    async fn run(
        &mut self,
        stop: impl Future<Output = String>,
        watch: &mut dyn FnMut(&Look),
    ) -> End {
        tokio::pin!(stop);
        let mut told_to_stop = false;
        loop {
            let next_tick = self.next_tick();
            let turn = tokio::select! {
                biased;
                reason = &mut stop, if !told_to_stop => {
                    told_to_stop = true;
                    self.give_up(Outcome::Cancelled, reason).await;
                    Ok(())
                }
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
                        Ok(value) => self.look(read_migration(&value), watch).await,
                        Err(error) if error.is_closed() => Err(End::SourceLost(error.to_string())),
                        Err(error) => { self.give_up(Outcome::Failed, error.to_string()).await; Ok(()) }
                    }
                }
                () = tokio::time::sleep_until(next_tick.into()) => self.tick(watch).await,
            };
            if let Err(end) = turn {
                return end;
            }
        }
    }

    fn next_tick(&self) -> Instant {
        let watch = Instant::now() + if self.hindered() { WATCH } else { ASK };
        if self.asked.is_none() { watch.min(self.next_ask) } else { watch }
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
        if self.asked.is_none() && Instant::now() >= self.next_ask {
            self.next_ask = Instant::now() + ASK;
            let asked = self.source.ask_migration();
            self.asked = Some(asked.map_err(|error| End::SourceLost(error.to_string()))?);
        } else {
            let sample = Sample { at: self.now(), migration: None, vcpus: self.hands.counters() };
            self.account.take(&sample);
            self.observer.observe(&sample);
            watch(&Look { sample: &sample, decided: None });
        }
        self.mind_a_hang().await
    }

    /// A monitor that does not answer: lets the vCPUs go, in case it waits for one of them; then
    /// breaks the link, in case the final copy cannot get through; then gives the question up.
    async fn mind_a_hang(&mut self) -> Result<(), End> {
        let Some(age) = self.asked.as_ref().map(Pending::age) else { return Ok(()) };
        if age > HELD_HANG && self.hands.holds().iter().any(|hold| matches!(hold, Hold::Quota(_))) {
            self.let_go();
        }
        let patience = HANG + self.last_expected_blackout * 3;
        if age <= patience {
            return Ok(());
        }
        match self.link_broken {
            None => {
                let silent = show_duration(age);
                self.giving_up.get_or_insert((
                    Outcome::Failed,
                    format!("QEMU has not answered for {silent}: the destination does not take what it is sent"),
                ));
                self.link_broken = Some(Instant::now());
                // Where this is refused there is nothing better to do than to wait on.
                let _ = self.source.break_link().await;
                Ok(())
            }
            Some(since) if since.elapsed() < HANG => Ok(()),
            Some(_) => Err(End::Hangs(format!(
                "QEMU's monitor at {} has not answered for {}",
                self.source.address(),
                show_duration(age)
            ))),
        }
    }

    /// Takes in what the hypervisor says, decides and acts.
    async fn look(
        &mut self,
        mut migration: Migration,
        watch: &mut dyn FnMut(&Look),
    ) -> Result<(), End> {
        // QEMU calls the final copy "active"; that the guest stands still without our doing tells.
        let stopped_by_qemu = self.account.stopped_since().is_some() && !self.hands.stopped();
        if migration.status == Status::Active && stopped_by_qemu {
            migration.status = Status::SwitchOver;
        }
        self.hindered_by_qemu |= migration.own_throttle.is_some_and(|share| share > Share::NONE);
        self.post_copied |= matches!(migration.status, Status::PostCopy | Status::PostCopyPaused);
        let sample =
            Sample { at: self.now(), migration: Some(migration), vcpus: self.hands.counters() };
        self.account.take(&sample);
        let view = self.observer.observe(&sample);
        let migration = sample.migration.as_ref().expect("set above");
        self.note_bytes(sample.at, migration);
        self.last = Some(migration.clone());
        if let Some(view) = view {
            let decision = guard(&view, self.decide(&view));
            let done = self.progress.share(&view);
            let time_left = time_left(&view);
            let decided = Decided { view: &view, decision: &decision, done, time_left };
            watch(&Look { sample: &sample, decided: Some(decided) });
            self.last_expected_blackout = view.blackout_if_shipped().unwrap_or_default();
            if !migration.status.is_over() && self.giving_up.is_none() {
                self.act(&view, decision).await;
            }
        }
        self.mind_the_link(migration.status).await;
        if migration.status.is_over() {
            return Err(End::Over(migration.status, migration.error.clone()));
        }
        Ok(())
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
        if !self.shipped
            && let Err(problem) = self.hands.tune(&mut self.source, decision.tuning).await
        {
            self.give_up(Outcome::Failed, problem).await;
            return;
        }
        let outcome = match decision.finish {
            Some(Finish::Cancel) => {
                self.give_up(Outcome::Cancelled, decision.why).await;
                return;
            }
            // What is held stays held until the guest stands still: a guest let go now would dirty
            // again what was just sent.
            Some(Finish::Ship) if !self.shipped => {
                self.shipped = true;
                let any = self.requirements.may_break(Requirement::MaxStall);
                let limit = if any { Duration::MAX } else { view.requirements.max_stall };
                self.hands.ship(&mut self.source, limit).await
            }
            Some(Finish::PostCopy) if !self.post_copied => {
                self.post_copied = true;
                self.let_go();
                self.source.start_postcopy().await.map_err(|error| error.to_string())
            }
            Some(_) => Ok(()),
            // What stands still needs no hold, and what was stopped has to arrive stopped.
            None if self.shipped || view.phase == Phase::SwitchOver => Ok(()),
            None => self.hands.hold(&mut self.source, &decision).await,
        };
        self.note_holds();
        if let Err(problem) = outcome {
            self.give_up(Outcome::Failed, problem).await;
        }
    }

    /// Ends the migration with the guest at the source; the loop goes on until it is over.
    async fn give_up(&mut self, outcome: Outcome, reason: String) {
        self.let_go();
        if self.giving_up.is_some() {
            return;
        }
        self.giving_up = Some((outcome, reason));
        // An answer of this kind comes at once, or the monitor hangs, which is minded elsewhere.
        let _ = self.source.cancel().await;
    }

    fn let_go(&mut self) {
        self.hands.let_go();
        self.note_holds();
    }

    fn note_holds(&mut self) {
        self.account.held(self.hands.holds());
        self.observer.held(self.hands.holds());
    }

    fn note(&mut self, event: &Event, at_destination: bool) {
        let at = Moment(event.at.saturating_duration_since(self.started));
        match (event.name.as_str(), at_destination) {
            ("STOP", false) => {
                self.account.stopped(at);
                if !self.hands.stopped() {
                    // A quota on a thread that stands still only delays its next steps.
                    self.let_go();
                }
            }
            ("RESUME", _) => {
                self.account.resumed(at);
                if at_destination {
                    self.arrived = Some(at);
                }
            }
            _ => {}
        }
    }

    fn note_bytes(&mut self, at: Moment, migration: &Migration) {
        let Some(transferred) = migration.ram.map(|ram| ram.transferred) else { return };
        if transferred > self.moved.0 {
            self.moved = (transferred, Instant::now());
        }
        if migration.status != Status::Active {
            return;
        }
        self.rates.push((at, transferred));
        let second_ago = at - Duration::from_secs(1);
        let old = self.rates.iter().rposition(|(then, _)| *then <= second_ago);
        if let Some(old) = old.filter(|_| at >= Moment::ms(1000)) {
            let (then, before) = self.rates[old];
            let rate = transferred.saturating_sub(before) / at.since(then);
            self.peak_rate =
                rate.map(|rate| ByteRate(self.peak_rate.map_or(rate.0, |peak| peak.0.max(rate.0))));
            self.rates.drain(..old);
        }
    }

    async fn mind_the_link(&mut self, status: Status) {
        let waiting = matches!(status, Status::Setup | Status::Active | Status::SwitchOver);
        if waiting && self.giving_up.is_none() && self.moved.1.elapsed() > NO_BYTE {
            let what = if status == Status::Setup {
                "the destination does not answer"
            } else {
                "the destination takes no more data"
            };
            let reason = format!(
                "{what}: not a byte has moved for {}; is QEMU waiting there with -incoming, and the \
                 way to it open?",
                show_duration(NO_BYTE)
            );
            self.give_up(Outcome::Failed, reason).await;
        }
    }
}

/// The next event of the destination; never, where there is none to listen to.
async fn recv(destination: &mut Option<(Machine, Events)>) -> Option<Event> {
    match destination {
        Some((_, events)) if !events.is_closed() || !events.is_empty() => events.recv().await,
        _ => std::future::pending().await,
    }
}

/// The answer to the pending question; never, where none is pending.
async fn answer(asked: &mut Option<Pending>) -> Result<serde_json::Value, QmpError> {
    match asked {
        Some(pending) => loop {
            match pending.within(Duration::from_secs(60)).await {
                Err(QmpError::Silent { .. }) => {}
                answer => return answer,
            }
        },
        None => std::future::pending().await,
    }
}
