//! The oracle: what a migration would lose under a plan made by somebody who knows the guest's curve
//! and the link beforehand; and the regret of a policy, what it loses beyond that.
//!
//! **Where guest and link stay the same** the oracle is exact. All that a pass leaves is `D(c)`, `c`
//! being the CPU time given in it, however it is spread; all that follows depends on what is left and
//! on nothing else of the past. So the least loss from each `c` on obeys one equation, and
//! [`landfall_core::plan`] solves it for every `c` on a ladder; from one rung to the next the curve
//! changes by less than a hundredth here, and rounding up to a rung costs no more than that. Time
//! weighs nothing, or as little as keeps `--max-time`: of all plans in time, the ones found by
//! weighing it are those on the convex hull, so under a time limit the oracle may be above the true
//! least by the gap to the hull.
//!
//! **Where they change on the way** (phases, congestion, a new rate) no such equation holds. There
//! all plans "free until a moment, then held to a share, then shipped as soon as what is left fits"
//! are tried on the very run to come, with its guest, its link and its seed. That is the best of a
//! family, not of all plans: the oracle is an upper bound there, and regret a lower one.

use std::time::Duration;

use landfall_core::curve::{CpuTime, DirtyCurve};
use landfall_core::decision::{Decision, Finish, Hold, Tuning};
use landfall_core::observer::Observer;
use landfall_core::plan::{Allowed, Position, Table, Terms};
use landfall_core::policy::{Needs, Policy};
use landfall_core::prior::{Pace, Prior};
use landfall_core::report::Outcome;
use landfall_core::units::{ByteRate, Moment, PAGE, Share};
use landfall_core::view::{Phase, View};

use crate::chance::Seed;
use crate::guest::Writes;
use crate::run::{Run, Setup, run};

/// What the oracle says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Oracle {
    /// The least work lost, in CPU time of the guest.
    pub lost: CpuTime,
    /// Whether it is the least of all plans, or of those that were tried.
    pub exact: bool,
}

/// Rungs of the exact oracle's ladder.
const RUNGS: usize = 1500;

/// Bytes on the wire for a page.
const WIRE: f64 = 4104.0;

/// The least that can be lost under the requirements, given up in the operator's order where they
/// cannot all be kept; `None` where no plan lands.
pub fn oracle(setup: &Setup, seed: Seed) -> Option<Oracle> {
    match steady(setup) {
        Some(curve) => exact(setup, curve).map(|lost| Oracle { lost, exact: true }),
        None => searched(setup, seed).map(|lost| Oracle { lost, exact: false }),
    }
}

/// What a run lost beyond the oracle, as a part of what the oracle loses, or of a stall of the length
/// that the operator allows if that is more: who allows a stall of 0.3 s does not mind 30 ms.
pub fn regret(setup: &Setup, oracle: &Oracle, run: &Run) -> Option<f64> {
    let lost = run.measured.losses.guest_cpu?.as_secs_f64();
    let allowed = setup.requirements.max_stall.as_secs_f64() * setup.guest.pace.0;
    (run.outcome == Outcome::Landed).then(|| (lost - oracle.lost.0) / oracle.lost.0.max(allowed))
}

/// The curve of a guest that has but one, over a link that stays as it is.
fn steady(setup: &Setup) -> Option<&DirtyCurve> {
    let link = &setup.link;
    let changes = !link.changes.is_empty() || link.congestion.is_some();
    match &setup.guest.writes {
        Writes::Curve(phases) if phases.len() == 1 && !changes => Some(&phases[0].curve),
        _ => None,
    }
}

/// What is given up, one after the other: nothing at first.
fn levels(setup: &Setup) -> Vec<Allowed> {
    let mut levels = vec![Allowed::all(&setup.requirements)];
    for given_up in &setup.requirements.give_way {
        levels.push(levels[levels.len() - 1].without(*given_up));
    }
    levels
}

fn exact(setup: &Setup, curve: &DirtyCurve) -> Option<CpuTime> {
    levels(setup).iter().find_map(|allowed| exact_within(setup, curve, allowed))
}

fn exact_within(setup: &Setup, curve: &DirtyCurve, allowed: &Allowed) -> Option<CpuTime> {
    let terms = terms(setup, allowed)?;
    let start = setup.guest.contents;
    let from = Position { remaining: start, used: CpuTime(0.0), may_ship: false };
    let overhead = setup.link.switch_over.unhurried.as_secs_f64();
    let left = allowed.max_time.unwrap_or(setup.patience).as_secs_f64() - overhead;
    let at = |weight| {
        let terms = Terms { weight, ..terms };
        let plan = Table::new(curve.clone(), terms, start.as_f64(), RUNGS).plan(from)?;
        (plan.cost.total <= left).then_some(plan.cost.lost + CpuTime(overhead * terms.pace.0))
    };
    [0.0, 0.05, 0.2, 0.5, 0.8, 1.0].into_iter().find_map(at)
}

fn terms(setup: &Setup, allowed: &Allowed) -> Option<Terms> {
    let (guest, link) = (&setup.guest, &setup.link);
    let limit = setup.requirements.max_bandwidth.unwrap_or(setup.qemu.max_bandwidth);
    let pages = link.rate.0.min(limit.0) * PAGE.as_f64() / WIRE;
    let overhead = link.switch_over.unhurried;
    let known =
        Prior { link: Some(ByteRate(pages)), pace: Some(Pace(guest.pace.0)), ..Prior::default() };
    let asked = setup.requirements.clone();
    let observer = Observer::new(asked, setup.aggression, setup.levers, &known);
    let view = observer.before(guest.memory, guest.vcpus as usize);
    let tightest = allowed.tightest(&view).get() * f64::from(guest.vcpus);
    let shipment = |stall: Duration| stall.saturating_sub(overhead).as_secs_f64();
    Some(Terms {
        pace: Pace(guest.pace.0),
        floor: Pace(tightest.min(guest.pace.0)),
        link: ByteRate(pages),
        shipment: allowed.max_stall.map(shipment),
        weight: 0.0,
    })
}

/// Moments and shares that are tried.
const MOMENTS: u32 = 24;
const SHARES: u32 = 9;

fn searched(setup: &Setup, seed: Seed) -> Option<CpuTime> {
    levels(setup).iter().find_map(|allowed| searched_within(setup, seed, allowed))
}

fn searched_within(setup: &Setup, seed: Seed, allowed: &Allowed) -> Option<CpuTime> {
    let terms = terms(setup, allowed)?;
    let once = setup.guest.contents.as_f64() / terms.link.0;
    let least = (terms.floor.0 / terms.pace.0).max(1e-3);
    let shares = (0..=SHARES).map(|n| Share::clamped(least.powf(f64::from(n) / f64::from(SHARES))));
    let mut best: Option<f64> = None;
    for share in shares {
        for moment in 0..=MOMENTS {
            // Up to three times as long as sending everything once takes.
            let from = once * 3.0 * f64::from(moment) / f64::from(MOMENTS);
            let from = Moment(Duration::try_from_secs_f64(from).unwrap_or_default());
            let mut plan = Clairvoyant { from, share, shipment: terms.shipment };
            let run = run(setup, &mut plan, seed);
            if let Some(lost) = kept(&run, allowed) {
                best = Some(best.map_or(lost, |best: f64| best.min(lost)));
            }
        }
    }
    best.map(CpuTime)
}

/// What a run lost that landed within what is to be kept.
fn kept(run: &Run, allowed: &Allowed) -> Option<f64> {
    let losses = &run.measured.losses;
    let kept = run.outcome == Outcome::Landed
        && allowed.max_stall.is_none_or(|stall| losses.longest_stall <= stall)
        && allowed.max_time.is_none_or(|time| run.measured.total <= time)
        && losses.min_share.get() >= allowed.min_cpu.get() - 0.02;
    kept.then_some(losses.guest_cpu?.as_secs_f64())
}

/// One of the plans that are tried.
#[derive(Debug)]
struct Clairvoyant {
    from: Moment,
    share: Share,
    shipment: Option<f64>,
}

impl Policy for Clairvoyant {
    fn name(&self) -> &'static str {
        "clairvoyant"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        if view.now < self.from {
            return self.with(view, Hold::Free);
        }
        let left = view.interval.map(|interval| interval.left.min(view.remaining));
        let takes = left.zip(view.link).and_then(|(left, link)| left / link);
        let fits = self
            .shipment
            .is_none_or(|stall| takes.is_some_and(|takes| takes.as_secs_f64() <= stall));
        if view.phase == Phase::Iterating && fits {
            return Decision::finish(Finish::Ship, "as planned");
        }
        self.with(view, view.quota_for(self.share).map_or(Hold::Free, Hold::Quota))
    }
}

impl Clairvoyant {
    fn with(&self, view: &View, hold: Hold) -> Decision {
        let downtime_limit = Some(Duration::from_millis(1));
        let tuning = Tuning { downtime_limit, ..Tuning::default() };
        Decision { tuning, ..Decision::hold_all(view.vcpus.len(), hold, "as planned") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{Guest, Phase};
    use crate::link::Link;
    use landfall_core::curve::Part;
    use landfall_core::policy;
    use landfall_core::requirements::Requirement;
    use landfall_core::units::Bytes;

    fn middle() -> Setup {
        let curve = DirtyCurve::new([Part { set: Bytes::mib(144), time: CpuTime(3.0) }]);
        let guest =
            Guest { contents: Bytes::mib(150), ..Guest::with_curve(Bytes::mib(256), curve) };
        let mut setup = Setup::new(guest, Link::steady(ByteRate::mb(28)));
        setup.requirements.max_bandwidth = Some(ByteRate::mb(25));
        setup
    }

    fn by(setup: &Setup, name: &str) -> Run {
        run(setup, policy::by_name(name).unwrap().as_mut(), Seed(1))
    }

    #[test]
    fn no_policy_that_keeps_the_requirements_loses_less_than_the_oracle() {
        let setup = middle();
        let oracle = oracle(&setup, Seed(1)).unwrap();
        assert!(oracle.exact);
        for name in policy::names() {
            let run = by(&setup, name);
            if kept(&run, &Allowed::all(&setup.requirements)).is_some() {
                let regret = regret(&setup, &oracle, &run).unwrap();
                assert!(regret > -0.05, "{name}: {regret}, oracle {oracle:?}");
            }
        }
    }

    #[test]
    fn the_default_policy_comes_nearer_to_the_oracle_than_auto_converge() {
        let setup = middle();
        let oracle = oracle(&setup, Seed(1)).unwrap();
        let of = |name| regret(&setup, &oracle, &by(&setup, name)).unwrap();
        assert!(of("predictive") < 0.3 * of("auto-converge"), "{}", of("predictive"));
    }

    #[test]
    fn what_changes_on_the_way_is_searched() {
        let mut setup = middle();
        let quiet = DirtyCurve::new([Part { set: Bytes::mib(2), time: CpuTime(1.0) }]);
        let Writes::Curve(phases) = &mut setup.guest.writes else { panic!() };
        phases[0].lasts = CpuTime(4.0);
        phases.push(Phase { lasts: CpuTime(4.0), curve: quiet });
        let oracle = oracle(&setup, Seed(1)).unwrap();
        assert!(!oracle.exact && oracle.lost.0 < 3.0, "{oracle:?}");
    }

    #[test]
    fn a_guest_that_only_a_pause_lands_has_no_oracle_within_a_stall() {
        let mut setup = middle();
        let sweep = DirtyCurve::new([Part { set: Bytes::mib(144), time: CpuTime(0.001) }]);
        setup.guest.writes = Writes::Curve(vec![Phase::forever(sweep)]);
        assert_eq!(oracle(&setup, Seed(1)), None);
        setup.requirements.give_way = vec![Requirement::MaxStall];
        let paused = oracle(&setup, Seed(1)).unwrap().lost.0;
        assert!((5.9..6.3).contains(&paused), "{paused}");
    }
}
