//! One simulated migration: the steering loop of a real one, with virtual time in place of a clock.
//!
//! The loop looks ten times a second, at a moment of QEMU's window that follows from the seed, and
//! oftener near the end of a pass. Each look becomes a sample, a view, a decision and an act, by the same functions and in the same order as
//! in `landfall-qemu`. Between two looks QEMU's migration thread does what it does when its moments
//! come; everything else is a formula.

use std::time::Duration;

use landfall_core::decision::{Decision, Finish, Tuning};
use landfall_core::guard::{self, enforce};
use landfall_core::model::prior::Prior;
use landfall_core::policy::{Needs, Policy, with_fallback_reason};
use landfall_core::report::{Measurements, Outcome, PeakRate, Report};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::switch_over;
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status};
use landfall_core::telemetry::view::{Levers, NEAR_END_SAMPLE_INTERVAL, Phase, View};
use landfall_core::units::{Bytes, Moment, Share, show_duration};

use crate::guest::Guest;
use crate::link::Link;
use crate::memory::Memory;
use crate::postcopy;
use crate::qemu::{Precopy, Qemu, Sleep, Turn};
use crate::rng::Seed;
use crate::vcpus::{Vcpus, duration};

/// What is simulated.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    /// The guest that moves.
    pub guest: Guest,
    /// The way it takes.
    pub link: Link,
    /// The QEMU it leaves.
    pub qemu: Qemu,
    /// What the operator demands.
    pub requirements: Requirements,
    /// The second dial of 2011.
    pub aggression: Aggression,
    /// What was found out before the start.
    pub prior: Prior,
    /// What can be done to the guest. Post-copy is set up for the policies that need it, where it is
    /// among these.
    pub levers: Levers,
    /// A migration that has not landed after so long is given up, whatever was demanded.
    pub patience: Duration,
}

impl Setup {
    /// This guest over this link, everything else as landfall finds it by default.
    pub fn new(guest: Guest, link: Link) -> Setup {
        Setup {
            guest,
            link,
            qemu: Qemu::default(),
            requirements: Requirements::default(),
            aggression: Aggression::DEFAULT,
            prior: Prior::default(),
            levers: Levers {
                quota: true,
                stop: false,
                post_copy: false,
                tick: Duration::from_millis(4),
            },
            patience: Duration::from_secs(600),
        }
    }
}

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where that needs saying.
    pub reason: Option<String>,
    /// Times, losses, bytes.
    pub measured: Measurements,
    /// How it went, if that was asked for.
    pub trace: Vec<Point>,
}

impl Run {
    /// The report that a real migration with these measurements would give.
    pub fn report(&self, policy: &str, asked: &Requirements) -> Report {
        Report::of(self.outcome, policy, self.reason.clone(), asked, &self.measured)
    }
}

/// A moment of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When.
    pub at: Moment,
    /// Pages known dirty and not yet sent.
    pub remaining: Bytes,
    /// Share of the CPU it wants that the guest got since the point before.
    pub share: Share,
    /// Looks of QEMU at its bitmap so far.
    pub syncs: u64,
}

/// The loop looks so often.
const LOOK: f64 = 0.1;
/// From the command until the migration thread starts: the connection.
const SETUP: f64 = 0.01;
/// A cancelled migration is over after so long (`docs/measurements/levers-qemu-10.0.md`).
const CANCEL: f64 = 0.001;
/// A migration of which not a byte moves for so long is given up, as the real loop does.
const NO_BYTE: f64 = 10.0;
/// A moment is taken to be reached when it is nearer than this: sums of times round.
const TINY: f64 = 1e-9;
/// The highest rate is looked for over spans of this length, as the real loop does.
const PEAK_SPAN: f64 = 2.0;

/// Simulates a migration.
pub fn run(setup: &Setup, policy: &mut dyn Policy, seed: Seed) -> Run {
    steer(setup, policy, seed, false)
}

/// Simulates a migration and says how it went on the way, a point a look.
pub fn run_traced(setup: &Setup, policy: &mut dyn Policy, seed: Seed) -> Run {
    steer(setup, policy, seed, true)
}

fn steer(setup: &Setup, policy: &mut dyn Policy, seed: Seed, traced: bool) -> Run {
    let needs = policy.needs();
    let mut steering = Steering::begin(setup, needs, seed, traced);
    if let Some(reason) = refusal(setup, needs, policy, &steering.observer) {
        return steering.ended(Outcome::Refused, Some(reason));
    }
    let (outcome, reason) = steering.run(policy);
    let account = || (outcome == Outcome::Landed).then(|| policy.explanation()).flatten();
    let reason = with_fallback_reason(policy, reason.or_else(account));
    steering.ended(outcome, reason)
}

/// Why it is not even started.
fn refusal(
    setup: &Setup,
    needs: Needs,
    policy: &mut dyn Policy,
    observer: &Observer,
) -> Option<String> {
    let name = policy.name();
    if needs.post_copy && !setup.levers.post_copy {
        return Some(format!("policy {name} needs post-copy to be allowed"));
    }
    if needs.quota && !setup.levers.quota {
        return Some(format!("policy {name} holds vCPUs, and here they cannot be held"));
    }
    // Where nothing was looked at beforehand there is nothing to tell it by.
    let contents = setup.prior.contents?;
    policy.preflight(&observer.view_before_start(contents, setup.guest.vcpus as usize)).err()
}

/// Longest shipment that the operator allows.
fn longest(view: &View) -> Duration {
    match view.requirements.may_break(Requirement::MaxStall) {
        true => Duration::MAX,
        false => switch_over::limit(view.requirements.max_stall, view.link),
    }
}

/// How a run ends, and why.
type End = (Outcome, Option<String>);

struct Steering<'a> {
    setup: &'a Setup,
    seed: Seed,
    precopy: Precopy<'a>,
    vcpus: Vcpus,
    observer: Observer,
    sample: Sample,
    now: f64,
    /// When the next look is due, or the next point of a trace.
    next_look: f64,
    /// How soon the last view is to be followed by another.
    soon: f64,
    /// Until then no look would change anything, unless QEMU looks at its bitmap before.
    rests: f64,
    /// A new setting of QEMU's throttle, and when it counts.
    sleep: Option<(Sleep, f64)>,
    /// The intervals there were when the policy decided to ship.
    shipped: Option<u64>,
    downtime: Option<Duration>,
    moved: (Bytes, f64),
    span: (Bytes, f64),
    peak: Option<PeakRate>,
    cpu_seen: (f64, f64),
    cpu: f64,
    trace: Option<Vec<Point>>,
}

impl<'a> Steering<'a> {
    fn begin(setup: &'a Setup, needs: Needs, seed: Seed, traced: bool) -> Steering<'a> {
        let Setup { guest, link, qemu, requirements, .. } = setup;
        let throttle = needs.auto_converge.then_some(qemu.auto_converge);
        let memory = Memory::new(guest, seed.fork(2));
        let mut precopy = Precopy::new(link, seed.fork(3), memory, throttle, SETUP);
        precopy.set_limit(requirements.max_bandwidth.unwrap_or(qemu.max_bandwidth));
        precopy.set_downtime_limit(switch_over::limit(requirements.max_stall, None).as_secs_f64());
        let levers = Levers { post_copy: needs.post_copy, ..setup.levers };
        let observer = Observer::new(requirements.clone(), setup.aggression, levers, &setup.prior);
        let mut vcpus = Vec::with_capacity(guest.vcpus as usize);
        let counted = Vcpus::new(guest.vcpus as usize, guest.appetite());
        counted.counters(&mut vcpus);
        Steering {
            setup,
            seed,
            precopy,
            vcpus: counted,
            observer,
            sample: Sample { at: Moment::START, migration: None, vcpus },
            now: 0.0,
            next_look: seed.part(0) * LOOK,
            soon: LOOK,
            rests: 0.0,
            sleep: None,
            shipped: None,
            downtime: None,
            moved: (Bytes(0), 0.0),
            span: (Bytes(0), 0.0),
            peak: None,
            cpu_seen: (0.0, 0.0),
            cpu: 0.0,
            trace: traced.then(Vec::new),
        }
    }

    fn run(&mut self, policy: &mut dyn Policy) -> End {
        let patience = self.setup.patience.as_secs_f64();
        loop {
            let turn = self.sleep.map_or(f64::INFINITY, |(_, at)| at);
            let next = self.precopy.next().min(self.next_look).min(turn);
            if next > patience {
                self.pass(patience);
                self.vcpus.let_go();
                return (
                    Outcome::Cancelled,
                    Some(format!("not landed after {}", show_duration(self.setup.patience))),
                );
            }
            self.pass(next);
            if next == turn
                && let Some((sleep, _)) = self.sleep.take()
            {
                self.vcpus.sleep(sleep);
            }
            if next == self.precopy.next() {
                let turn = self.precopy.wake();
                let before_sync = self.precopy.take_before_sync();
                if before_sync.is_some() && self.setup.qemu.emulated {
                    self.wait_for_vcpus(turn);
                }
                match turn {
                    Turn::On => {}
                    Turn::SwitchOver => return self.switch_over(),
                    Turn::PostCopy => return self.post_copy(),
                }
                self.note_bytes();
                if let Some(before) = before_sync {
                    self.wake_from_rest(before);
                }
                if let Some(sleep) = self.precopy.take_sleep() {
                    self.sleep = Some((sleep, self.vcpus.next_turn(self.now)));
                }
            }
            if next == self.next_look {
                if self.rests_at(next) {
                    self.note_point();
                } else if let Some(end) = self.look(policy) {
                    self.vcpus.let_go();
                    self.pass(self.now + CANCEL);
                    return end;
                }
                self.next_look = self.look_after(next);
            }
        }
    }

    /// A QEMU that emulates goes on after a look at its bitmap when all vCPUs have run.
    fn wait_for_vcpus(&mut self, turn: Turn) {
        let ready = self.vcpus.all_have_run();
        if ready > self.now {
            self.precopy.hold_up(ready);
            if turn != Turn::On {
                self.pass(ready);
            }
        }
    }

    /// Lets time pass until `to`.
    fn pass(&mut self, to: f64) {
        let cpu = self.vcpus.advance(to);
        self.cpu += cpu;
        self.precopy.memory.run(cpu);
        self.precopy.send_until(to);
        self.now = self.now.max(to);
    }

    /// Whether a look at `t` may be left out.
    fn rests_at(&self, t: f64) -> bool {
        t + TINY < self.rests
    }

    /// When to look, or to note a point of the trace, for the first time after `t`.
    fn look_after(&self, t: f64) -> f64 {
        // Close looks fall on the grid of the others, so that it does not matter which were left out.
        let step = if self.rests_at(t + self.soon) { LOOK } else { self.soon };
        let begin = self.seed.part(0) * LOOK;
        let number = |t: f64| ((t - begin) / step - TINY).ceil();
        let next = number(t + 2.0 * TINY).max(0.0);
        let rested = if self.trace.is_none() { number(self.rests.min(1e9)) } else { next };
        begin + next.max(rested) * step
    }

    /// QEMU has looked at its bitmap while no look was taken. The observer is shown how things stood
    /// before, and the next look is taken when it is due.
    fn wake_from_rest(&mut self, before: Ram) {
        if self.rests_at(self.now) {
            self.take_sample(before);
            self.observer.add_sample(&self.sample);
            self.rests = 0.0;
            // Whoever looks would have seen the end of the pass draw near.
            self.soon = NEAR_END_SAMPLE_INTERVAL.as_secs_f64();
            self.next_look = self.look_after(self.now);
        }
    }

    /// One look: sample, view, decision, act. `Some` where it ends the migration.
    fn look(&mut self, policy: &mut dyn Policy) -> Option<End> {
        self.take_sample(self.precopy.ram());
        let view = self.observer.on_sample(&self.sample)?;
        self.soon = view.next_sample_in().as_secs_f64();
        let decision = enforce(&view, policy.decide(&view));
        self.note_bytes();
        self.note_point();
        self.rests = self.rest(policy, &view);
        if self.now - self.moved.1 > NO_BYTE {
            let reason = format!("not a byte has moved for {NO_BYTE} s");
            return Some((Outcome::Failed, Some(reason)));
        }
        self.act(&view, decision)
    }

    /// Until when no look is needed. At first, and while nothing moves on the link, all are.
    fn rest(&self, policy: &dyn Policy, view: &View) -> f64 {
        // The first look at what there is to send is where the first pass is reckoned from.
        let begun = view.phase != Phase::Setup;
        let known = begun && (view.link.is_some() || self.now > PEAK_SPAN);
        let moves = known && self.now - self.moved.1 < LOOK;
        let rests = || Some(policy.valid_until(view)?.min(guard::valid_until(view)));
        moves.then(rests).flatten().map_or(0.0, Moment::as_secs_f64)
    }

    fn take_sample(&mut self, ram: Ram) {
        let begun = self.now >= SETUP;
        self.sample.at = Moment(duration(self.now));
        self.sample.migration = Some(Migration {
            status: if begun { Status::Active } else { Status::Setup },
            ram: begun.then_some(ram),
            own_throttle: self.vcpus.own_throttle(),
            downtime: None,
            error: None,
        });
        self.vcpus.counters(&mut self.sample.vcpus);
    }

    /// What the hands do with a decision. `Some` where it ends the migration.
    fn act(&mut self, view: &View, decision: Decision) -> Option<End> {
        // A look at the bitmap after the decision to ship, and the guest still runs: it had
        // dirtied more than was known. The policy decides anew.
        if view.phase == Phase::Iterating {
            self.shipped = self.shipped.filter(|intervals| *intervals == view.syncs);
        }
        match decision.finish {
            Some(Finish::Cancel) => {
                return Some((Outcome::Cancelled, Some(decision.reason.into_owned())));
            }
            Some(Finish::PostCopy) if !self.precopy.post_copy_asked => {
                self.precopy.ask_for_post_copy();
                self.vcpus.let_go();
            }
            Some(Finish::Ship) if self.shipped.is_none() => {
                self.shipped = Some(view.syncs);
                let limit = decision.tuning.downtime_limit.unwrap_or_else(|| longest(view));
                self.tune(Tuning { downtime_limit: Some(limit), ..decision.tuning });
                if !decision.holds.is_empty() {
                    self.vcpus.hold(&decision);
                }
            }
            // What is held stays held until the guest stands still.
            _ if self.shipped.is_some() || self.precopy.post_copy_asked => {}
            _ => {
                self.tune(decision.tuning);
                self.vcpus.hold(&decision);
            }
        }
        self.observer.on_holds(self.vcpus.holds());
        None
    }

    fn tune(&mut self, tuning: Tuning) {
        if let Some(limit) = tuning.downtime_limit {
            self.precopy.set_downtime_limit(limit.as_secs_f64());
        }
        if let Some(rate) = tuning.max_bandwidth {
            self.precopy.set_limit(rate);
        }
        if let Some(rate) = tuning.switchover_bandwidth {
            self.precopy.set_switchover_bandwidth(rate);
        }
    }

    /// QEMU stops the guest and sends the rest, with no limit but the link's.
    fn switch_over(&mut self) -> End {
        let asked = self.now;
        self.stop_guest();
        let overhead = self.overhead();
        let wire = self.precopy.complete();
        let time = self.setup.link.time_for(wire, self.now, self.seed.fork(3)) + overhead;
        if !time.is_finite() {
            return (Outcome::Failed, Some("the link has died in the final copy".to_owned()));
        }
        self.resume_after(time, asked);
        (Outcome::Landed, None)
    }

    fn post_copy(&mut self) -> End {
        let asked = self.now;
        self.stop_guest();
        self.precopy.sync();
        self.resume_after(self.overhead(), asked);
        let pace = self.vcpus.pace();
        let link = &self.setup.link;
        let fetched = postcopy::fetch(&mut self.precopy, link, self.seed.fork(3), self.now, pace);
        self.vcpus.lose(fetched.waited * pace, fetched.longest);
        self.now += fetched.time;
        (Outcome::Landed, None)
    }

    /// Stops the vCPUs. QEMU sends nothing while it waits for them.
    fn stop_guest(&mut self) {
        let (stops, lead) = self.vcpus.notices_stop();
        let cpu = self.vcpus.advance(stops);
        self.precopy.memory.run(cpu);
        self.now = stops;
        self.note_point();
        self.vcpus.stop(lead);
    }

    fn overhead(&self) -> f64 {
        self.setup.link.overhead(self.precopy.limit(), self.now, self.seed.fork(3))
    }

    /// The guest runs at the destination after so long.
    fn resume_after(&mut self, time: f64, asked: f64) {
        self.now += time;
        self.vcpus.advance(self.now);
        self.downtime = Some(duration(self.now - asked));
        self.note_point();
    }

    fn note_bytes(&mut self) {
        let transferred = self.precopy.transferred();
        if transferred > self.moved.0 {
            self.moved = (transferred, self.now);
        }
        let over = self.now - self.span.1;
        if over + TINY < PEAK_SPAN {
            return;
        }
        let sent = transferred.saturating_sub(self.span.0);
        if let Some(rate) = sent / duration(over)
            && self.peak.is_none_or(|peak| rate > peak.rate)
        {
            self.peak = Some(PeakRate { rate, over: duration(over) });
        }
        self.span = (transferred, self.now);
    }

    fn note_point(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        let (then, cpu) = self.cpu_seen;
        let wanted = self.vcpus.pace() * (self.now - then);
        let share = if wanted > 0.0 { (self.cpu - cpu) / wanted } else { 1.0 };
        self.cpu_seen = (self.now, self.cpu);
        let ram = self.precopy.ram();
        trace.push(Point {
            at: Moment(duration(self.now)),
            remaining: ram.remaining,
            share: Share::clamped(share),
            syncs: ram.syncs,
        });
    }

    fn ended(self, outcome: Outcome, reason: Option<String>) -> Run {
        let ram = self.precopy.ram();
        let measured = Measurements {
            total: duration(self.now),
            downtime: self.downtime,
            losses: self.vcpus.losses(),
            judged: self.vcpus.losses(),
            stalls_known: true,
            transferred: Some(ram.transferred),
            passes: Some(ram.syncs),
            peak_rate: self.peak,
        };
        Run { outcome, reason, measured, trace: self.trace.unwrap_or_default() }
    }
}
