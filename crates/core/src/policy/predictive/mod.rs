//! Steers by the dirty curve instead of by steps: knows what each way to the end would cost, and
//! takes the cheapest that keeps the requirements.
//!
//! At the begin of every pass, and amid one if what it rests on has changed, the plan is made anew
//! ([`crate::planner`]) from where the migration stands and what is known of guest and link by now. It
//! holds the guest late, hard and short, for a pass at full speed costs no work; pauses it where that
//! loses less than holding it and the stall allows; and leaves a guest that lands by itself alone.
//!
//! While it steers, it keeps QEMU's own downtime limit at next to nothing: QEMU would otherwise look
//! at its bitmap anew as soon as what remains *of the pass* fits the limit, and forget with each
//! look what the guest wrote twice. A pass that runs to its end leaves `D(c)`, and that is what has
//! to fit.
//!
//! Where nothing keeps all of the requirements, they are given up one by one in the operator's order
//! (`--give-way`); where none may be, it says before the start, or as soon as it shows, why not and
//! what would resolve it.

mod congestion;
mod tables;

use std::sync::Arc;
use std::time::Duration;

use super::convergence::Trend;
use super::{Needs, Policy, Progressive};
use crate::decision::{Decision, Finish, Hold, Quota, Tuning};
use crate::model::prior::Pace;
use crate::model::{CpuTime, Estimate};
use crate::planner::{
    Constraints, Plan, PlanCost, PlanInputs, PlanState, PlanStep, STEERING_NODES, ValueTable,
    remedies, share_for_cpu,
};
use crate::requirements::{Aggression, Requirement, Requirements};
use crate::switch_over;
use crate::telemetry::view::{Phase, SyncInterval, View};
use crate::units::{ByteRate, Bytes, Share, show_duration};
use congestion::Congestion;
use tables::{Tables, hopeful, longest, time_left};

/// The downtime limit under which QEMU lets every pass run to its end.
const WHOLE_PASSES: Duration = Duration::from_millis(1);

/// A hold is not changed for less than this part of it: every change refills the quota.
const WORTH_CHANGING: f64 = 0.1;

/// In the last stretch of a pass the hold stays as it is: what is left to give is within the error.
const LAST_STRETCH: f64 = 0.2;

/// After each shipment that turned out not to fit, so much less is shipped: at the edge, what a held
/// guest writes in one quota decides.
const ONE_MORE_TRY: f64 = 0.85;

/// Component of its former rate at which a link that is being drained is taken to be the same link.
const STILL_THERE: f64 = 0.9 * switch_over::DRAIN;

/// A hold that is over so soon, in seconds, is not lifted for a congested link.
const SOON: f64 = 0.5;

/// A guest that not even the most hopeful curve can land is given up after so many syncs.
const SURE: u64 = 3;

/// See the module.
#[derive(Debug, Default)]
pub struct Predictive {
    tables: Tables,
    aim: Option<Aim>,
    /// What the operator demanded at the last look.
    asked: Option<(Requirements, Aggression)>,
    congestion: Congestion,
    /// Used where the kernel does not say how much CPU the guest had.
    blind: Progressive,
    held: Option<(u64, Share)>,
    /// The link's rate when its buffers began to be drained.
    drained: Option<ByteRate>,
    steering: bool,
    /// The pass in which shipping was last decided, and how often QEMU then found too much.
    shipping: Option<u64>,
    failed: u32,
    /// The syncs there were, and how many of them nearly landed a guest that lands by itself.
    misses: (u64, u32),
    /// The syncs there will be when it was to land, as it was planned at first.
    due: Option<u64>,
    trend: Trend,
    explanation: Option<String>,
}

impl Policy for Predictive {
    fn name(&self) -> &'static str {
        "predictive"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn preflight(&mut self, view: &View) -> Result<(), String> {
        match self.best(view) {
            Some(Best::Nothing) => Err(remedies::conflict(view)),
            _ => Ok(()),
        }
    }

    fn explanation(&self) -> Option<String> {
        self.explanation.clone()
    }

    fn decide(&mut self, view: &View) -> Decision {
        if !matches!(view.phase, Phase::FirstPass | Phase::Iterating) {
            return Decision::leave_alone("nothing to decide in this phase");
        }
        if self.shipping.is_some_and(|pass| pass < view.syncs) {
            self.shipping = None;
            self.failed += 1;
        }
        self.heed(view);
        self.congestion.look(view);
        self.trend.step(view);
        let best = match self.aim_or_best(view) {
            Some(best) => best,
            None if view.syncs > 1 => return self.blind.decide(view),
            None => return Decision::leave_alone("learning how the guest writes"),
        };
        match best {
            Best::Plan(..) if waits_for_link(view) => {
                Decision::leave_alone("the link is not known yet")
            }
            Best::Plan(plan, terms, allowed) if self.waits(view, &plan, &terms, &allowed) => {
                self.steering = true;
                self.hold(view, Share::FULL, "the link is slower than it was: waiting for it")
            }
            Best::Plan(plan, terms, allowed) => self.follow(view, &plan, &terms, &allowed),
            Best::Nothing if view.syncs >= SURE => {
                Decision::finish(Finish::Cancel, remedies::conflict(view))
            }
            Best::Nothing if view.phase == Phase::FirstPass => {
                Decision::leave_alone("the first pass goes on with the guest at full speed")
            }
            Best::Nothing => {
                let tightest = Constraints::all(&view.requirements).tightest(view);
                self.hold(view, tightest, "no plan lands it yet: the tightest hold")
            }
        }
    }
}

/// What was resolved at the begin of a pass, and on what grounds.
#[derive(Debug)]
struct Aim {
    pass: (Phase, u64),
    guest: Arc<Estimate>,
    plan: Plan,
    /// What comes after this pass, in seconds.
    rest: f64,
    terms: PlanInputs,
    allowed: Constraints,
}

impl Aim {
    /// The plan, with the time that is left by now.
    fn plan_now(&self, view: &View) -> Plan {
        let total = self.rest + time_to_send(view, &self.terms);
        Plan { cost: PlanCost { total, ..self.plan.cost }, ..self.plan }
    }

    /// Whether its grounds still hold: plans that are made anew at every look turn with the noise.
    fn stands(&self, view: &View) -> bool {
        self.pass == (view.phase, view.syncs)
            && view.estimate().is_some_and(|guest| Arc::ptr_eq(guest, &self.guest))
            && self.allowed.plan_inputs(view).is_some_and(|terms| much_alike(&self.terms, &terms))
    }
}

/// The best there is.
enum Best {
    /// A plan, its terms, and what of the requirements it keeps.
    Plan(Plan, PlanInputs, Constraints),
    /// No plan keeps the requirements, not even with the most hopeful curve.
    Nothing,
}

impl Predictive {
    /// Forgets what is of before, where the operator demands something else than at the last look.
    fn heed(&mut self, view: &View) {
        let asked = (&view.requirements, view.aggression);
        let was = self.asked.as_ref().filter(|(was, dial)| (was, *dial) != asked);
        if let Some((was, _)) = was {
            (self.aim, self.due) = (None, None);
            if was.max_bandwidth != view.requirements.max_bandwidth {
                (self.drained, self.congestion) = Default::default();
            }
        }
        if was.is_some() || self.asked.is_none() {
            self.asked = Some((view.requirements.clone(), view.aggression));
        }
    }

    /// What was resolved for this pass, while its grounds hold and nothing can be shipped; or else
    /// the best there is now.
    fn aim_or_best(&mut self, view: &View) -> Option<Best> {
        let aim = self.aim.take().filter(|aim| aim.stands(view));
        if let Some(aim) = aim {
            let kept = Best::Plan(aim.plan_now(view), aim.terms, aim.allowed);
            let ships =
                self.ships_now(view, &aim.allowed).then(|| self.best(view)).flatten().filter(
                    |best| matches!(best, Best::Plan(plan, ..) if plan.step == PlanStep::Ship),
                );
            self.aim = Some(aim);
            return Some(ships.unwrap_or(kept));
        }
        let best = self.best(view)?;
        // A plan that cannot be followed yet gets worse meanwhile.
        if let Best::Plan(plan, terms, allowed) = best
            && !waits_for_link(view)
        {
            let guest = Arc::clone(view.estimate()?);
            let pass = (view.phase, view.syncs);
            let rest = plan.cost.total - time_to_send(view, &terms);
            self.aim = Some(Aim { pass, guest, plan, rest, terms, allowed });
        }
        Some(best)
    }

    /// The cheapest plan that keeps all requirements; or else all but the first that may give way,
    /// and so on. `None` while too little is known.
    fn best(&mut self, view: &View) -> Option<Best> {
        let guest = Arc::clone(view.estimate()?);
        let mut allowed = Constraints::all(&view.requirements);
        let mut terms = allowed.plan_inputs(view)?;
        for (level, given_up) in
            [None].into_iter().chain(view.requirements.give_way.iter().map(Some)).enumerate()
        {
            if let Some(&given_up) = given_up {
                allowed = allowed.without(given_up);
                terms = allowed.plan_inputs(view)?;
            }
            terms.weight = terms.weight.max(self.hurry(view));
            let (from, begun) = position(view, &terms)?;
            let now = PlanState { may_ship: self.ships_now(view, &allowed), ..from };
            let left = time_left(&allowed, view) - begun;
            if let Some(plan) = self.tables.in_time(level, &guest, terms, now, left) {
                return Some(Best::Plan(plan, terms, allowed));
            }
            // Nothing is given up while it may yet be kept.
            if let Some(plan) = hopeful(&guest, terms, now, left, &allowed, view) {
                return Some(Best::Plan(plan, terms, allowed));
            }
        }
        Some(Best::Nothing)
    }

    /// The weight of time when the migration is overdue and gets nowhere. Passes that each leave a little
    /// more than was planned are cheap one by one, and never end: so the more there are in a row that leave
    /// not a good deal less than the best before, the more time weighs.
    fn hurry(&self, view: &View) -> f64 {
        let overdue = self.due.map_or(0, |due| view.syncs.saturating_sub(due));
        (0.25 * (overdue.min(self.trend.without_progress().into()) / 2) as f64).min(1.0)
    }

    /// Whether to leave the guest at full speed until the link is what it was: while there is time, and
    /// where the wait costs less than the work that may be saved by it.
    fn waits(&self, view: &View, plan: &Plan, terms: &PlanInputs, allowed: &Constraints) -> bool {
        let Some(wait) = self.congestion.wait(view.now).map(|most| most / 2.0) else {
            return false;
        };
        let held = self.held.is_some_and(|(_, share)| share < Share::FULL);
        let soon = held && plan.cost.passes <= 1 && time_to_send(view, terms) < SOON;
        let in_time = wait + 2.0 * plan.cost.total <= time_left(allowed, view);
        let worth =
            terms.weight * terms.cpu_demand.0 * wait <= (1.0 - terms.weight) * plan.cost.lost.0;
        in_time && worth && !soon
    }

    fn follow(
        &mut self,
        view: &View,
        plan: &Plan,
        terms: &PlanInputs,
        allowed: &Constraints,
    ) -> Decision {
        let untouched = self.held.is_none_or(|(_, share)| share == Share::FULL);
        if plan.is_free() && untouched && lands_by_itself(view, terms) {
            return self.by_itself(view, plan, terms);
        }
        if view.phase == Phase::Iterating || !plan.is_free() {
            self.steering = true;
            self.due.get_or_insert(view.syncs + u64::from(plan.cost.passes));
        }
        match plan.step {
            PlanStep::Ship => self.ship(view, plan, allowed),
            PlanStep::Free => match self.held_to_the_end(view, terms) {
                Some(share) if share < Share::FULL => {
                    self.hold(view, share, "held to the end of this pass")
                }
                _ => {
                    self.drain(view, plan);
                    self.hold(view, Share::FULL, "at full speed: this pass costs no work")
                }
            },
            PlanStep::Hold(cpu) => self.give(view, plan, cpu, terms, allowed.tightest(view)),
        }
    }

    /// The hold of a pass that is nearly over, which stays as it is to its end. What is left of the pass
    /// may cost no work any more; but until that shows, the next one would begin with the guest let
    /// go, and dirty again what the hold has kept clean.
    fn held_to_the_end(&self, view: &View, terms: &PlanInputs) -> Option<Share> {
        let (_, share) = self.held.filter(|(pass, _)| *pass == view.syncs)?;
        (time_to_send(view, terms) < LAST_STRETCH).then_some(share)
    }

    /// Gives the guest so much CPU time in this pass, evenly over what is left of it.
    fn give(
        &mut self,
        view: &View,
        plan: &Plan,
        cpu: CpuTime,
        terms: &PlanInputs,
        tightest: Share,
    ) -> Decision {
        self.explain(view, plan);
        self.drain(view, plan);
        let share = self.held_to_the_end(view, terms).unwrap_or_else(|| {
            let left = (cpu - view.cpu_since_sync.unwrap_or_default()).0.max(0.0);
            let time = time_to_send(view, terms).max(LAST_STRETCH);
            let share = share_for_cpu(view, Pace(left / time)).max(tightest);
            self.held.filter(|(_, held)| gives(view, *held, time, left)).map_or(share, |it| it.1)
        });
        self.hold(view, share, "held to what lands it at the end of this pass")
    }

    /// Leaves the guest alone, and has QEMU switch over no sooner than it must: it would stop the
    /// guest as soon as what remains fits the limit, for all of the limit, where a pass or two more
    /// would leave next to nothing.
    fn by_itself(&mut self, view: &View, plan: &Plan, terms: &PlanInputs) -> Decision {
        let known = view.estimate().zip(terms.shipment).filter(|_| view.link_error.is_some());
        let Some((guest, most)) = known else {
            return Decision::leave_alone("it lands by itself");
        };
        // What is dirtied in a window of the rate limit is always left.
        let least =
            0.02 + 1.5 * guest.curve.dirtied_bytes(terms.cpu_demand.0 * WINDOW) / terms.link.0;
        // Should that not do, it may soon take longer.
        let patient = least * 2f64.powf(f64::from(self.missed(view, least * terms.link.0)) / 4.0);
        let limit = Duration::try_from_secs_f64(patient.min(most)).ok();
        self.drain(view, plan);
        let max_bandwidth = self.drains_at();
        let tuning = Tuning { downtime_limit: limit, max_bandwidth, ..Tuning::default() };
        Decision { tuning, ..Decision::leave_alone("it lands by itself") }
    }

    /// How many syncs have left so little that it was nearly shipped, and then was not.
    fn missed(&mut self, view: &View, shipped: f64) -> u32 {
        let near = |interval: &SyncInterval| interval.remaining_after.as_f64() < NEARLY * shipped;
        if view.syncs > self.misses.0 {
            let missed = view.last_sync.as_ref().is_some_and(near);
            self.misses = (view.syncs, self.misses.1 + u32::from(missed));
        }
        self.misses.1
    }

    /// Towards the end, sends a little less than the link carries, so that its buffers are empty when
    /// the guest stands still.
    fn drain(&mut self, view: &View, plan: &Plan) {
        let Some(link) = sure_of(view).filter(|_| self.drained.is_none()) else { return };
        // What the drain costs in time costs a guest that is held work: not before its last pass.
        let last = plan.is_free() || plan.cost.passes <= 1;
        let left = plan.cost.total - plan.cost.shipment;
        let ends = last && left <= switch_over::time_to_drain(link).as_secs_f64();
        self.drained = ends.then_some(link);
    }

    /// What the link is given while it is being drained.
    fn drains_at(&self) -> Option<ByteRate> {
        self.drained.map(|link| ByteRate(link.0 * switch_over::DRAIN))
    }

    /// The rate at which the rest would be shipped: while the link is being drained, what leaves says
    /// no more about it than that it is still there.
    fn ships_at(&self, view: &View) -> Option<ByteRate> {
        let now = sure_of(view)?;
        let before = self.drained.filter(|link| now.0 >= STILL_THERE * link.0);
        Some(before.map_or(now, |link| ByteRate(link.0.max(now.0))))
    }

    /// What is dirty when the guest stands still, if that is decided now: the last hold is a new quota,
    /// which each vCPU may yet use.
    fn dirty_at_the_end(&self, view: &View) -> Option<Bytes> {
        let quota = self.last_hold(view).map_or(Duration::ZERO, |quota| quota.quota);
        view.dirty_after(CpuTime(quota.as_secs_f64() * view.vcpus.len() as f64))
    }

    /// Whether what is dirty now may be shipped at once.
    fn ships_now(&self, view: &View, allowed: &Constraints) -> bool {
        let (Some(dirty), Some(link)) = (self.dirty_at_the_end(view), self.ships_at(view)) else {
            return false;
        };
        let room = ONE_MORE_TRY.powi(self.failed.min(8) as i32);
        let fits = |stall| dirty.as_f64() <= room * link.over(switch_over::drained(stall)).as_f64();
        view.phase == Phase::Iterating && allowed.max_stall.is_none_or(fits)
    }

    fn hold(&mut self, view: &View, share: Share, why: &'static str) -> Decision {
        let share = match self.held {
            Some((_, held)) if near(held, share) => held,
            _ => share,
        };
        self.held = Some((view.syncs, share));
        let hold = view.quota_for(share).map_or(Hold::Free, Hold::Quota);
        let limit = self.steering.then_some(WHOLE_PASSES);
        let max_bandwidth = self.drains_at();
        let tuning = Tuning { downtime_limit: limit, max_bandwidth, ..Tuning::default() };
        Decision { tuning, ..Decision::hold_all(view.vcpus.len(), hold, why) }
    }

    fn ship(&mut self, view: &View, plan: &Plan, allowed: &Constraints) -> Decision {
        self.explain(view, plan);
        self.shipping = Some(view.syncs);
        let tuning = Tuning {
            downtime_limit: allowed.max_stall.map(switch_over::drained),
            // QEMU's own idea of the rate is that of its last 100 ms.
            switchover_bandwidth: self.ships_at(view),
            ..Tuning::default()
        };
        let why = "what is dirty fits the pause: shipping it";
        let holds = self.last_hold(view).map(Hold::Quota);
        let holds = holds.map_or(Vec::new(), |hold| vec![hold; view.vcpus.len()]);
        Decision { tuning, holds, ..Decision::finish(Finish::Ship, why) }
    }

    /// The hold until the guest stands still: one of short periods, for a vCPU that is held notices
    /// that it is to stop when it next runs.
    fn last_hold(&self, view: &View) -> Option<Quota> {
        let (_, held) = self.held.filter(|(_, share)| *share < Share::FULL)?;
        let least = Quota::least(view.levers.tick).div_duration_f64(switch_over::LAST_PERIOD);
        view.quota_for(held.max(Share::clamped(least)))
    }

    /// Says, once, how the choice between holding and pausing came out.
    fn explain(&mut self, view: &View, plan: &Plan) {
        if self.explanation.is_none() {
            self.explanation = explanation(view, plan);
        }
    }
}

/// Whether two sets of terms are so much alike that a plan for one will do for the other.
fn much_alike(one: &PlanInputs, other: &PlanInputs) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= 0.1 * a.abs().max(b.abs());
    near(one.cpu_demand.0, other.cpu_demand.0)
        && near(one.floor.0, other.floor.0)
        && near(one.link.0, other.link.0)
}

/// Whether a hold gives so much CPU in a time, give or take a quota: a new quota is granted whole, so
/// that to change it for less gives more away than it mends.
fn gives(view: &View, held: Share, time: f64, cpu: f64) -> bool {
    let each = Quota::least(view.levers.tick).as_secs_f64();
    let (all, quotas) =
        (view.vcpus.len() as f64 * held.get() * time, view.vcpus.len() as f64 * each);
    held < Share::FULL && (all - cpu).abs() <= 1.5 * quotas
}

fn near(held: Share, wanted: Share) -> bool {
    let (held, wanted) = (held.get(), wanted.get());
    (held - wanted).abs() <= WORTH_CHANGING * wanted && (held < 1.0) == (wanted < 1.0)
}

/// How long what is left of the pass takes, in seconds.
fn time_to_send(view: &View, terms: &PlanInputs) -> f64 {
    view.remaining_in_pass().as_f64() / terms.link.0
}

/// Where it stands, or will once it can be steered, and how many seconds from now that is.
fn position(view: &View, terms: &PlanInputs) -> Option<(PlanState, f64)> {
    let remaining = view.remaining_in_pass();
    match view.phase {
        Phase::Setup => Some(PlanState::once_known(remaining, terms)),
        _ => Some((PlanState { remaining, used: view.cpu_since_sync?, may_ship: false }, 0.0)),
    }
}

/// The rate that can be relied on for the moment.
fn sure_of(view: &View) -> Option<ByteRate> {
    Some(ByteRate(view.link?.0 * (1.0 - view.link_error.unwrap_or(0.0).min(0.5))))
}

/// Whether nothing is done yet because only the link's limit is known.
fn waits_for_link(view: &View) -> bool {
    view.phase == Phase::FirstPass && view.link_error.is_none()
}

/// Whether QEMU's own rule lands the guest too: it looks anew as soon as what remains fits the limit,
/// so it lands a guest whose fresh dirty rate is below the link's, or whose memory fits the pause.
fn lands_by_itself(view: &View, terms: &PlanInputs) -> bool {
    let (Some(guest), Some(stall)) = (view.estimate(), terms.shipment) else { return false };
    let fresh = guest.curve.dirtied_bytes(terms.cpu_demand.0 * WINDOW) / WINDOW;
    fresh < UNAIDED * terms.link.0
        || guest.curve.working_set().as_f64() <= 0.9 * terms.link.0 * stall
}

/// Component of the link's rate that the fresh dirty rate of a guest must not exceed for that. A faster one
/// that lands unaided too lands with less to ship if its passes run to their ends.
const UNAIDED: f64 = 0.5;

/// So many times what may be shipped is nearly that.
const NEARLY: f64 = 3.0;

/// A window of QEMU's rate limit, in seconds (`BUFFER_DELAY`).
const WINDOW: f64 = 0.1;

/// How the choice between holding and pausing came out, with the figures.
fn explanation(view: &View, plan: &Plan) -> Option<String> {
    let seconds = |time: f64| show_duration(Duration::from_secs_f64(time.clamp(0.0, 1e9)));
    let any =
        Constraints::all(&view.requirements).without(Requirement::MaxStall).plan_inputs(view)?;
    let unheld = PlanInputs { floor: any.cpu_demand, ..any };
    let (from, _) = position(view, &unheld)?;
    let guest = view.estimate()?;
    let pause =
        ValueTable::new(guest.curve.clone(), unheld, longest(&from, &unheld), STEERING_NODES)
            .plan(PlanState { may_ship: view.phase == Phase::Iterating, ..from })?;
    let limit = show_duration(view.requirements.max_stall);
    let (lost, paused) = (seconds(plan.cost.lost.0), seconds(pause.cost.lost.0));
    Some(if plan.is_free() {
        format!("pausing to ship the rest loses {lost} of work; no hold was needed or loses less")
    } else {
        format!(
            "held to {:.1} % at the least, which loses {lost} of work in all; pausing instead would \
             lose {paused} and stall the guest for {}{}",
            plan.cost.least_share * 100.0,
            seconds(pause.cost.shipment),
            if pause.cost.shipment > view.requirements.max_stall.as_secs_f64() {
                format!(", longer than --max-stall {limit}")
            } else {
                String::new()
            }
        )
    })
}
