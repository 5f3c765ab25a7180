//! Steering one migration, without touching the world.
//!
//! **Problem.** A real migration and a simulated one have to be steered by the very same code, or
//! the simulator's results say nothing about the real one. So steering does no I/O
//! and has no clock: a driver gives it what happened, and carries out what it asks for.
//!
//! **Approach.** [`Session`] is a plain value. Inputs are methods named `on_...`; each takes the
//! moment at which the thing happened. Outputs are polled:
//!
//! ```text
//! on_sample, on_stop, on_resume ──┐                     ┌──> poll_action   what to do now
//! propose / accept (settings)   ──┼──>   Session     ───┼──> next_..._in   when to look again
//! abort, on_action_...          ──┘                     └──> end, report   how it ended
//! ```
//!
//! A driver's loop is: give the session an input, carry out every [`Action`] that
//! [`Session::poll_action`] gives and say what became of each ([`Session::on_action_done`],
//! [`Session::on_action_failed`]), then wait until the next deadline. `landfall-qemu` drives a real
//! guest so, `landfall-sim` a simulated one, and [`crate::recording`] a recorded one, whose actions
//! have been carried out already.
//!
//! **What holds.**
//! - Nothing is changed on a guest but by an action, and a policy's decision becomes actions only
//!   after [`crate::guard`] has passed it.
//! - Once a migration is aborted no action holds a vCPU any more.
//! - The report holds what was measured: no figure of it comes from what was asked for.

mod abort;
mod action;
mod link_monitor;
pub mod preflight;
mod requests;
mod summary;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use crate::decision::{Decision, Finish, Hold, Tuning};
use crate::ending::GuestState;
use crate::guard;
use crate::model::prior::Prior;
use crate::planner;
use crate::policy::Policy;
use crate::report::losses::{LossMeter, Losses};
use crate::report::peak_rate::PeakRateMeter;
use crate::report::{Class, Forecast, Outcome, PeakRate};
use crate::requirements::{SettingChange, Settings};
use crate::switch_over;
use crate::telemetry::observer::Observer;
use crate::telemetry::progress::{Progress, ProgressSnapshot, time_left};
use crate::telemetry::sample::{Migration, Ram, Sample, Status};
use crate::telemetry::view::{Levers, Phase, SAMPLE_INTERVAL, View};
use crate::units::{Bytes, Moment, Share, show_duration};

pub use abort::Abort;
pub use action::Action;
pub use requests::{SettingsProposal, SettingsRefusal};

use link_monitor::{LinkMonitor, LinkState};

/// For how long the hypervisor may wait for another program before the switch-over, unless the operator says
/// otherwise: a mirror that is ready takes a fraction of a second, and the guest stands still meanwhile.
pub const SWITCH_OVER_DEADLINE: Duration = Duration::from_secs(30);

/// How often the kernel's counters are read while the guest is hindered: twice a period of its
/// quota, within these bounds. The kernel counts each gap of a quota; where the guest stands still
/// by other means, or may soon, only the samples show it, and they are as close as they may be.
const COUNTER_INTERVAL: (Duration, Duration) =
    (Duration::from_millis(10), Duration::from_millis(20));

/// What a migration is steered with.
#[derive(Debug, Clone)]
pub struct SessionConfig<'a> {
    /// What the operator asks for.
    pub settings: Settings,
    /// The levers there are.
    pub levers: Levers,
    /// What is known before the start.
    pub prior: &'a Prior,
    /// What is expected.
    pub forecast: Option<Forecast>,
    /// How many vCPUs are held and counted.
    pub vcpus: usize,
}

/// A sample of the hypervisor evaluated: the view, and the decision on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The view.
    pub view: View,
    /// The decision, within the requirements.
    pub decision: Decision,
    /// Share of the migration that is done, 0 to 1; never less than before.
    pub fraction: f64,
}

impl Observation {
    /// The same, for people.
    pub fn progress(&self) -> ProgressSnapshot {
        let Observation { view, decision, fraction } = self;
        ProgressSnapshot::of(view, *fraction, time_left(view), &decision.reason)
    }
}

/// How steering ended, as far as the session can tell.
#[derive(Debug, Clone, PartialEq)]
pub enum SessionEnd {
    /// The hypervisor says that the migration is over, and why if it failed.
    Over(Status, Option<String>),
    /// The migration can be neither steered nor ended from here; the text says why.
    Stuck(String),
}

/// One migration under way. See the module.
pub struct Session<'p> {
    policy: Box<dyn Policy + 'p>,
    observer: Observer,
    losses: LossMeter,
    peak_rate: PeakRateMeter,
    progress: Progress,
    link: LinkMonitor,
    /// How the vCPUs are held now.
    holds: Vec<Hold>,
    /// The holds in force have changed since observer and meter got them.
    holds_changed: bool,
    actions: VecDeque<Action>,
    /// The syncs there were when shipping was last decided, while that stands.
    shipping_since: Option<u64>,
    post_copy: bool,
    abort: Option<Abort>,
    link_broken: bool,
    next_sample_in: Duration,
    expected_downtime: Duration,
    last_migration: Option<Migration>,
    last_ram: Option<Ram>,
    /// What the hypervisor says of the guest that stands still without landfall's doing.
    stopped_as: Option<GuestState>,
    /// For how long the hypervisor may wait before the switch-over, and since when it does.
    switch_over_deadline: Duration,
    waits_since: Option<Moment>,
    throttled_by_hypervisor: bool,
    /// When the guest was seen to run at the destination.
    arrived: Option<Moment>,
    class: Class,
    forecast: Option<Forecast>,
    changes: Vec<SettingChange>,
    end: Option<SessionEnd>,
}

impl<'p> Session<'p> {
    /// A session of a migration that has just been started, with all vCPUs free.
    pub fn new(config: SessionConfig, policy: Box<dyn Policy + 'p>) -> Session<'p> {
        let SessionConfig { settings, levers, prior, forecast, vcpus } = config;
        Session {
            policy,
            observer: Observer::new(settings.requirements, settings.aggression, levers, prior),
            losses: LossMeter::default(),
            peak_rate: PeakRateMeter::default(),
            progress: Progress::default(),
            link: LinkMonitor::default(),
            holds: vec![Hold::Free; vcpus],
            holds_changed: false,
            actions: VecDeque::new(),
            shipping_since: None,
            post_copy: false,
            abort: None,
            link_broken: false,
            next_sample_in: SAMPLE_INTERVAL,
            expected_downtime: Duration::ZERO,
            last_migration: None,
            last_ram: None,
            stopped_as: None,
            switch_over_deadline: SWITCH_OVER_DEADLINE,
            waits_since: None,
            throttled_by_hypervisor: false,
            arrived: None,
            class: Class::Unknown,
            forecast,
            changes: Vec::new(),
            end: None,
        }
    }

    /// Changes for how long the hypervisor may wait before the switch-over ([`Status::PreSwitchOver`]).
    pub fn with_switch_over_deadline(mut self, deadline: Duration) -> Session<'p> {
        self.switch_over_deadline = deadline;
        self
    }

    /// Takes over what was measured of the vCPUs before the start: how much CPU each wants.
    pub fn with_losses(mut self, losses: LossMeter) -> Session<'p> {
        self.losses = losses;
        self
    }

    // ---- Inputs --------------------------------------------------------------------------------

    /// Takes in counters. Decides, and queues actions, where the sample has the hypervisor's status;
    /// a sample of the kernel's counters alone only adds to what is known of the vCPUs.
    pub fn on_sample(&mut self, sample: &Sample) -> Option<Observation> {
        self.losses.on_sample(sample);
        let view = self.observer.on_sample(sample)?;
        let migration = sample.migration.as_ref()?;
        self.throttled_by_hypervisor |=
            migration.own_throttle.is_some_and(|share| share > Share::NONE);
        self.post_copy |= matches!(migration.status, Status::PostCopy | Status::PostCopyPaused);
        if let Some(ram) = migration.ram {
            self.on_transferred(sample.at, ram.transferred, migration.status == Status::Active);
        }
        self.last_ram = migration.ram.or(self.last_ram);
        self.next_sample_in = view.next_sample_in();
        let decision = guard::enforce(&view, self.decide(&view));
        let fraction = self.progress.fraction(&view);
        self.expected_downtime = view.downtime_if_shipped().unwrap_or_default();
        if !migration.status.is_over() && self.abort.is_none() {
            self.act_on(&view, &decision, sample.at);
        }
        self.check_whether_over(migration, sample.at);
        Some(Observation { view, decision, fraction })
    }

    /// Takes in a sample without deciding anything.
    pub fn add_sample(&mut self, sample: &Sample) {
        self.losses.on_sample(sample);
        self.observer.add_sample(sample);
    }

    /// Takes in the bytes that had left by then, in pre-copy or after it.
    pub fn on_transferred(&mut self, at: Moment, transferred: Bytes, precopy: bool) {
        self.link.on_transferred(at, transferred);
        // The rate is compared with this requirement only.
        if precopy && self.settings().requirements.max_bandwidth.is_some() {
            self.peak_rate.on_transferred(at, transferred);
        }
    }

    /// The guest's vCPUs have stopped at the source.
    pub fn on_stop(&mut self, at: Moment) {
        self.losses.on_stop(at);
        self.link.on_progress(at);
        if !self.is_stopped_by_landfall() {
            // A quota on a thread that stands still only delays its next steps.
            self.actions.push_back(Action::ReleaseAll);
        }
    }

    /// The guest's vCPUs run again, at the source or at the destination.
    pub fn on_resume(&mut self, at: Moment, at_destination: bool) {
        self.losses.on_resume(at);
        self.stopped_as = None;
        if at_destination {
            self.arrived = Some(at);
        }
    }

    /// Whether the hypervisor's run state has to be asked for before its status can
    /// be interpreted: the guest stands still, and it is not known who stopped it.
    pub fn must_query_run_state(&self, migration: &Migration) -> bool {
        self.stands_still_unasked(migration) && self.stopped_as.is_none()
    }

    /// Why the guest stands still: it was paused, has halted, or was stopped for the final copy; `None`
    /// where QEMU did not say.
    pub fn on_run_state(&mut self, state: Option<GuestState>) {
        self.stopped_as = state;
    }

    /// The hypervisor's migration status, with the final copy called what it is. QEMU calls it
    /// "active"; that the guest stands still without landfall's doing tells.
    pub fn interpret(&self, migration: Migration) -> Migration {
        let for_final_copy = !matches!(
            self.stopped_as,
            Some(GuestState::Paused | GuestState::Halted | GuestState::Running)
        );
        match self.stands_still_unasked(&migration) && for_final_copy {
            true => Migration { status: Status::SwitchOver, ..migration },
            false => migration,
        }
    }

    /// An action was carried out.
    pub fn on_action_done(&mut self, action: Action) {
        match action {
            Action::Hold { vcpu, hold } => self.set_hold(vcpu, hold),
            Action::ReleaseAll if !self.is_stopped_by_landfall() => self.set_all(Hold::Free),
            Action::StopGuest => self.set_all(Hold::Stopped),
            Action::ContinueGuest => self.set_all(Hold::Free),
            Action::Cancel => {
                if let Some(abort) = &mut self.abort {
                    abort.requested = true;
                }
            }
            Action::ReleaseAll | Action::Tune(_) | Action::StartPostCopy | Action::BreakLink => {}
        }
    }

    /// An action was not carried out, and `problem` says why. What can be tried again is, at the
    /// next sample; otherwise the migration is aborted.
    pub fn on_action_failed(&mut self, action: Action, problem: String, at: Moment) {
        match action {
            // The monitor may have been busy, or it is too late: asked again at the next sample.
            Action::Cancel | Action::BreakLink | Action::ReleaseAll => {}
            Action::Hold { .. }
            | Action::StopGuest
            | Action::ContinueGuest
            | Action::Tune(_)
            | Action::StartPostCopy => {
                self.actions.clear();
                self.abort(Outcome::Failed, problem, at);
            }
        }
    }

    /// How the vCPUs are held, where that was not brought about by an action: in a recording.
    pub fn on_holds(&mut self, holds: &[Hold]) {
        self.holds.clear();
        self.holds.extend_from_slice(holds);
        self.holds_changed = true;
        self.publish_holds();
    }

    // ---- Outputs -------------------------------------------------------------------------------

    /// What to do next; `None` when there is nothing to do until the next input.
    pub fn poll_action(&mut self) -> Option<Action> {
        let action = self.actions.pop_front();
        if action.is_none() {
            self.publish_holds();
        }
        action
    }

    /// Forgets the actions that wait: a recorded migration has had them.
    pub fn discard_actions(&mut self) {
        self.actions.clear();
    }

    /// How soon to query the hypervisor again, counted from the last time.
    pub fn next_sample_in(&self) -> Duration {
        self.next_sample_in
    }

    /// How soon to read the kernel's counters again.
    pub fn next_counters_in(&self) -> Duration {
        if !self.is_hindered() {
            return SAMPLE_INTERVAL;
        }
        let may_stop = self.shipping_since.is_some() || self.next_sample_in < SAMPLE_INTERVAL;
        if self.throttled_by_hypervisor || may_stop || self.losses.stopped_since().is_some() {
            return COUNTER_INTERVAL.0;
        }
        let periods = self.holds.iter().filter_map(|hold| match hold {
            Hold::Quota(quota) => Some(quota.period),
            Hold::Free | Hold::Stopped => None,
        });
        let (least, most) = COUNTER_INTERVAL;
        periods.min().map_or(least, |period| (period / 2).clamp(least, most))
    }

    /// Until when the decision on a view stands, unless the hypervisor looks at its dirty bitmap
    /// before; `None` where the next sample may change it. The simulator skips samples by it.
    pub fn valid_until(&self, view: &View) -> Option<Moment> {
        Some(self.policy.valid_until(view)?.min(guard::valid_until(view)))
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<&SessionEnd> {
        self.end.as_ref()
    }

    /// What the operator asks for now.
    pub fn settings(&self) -> &Settings {
        self.observer.settings()
    }

    /// The levers there are.
    pub fn levers(&self) -> Levers {
        self.observer.levers()
    }

    /// How the vCPUs are held now.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// How the vCPUs were held when the last view was made.
    pub fn observed_holds(&self) -> &[Hold] {
        self.observer.holds()
    }

    /// The name of the policy that steers.
    pub fn policy_name(&self) -> &str {
        self.policy.name()
    }

    /// Whether landfall stopped the guest.
    pub fn is_stopped_by_landfall(&self) -> bool {
        self.holds.contains(&Hold::Stopped)
    }

    /// Whether someone else paused the guest on the way.
    pub fn is_paused_by_other(&self) -> bool {
        self.stopped_as == Some(GuestState::Paused)
    }

    /// Whether the rest is being shipped because the policy decided so.
    pub fn is_shipping(&self) -> bool {
        self.shipping_since.is_some()
    }

    /// The last that the hypervisor said of the migration.
    pub fn last_migration(&self) -> Option<&Migration> {
        self.last_migration.as_ref()
    }

    /// What was taken from the guest so far, by the kernel's counters and the events.
    pub fn losses(&self) -> Losses {
        self.losses.losses()
    }

    /// The highest rate on the wire so far, where a limit for it is asked for.
    pub fn peak_rate(&self) -> Option<PeakRate> {
        self.peak_rate.peak()
    }

    /// Says to which class the guest of a view belongs, for the report. Apart from
    /// [`Session::on_sample`], for it fits the guest's dirty curve: a simulation does without.
    pub fn classify(&mut self, view: &View) {
        if view.syncs > 0 && view.phase == Phase::Iterating {
            self.class = planner::classify_view(view).unwrap_or(self.class);
        }
    }

    // ---- From a decision to actions ------------------------------------------------------------

    /// Asks the policy. One that panics ends the migration, not the program: the guest comes first.
    fn decide(&mut self, view: &View) -> Decision {
        let policy = &mut self.policy;
        let decided = catch_unwind(AssertUnwindSafe(|| policy.decide(view)));
        decided.unwrap_or_else(|_| {
            let reason = format!("policy {} panicked; this is a bug in it", policy.name());
            Decision::finish(Finish::Cancel, reason)
        })
    }

    fn act_on(&mut self, view: &View, decision: &Decision, at: Moment) {
        // A sync after the decision to ship, and the guest still runs: it had dirtied more than was
        // known. The policy decides again.
        if view.phase == Phase::Iterating {
            self.shipping_since = self.shipping_since.filter(|syncs| *syncs == view.syncs);
        }
        match decision.finish {
            Some(Finish::Cancel) => {
                self.abort(Outcome::Cancelled, decision.reason.clone().into_owned(), at);
            }
            Some(Finish::PostCopy) if !self.post_copy => {
                self.post_copy = true;
                self.actions.extend([Action::ReleaseAll, Action::StartPostCopy]);
            }
            Some(Finish::Ship) if self.shipping_since.is_none() => self.ship(view, decision),
            _ if self.shipping_since.is_some() => {}
            // A paused guest needs no hold, and a guest that was paused must arrive paused.
            _ if matches!(view.phase, Phase::SwitchOver | Phase::PostCopy) || self.post_copy => {}
            _ => {
                self.tune(decision.tuning);
                self.hold(decision);
            }
        }
    }

    /// Has the hypervisor switch over. What is held stays held until the guest stands still, unless
    /// the decision has holds of its own: a guest released now would dirty again what was just sent.
    fn ship(&mut self, view: &View, decision: &Decision) {
        self.shipping_since = Some(view.syncs);
        if !decision.holds.is_empty() {
            self.hold(decision);
        }
        let limit = decision.tuning.downtime_limit;
        let limit = limit.unwrap_or_else(|| switch_over::longest_shipment(view));
        self.tune(Tuning { downtime_limit: Some(limit), ..decision.tuning });
    }

    fn tune(&mut self, tuning: Tuning) {
        if tuning != Tuning::default() {
            self.actions.push_back(Action::Tune(tuning));
        }
    }

    /// Queues what turns the holds in force into those of a decision. A hold that is nearly the one
    /// in force is left as it is.
    fn hold(&mut self, decision: &Decision) {
        let stops = (0..self.holds.len()).any(|vcpu| decision.hold(vcpu) == Hold::Stopped);
        let stopped = self.is_stopped_by_landfall();
        match (stopped, stops) {
            (true, true) => return,
            (false, true) => {
                self.actions.push_back(Action::StopGuest);
                return;
            }
            (true, false) => self.actions.push_back(Action::ContinueGuest),
            (false, false) => {}
        }
        for (vcpu, now) in self.holds.iter().enumerate() {
            let (now, hold) = (if stopped { Hold::Free } else { *now }, decision.hold(vcpu));
            if now != hold && !now.is_nearly(hold) {
                self.actions.push_back(Action::Hold { vcpu, hold });
            }
        }
    }

    // ---- What is in force ----------------------------------------------------------------------

    fn set_hold(&mut self, vcpu: usize, hold: Hold) {
        if let Some(now) = self.holds.get_mut(vcpu) {
            *now = hold;
            self.holds_changed = true;
        }
    }

    fn set_all(&mut self, hold: Hold) {
        self.holds.fill(hold);
        self.holds_changed = true;
    }

    fn publish_holds(&mut self) {
        if std::mem::take(&mut self.holds_changed) {
            self.losses.on_holds(&self.holds);
            self.observer.on_holds(&self.holds);
        }
    }

    // ---- How it stands -------------------------------------------------------------------------

    fn is_hindered(&self) -> bool {
        self.holds.iter().any(|hold| *hold != Hold::Free)
            || self.throttled_by_hypervisor
            || self.losses.stopped_since().is_some()
    }

    fn stands_still_unasked(&self, migration: &Migration) -> bool {
        migration.status == Status::Active
            && self.losses.stopped_since().is_some()
            && !self.is_stopped_by_landfall()
    }

    /// Aborts a migration whose switch-over is held for too long. The guest stands still meanwhile.
    fn check_switch_over_deadline(&mut self, status: Status, at: Moment) {
        if status != Status::PreSwitchOver {
            self.waits_since = None;
            return;
        }
        let since = *self.waits_since.get_or_insert(at);
        if at.since(since) > self.switch_over_deadline {
            let reason = format!(
                "the switch-over was held for longer than {} (QEMU waits for migrate-continue, because \
                 pause-before-switchover is set): look at the program that moves the disks, or raise \
                 --switch-over-deadline",
                show_duration(self.switch_over_deadline)
            );
            self.abort(Outcome::Failed, reason, at);
        }
    }

    /// Notices that the migration is over, or that nothing moves on the link.
    fn check_whether_over(&mut self, migration: &Migration, at: Moment) {
        self.last_migration = Some(migration.clone());
        if migration.status.is_over() {
            self.end = Some(SessionEnd::Over(migration.status, migration.error.clone()));
            return;
        }
        self.check_switch_over_deadline(migration.status, at);
        match self.link.state(migration.status, at) {
            LinkState::Ok => {}
            LinkState::Stalled(reason) => self.abort(Outcome::Failed, reason, at),
            LinkState::Lost(reason) => self.end = Some(SessionEnd::Stuck(reason)),
        }
        self.retry_cancel();
    }
}
