//! One simulated migration: drives a [`Session`] in virtual time.
//!
//! The session is the one that steers real guests; this is the world in which it steers a simulated
//! one. Ten times a second, at a moment of QEMU's window that follows from the seed, and more often
//! near the end of a pass, the session gets a sample, and what it asks for is done to the simulated
//! guest. Between two samples QEMU's migration thread does what it does when its moments come;
//! everything else is a formula.
//!
//! Most samples change nothing. The policy says until when its decision stands, and until then they
//! are left out: that is where the simulator's speed comes from.

use std::time::Duration;

use landfall_core::decision::Tuning;
use landfall_core::model::DirtyCurve;
use landfall_core::model::prior::Prior;
use landfall_core::policy::{Needs, Policy};
use landfall_core::report::losses::Losses;
use landfall_core::report::{Measurements, Outcome, Report};
use landfall_core::requirements::{Aggression, Requirements, Settings};
use landfall_core::session::{Action, Session, SessionConfig, preflight};
use landfall_core::switch_over;
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status};
use landfall_core::telemetry::view::{
    Levers, NEAR_END_SAMPLE_INTERVAL, Phase, SAMPLE_INTERVAL, View,
};
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
    /// The link that it takes.
    pub link: Link,
    /// The QEMU it leaves.
    pub qemu: Qemu,
    /// What the operator asks for.
    pub requirements: Requirements,
    /// The aggression.
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

    /// The guest of a prior with this curve, the QEMU that it runs in, and what is known of both.
    /// `None` where [`Guest::from_prior`] is.
    pub fn from_prior(prior: &Prior, vcpus: u32, curve: DirtyCurve, link: Link) -> Option<Setup> {
        let guest = Guest::from_prior(prior, vcpus, curve)?;
        Some(Setup { prior: prior.clone(), qemu: Qemu::of(prior), ..Setup::new(guest, link) })
    }
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// Why, where that needs saying.
    pub reason: Option<String>,
    /// Times, losses, bytes: the truth, which the simulator knows.
    pub measured: Measurements,
    /// What the session made of the losses by the kernel's counters alone, as with a real guest.
    pub counted: Losses,
    /// How it went, if that was asked for.
    pub trace: Vec<TracePoint>,
}

impl Run {
    /// The report that a real migration with these measurements would give.
    pub fn report(&self, policy: &str, asked: &Requirements) -> Report {
        Report::of(self.outcome, policy, self.reason.clone(), asked, &self.measured)
    }
}

/// A moment of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TracePoint {
    /// When.
    pub at: Moment,
    /// Pages known dirty and not yet sent.
    pub remaining: Bytes,
    /// Share of the CPU it wants that the guest got since the point before.
    pub share: Share,
    /// Syncs so far.
    pub syncs: u64,
}

/// Time between two samples, in seconds.
const SAMPLE_INTERVAL_S: f64 = SAMPLE_INTERVAL.as_secs_f64();
/// From the command until the migration thread starts: the connection.
const SETUP: f64 = 0.01;
/// A cancelled migration is over after so long (`docs/measurements/levers-qemu-10.0.md`).
const CANCEL: f64 = 0.001;
/// A moment is taken to be reached when it is nearer than this: sums of times round.
const TINY: f64 = 1e-9;
/// Seconds after the start in which every sample is taken: the first view of what there is to send is
/// where the first pass is reckoned from.
const SETTLING: f64 = 2.0;

/// Simulates a migration.
pub fn run(setup: &Setup, policy: &mut dyn Policy, seed: Seed) -> Run {
    simulate(setup, policy, seed, false)
}

/// Simulates a migration and says how it went on the way, a point for each sample.
pub fn run_traced(setup: &Setup, policy: &mut dyn Policy, seed: Seed) -> Run {
    simulate(setup, policy, seed, true)
}

fn simulate(setup: &Setup, policy: &mut dyn Policy, seed: Seed, traced: bool) -> Run {
    let needs = policy.needs();
    let settings =
        Settings { requirements: setup.requirements.clone(), aggression: setup.aggression };
    let vcpus = setup.guest.vcpus as usize;
    let levers = Levers { post_copy: needs.post_copy, ..setup.levers };
    let refusal = preflight::check_needs(policy, setup.levers)
        .map(drop)
        .and_then(|()| preflight::look_ahead(policy, &settings, levers, &setup.prior, vcpus));
    let config = SessionConfig { settings, levers, prior: &setup.prior, forecast: None, vcpus };
    let session = Session::new(config, Box::new(policy));
    let mut simulation = Simulation::new(setup, session, needs, seed, traced);
    let (outcome, reason) = match refusal {
        Ok(()) => simulation.run(),
        Err(refusal) => return simulation.into_run(Outcome::Refused, Some(refusal.to_string())),
    };
    let reason = simulation.session.final_reason(outcome, reason);
    simulation.into_run(outcome, reason)
}

/// How a run ends, and why.
type End = (Outcome, Option<String>);

struct Simulation<'a> {
    setup: &'a Setup,
    session: Session<'a>,
    seed: Seed,
    precopy: Precopy<'a>,
    vcpus: Vcpus,
    sample: Sample,
    now: f64,
    /// When the next sample is due, or the next point of a trace.
    next_sample: f64,
    /// Time between the last sample and the next, in seconds.
    sample_interval: f64,
    /// Until then no sample would change anything, unless QEMU syncs its bitmap before.
    valid_until: f64,
    /// A new setting of QEMU's throttle, and when it counts.
    sleep: Option<(Sleep, f64)>,
    downtime: Option<Duration>,
    /// What had left when something last left, and when that was.
    moved: (Bytes, f64),
    /// When the last point of the trace was noted, and the guest's CPU time then.
    cpu_noted: (f64, f64),
    cpu: f64,
    trace: Option<Vec<TracePoint>>,
}

impl<'a> Simulation<'a> {
    fn new(
        setup: &'a Setup,
        session: Session<'a>,
        needs: Needs,
        seed: Seed,
        traced: bool,
    ) -> Simulation<'a> {
        let Setup { guest, link, qemu, requirements, .. } = setup;
        let throttle = needs.auto_converge.then_some(qemu.auto_converge);
        let memory = Memory::new(guest, seed.fork(2));
        let mut precopy = Precopy::new(link, seed.fork(3), memory, throttle, SETUP);
        precopy.set_limit(requirements.max_bandwidth.unwrap_or(qemu.max_bandwidth));
        precopy.set_downtime_limit(switch_over::limit(requirements.max_stall, None).as_secs_f64());
        let mut counters = Vec::with_capacity(guest.vcpus as usize);
        let vcpus = Vcpus::new(guest.vcpus as usize, guest.appetite());
        vcpus.counters(&mut counters);
        Simulation {
            setup,
            session,
            seed,
            precopy,
            vcpus,
            sample: Sample { at: Moment::START, migration: None, vcpus: counters },
            now: 0.0,
            next_sample: seed.part(0) * SAMPLE_INTERVAL_S,
            sample_interval: SAMPLE_INTERVAL_S,
            valid_until: 0.0,
            sleep: None,
            downtime: None,
            moved: (Bytes(0), 0.0),
            cpu_noted: (0.0, 0.0),
            cpu: 0.0,
            trace: traced.then(Vec::new),
        }
    }

    fn run(&mut self) -> End {
        let patience = self.setup.patience.as_secs_f64();
        loop {
            let turn = self.sleep.map_or(f64::INFINITY, |(_, at)| at);
            let next = self.precopy.next().min(self.next_sample).min(turn);
            if next > patience {
                self.pass(patience);
                self.vcpus.release_all();
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
                    self.on_sync(before);
                }
                if let Some(sleep) = self.precopy.take_sleep() {
                    self.sleep = Some((sleep, self.vcpus.next_turn(self.now)));
                }
            }
            if next == self.next_sample {
                if self.is_valid_at(next) {
                    self.note_point();
                } else if let Some(end) = self.take_sample() {
                    return end;
                }
                self.next_sample = self.sample_after(next);
            }
        }
    }

    /// A QEMU that emulates continues after a sync once all vCPUs have run.
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

    // ---- Samples, and those that are left out --------------------------------------------------

    /// Whether a sample at `t` may be left out.
    fn is_valid_at(&self, t: f64) -> bool {
        t + TINY < self.valid_until
    }

    /// When to take a sample, or to note a point of the trace, for the first time after `t`.
    fn sample_after(&self, t: f64) -> f64 {
        // Samples that follow each other closely fall on the grid of the others, so that it does not
        // matter which were left out.
        let valid = self.is_valid_at(t + self.sample_interval);
        let step = if valid { SAMPLE_INTERVAL_S } else { self.sample_interval };
        let begin = self.seed.part(0) * SAMPLE_INTERVAL_S;
        let number = |t: f64| ((t - begin) / step - TINY).ceil();
        let next = number(t + 2.0 * TINY).max(0.0);
        let wanted = if self.trace.is_none() { number(self.valid_until.min(1e9)) } else { next };
        begin + next.max(wanted) * step
    }

    /// QEMU synced its bitmap while samples were left out. The session is shown how things
    /// stood before, and the next sample is taken when it is due.
    fn on_sync(&mut self, before: Ram) {
        if self.is_valid_at(self.now) {
            self.fill_sample(before);
            self.session.add_sample(&self.sample);
            self.valid_until = 0.0;
            // Had samples been taken, the end of the pass would have been seen to draw near.
            self.sample_interval = NEAR_END_SAMPLE_INTERVAL.as_secs_f64();
            self.next_sample = self.sample_after(self.now);
        }
    }

    /// Gives the session a sample and does what it asks for. `Some` where that ends the migration.
    fn take_sample(&mut self) -> Option<End> {
        self.fill_sample(self.precopy.ram());
        let observation = self.session.on_sample(&self.sample)?;
        self.sample_interval = self.session.next_sample_in().as_secs_f64();
        self.note_bytes();
        self.note_point();
        self.valid_until = self.valid_until(&observation.view);
        while let Some(action) = self.session.poll_action() {
            self.carry_out(action);
            self.session.on_action_done(action);
        }
        let abort = self.session.aborted()?;
        let end = (abort.outcome, Some(abort.reason.clone()));
        self.pass(self.now + CANCEL);
        Some(end)
    }

    /// Until when no sample is needed. At first, and while nothing moves on the link, all are.
    fn valid_until(&self, view: &View) -> f64 {
        let known = view.phase != Phase::Setup && (view.link.is_some() || self.now > SETTLING);
        let moves = known && self.now - self.moved.1 < SAMPLE_INTERVAL_S;
        let valid = || self.session.valid_until(view);
        moves.then(valid).flatten().map_or(0.0, Moment::as_secs_f64)
    }

    fn fill_sample(&mut self, ram: Ram) {
        let begun = self.now >= SETUP;
        self.sample.at = self.moment();
        self.sample.migration = Some(Migration {
            status: if begun { Status::Active } else { Status::Setup },
            ram: begun.then_some(ram),
            own_throttle: self.vcpus.own_throttle(),
            downtime: None,
            error: None,
        });
        self.vcpus.counters(&mut self.sample.vcpus);
    }

    // ---- What the session asks for -------------------------------------------------------------

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Hold { vcpu, hold } => self.vcpus.set_hold(vcpu, hold),
            Action::ReleaseAll => self.vcpus.release_all(),
            Action::StopGuest => self.vcpus.stop_guest(),
            Action::ContinueGuest => self.vcpus.continue_guest(),
            Action::Tune(tuning) => self.tune(tuning),
            Action::StartPostCopy => self.precopy.ask_for_post_copy(),
            // An aborted migration ends when all of its actions have been carried out.
            Action::Cancel | Action::BreakLink => {}
        }
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

    // ---- The switch-over -------------------------------------------------------------------------

    /// QEMU stops the guest and sends the rest, with no limit but the link's.
    fn switch_over(&mut self) -> End {
        let asked = self.now;
        self.stop_for_good();
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
        self.stop_for_good();
        self.precopy.sync();
        self.resume_after(self.overhead(), asked);
        let cpu_demand = self.vcpus.cpu_demand();
        let link = &self.setup.link;
        let fetched =
            postcopy::fetch(&mut self.precopy, link, self.seed.fork(3), self.now, cpu_demand);
        self.vcpus.lose(fetched.waited * cpu_demand, fetched.longest);
        self.now += fetched.time;
        (Outcome::Landed, None)
    }

    /// Stops the vCPUs for the switch-over. QEMU sends nothing while it waits for them.
    fn stop_for_good(&mut self) {
        let (stops, lead) = self.vcpus.notices_stop();
        let cpu = self.vcpus.advance(stops);
        self.precopy.memory.run(cpu);
        self.now = stops;
        self.note_point();
        self.vcpus.stop(lead);
        self.vcpus.counters(&mut self.sample.vcpus);
        (self.sample.at, self.sample.migration) = (self.moment(), None);
        self.session.add_sample(&self.sample);
        self.session.on_stop(self.moment());
    }

    fn overhead(&self) -> f64 {
        self.setup.link.overhead(self.precopy.limit(), self.now, self.seed.fork(3))
    }

    /// The guest runs at the destination after so long.
    fn resume_after(&mut self, time: f64, asked: f64) {
        self.now += time;
        self.vcpus.advance(self.now);
        self.downtime = Some(duration(self.now - asked));
        self.session.on_resume(self.moment(), true);
        self.note_point();
    }

    // ---- What is noted -------------------------------------------------------------------------

    fn moment(&self) -> Moment {
        Moment(duration(self.now))
    }

    fn note_bytes(&mut self) {
        let transferred = self.precopy.transferred();
        if transferred > self.moved.0 {
            self.moved = (transferred, self.now);
        }
        self.session.on_transferred(self.moment(), transferred, true);
    }

    fn note_point(&mut self) {
        let Some(trace) = &mut self.trace else { return };
        let (then, cpu) = self.cpu_noted;
        let wanted = self.vcpus.cpu_demand() * (self.now - then);
        let share = if wanted > 0.0 { (self.cpu - cpu) / wanted } else { 1.0 };
        self.cpu_noted = (self.now, self.cpu);
        let ram = self.precopy.ram();
        trace.push(TracePoint {
            at: Moment(duration(self.now)),
            remaining: ram.remaining,
            share: Share::clamped(share),
            syncs: ram.syncs,
        });
    }

    fn into_run(self, outcome: Outcome, reason: Option<String>) -> Run {
        let ram = self.precopy.ram();
        let measured = Measurements {
            total: duration(self.now),
            downtime: self.downtime,
            losses: self.vcpus.losses(),
            judged: self.vcpus.losses(),
            stalls_known: true,
            transferred: Some(ram.transferred),
            passes: Some(ram.syncs),
            peak_rate: self.session.peak_rate(),
        };
        let counted = self.session.losses();
        Run { outcome, reason, measured, counted, trace: self.trace.unwrap_or_default() }
    }
}
