//! The oracle: what a migration would lose under a plan made with full knowledge of the guest's curve
//! and the link beforehand; and the regret of a policy, what it loses beyond that.
//!
//! **Where guest and link stay the same** the best plan is solved for ([`exact`]), apart from the
//! planner that the policies use, so that neither hides the other's faults.
//!
//! **Where they change on the way** (phases, congestion, a new rate, memory page by page) a family of
//! plans is tried on the very run to come ([`search`]). That is the best of a family, not of all
//! plans: the oracle is an upper bound there, and regret a lower one.
//!
//! **Whatever a policy did** in the same run while it kept the requirements, an oracle
//! could have planned. So the oracle never loses more than the best of them.

mod exact;
mod search;

use std::time::Duration;

use landfall_core::model::DirtyCurve;
use landfall_core::model::prior::Prior;
use landfall_core::planner::{Constraints, PlanInputs};
use landfall_core::report::Outcome;
use landfall_core::telemetry::observer::Observer;
use landfall_core::units::{ByteRate, CpuDemand, CpuTime, PAGE};

use crate::guest::Writes;
use crate::memory::WIRE_PAGE;
use crate::rng::Seed;
use crate::run::{Run, Setup};

/// What the oracle says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Oracle {
    /// The least work lost, in CPU time of the guest.
    pub lost: CpuTime,
    /// Whether the best plan was solved for, or is the best of those that were tried.
    pub exact: bool,
    /// What it keeps of the requirements: all that can be kept.
    pub keeps: Constraints,
}

/// The least that can be lost under the requirements, given up in the operator's order where they
/// cannot all be kept; `None` where no plan lands. `runs` are those of policies, of the same setup and
/// seed.
pub fn oracle(setup: &Setup, runs: &[&Run], seed: Seed) -> Option<Oracle> {
    let curve = steady(setup);
    levels(setup).into_iter().find_map(|keeps| {
        let planned = terms(setup, &keeps).and_then(|terms| match curve {
            Some(curve) => exact::least(setup, curve, &terms, &keeps),
            None => search::least(setup, &terms, &keeps, seed),
        });
        let done = runs.iter().filter_map(|run| kept(run, &keeps));
        let lost = planned.into_iter().chain(done).min_by(f64::total_cmp)?;
        Some(Oracle { lost: CpuTime(lost), exact: curve.is_some(), keeps })
    })
}

/// What a run lost beyond the oracle, as a part of what the oracle loses, or of a stall of the length
/// that the operator allows if that is more: an operator who allows a stall of 0.3 s does not mind 30 ms. `None`
/// of a run that did not land, or broke what could be kept.
pub fn regret(setup: &Setup, oracle: &Oracle, run: &Run) -> Option<f64> {
    let allowed = setup.requirements.max_stall.as_secs_f64() * setup.guest.cpu_demand.0;
    let lost = kept(run, &oracle.keeps)?;
    Some((lost - oracle.lost.0) / oracle.lost.0.max(allowed))
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

/// The requirements that are given up, one after the other; none at first.
fn levels(setup: &Setup) -> Vec<Constraints> {
    let mut levels = vec![Constraints::all(&setup.requirements)];
    for given_up in &setup.requirements.give_way {
        levels.push(levels[levels.len() - 1].without(*given_up));
    }
    levels
}

/// The inputs of a plan for this guest over this link, as it is at first, at no weight of time.
fn terms(setup: &Setup, allowed: &Constraints) -> Option<PlanInputs> {
    let (guest, link) = (&setup.guest, &setup.link);
    let limit = setup.requirements.max_bandwidth.unwrap_or(setup.qemu.max_bandwidth);
    let pages = ByteRate(link.rate.0.min(limit.0) * PAGE.as_f64() / WIRE_PAGE);
    let known = Prior { link: Some(pages), cpu_demand: Some(guest.cpu_demand), ..Prior::default() };
    let asked = setup.requirements.clone();
    let observer = Observer::new(asked, setup.aggression, setup.levers, &known);
    let view = observer.view_before_start(guest.memory, guest.vcpus as usize);
    let tightest = allowed.tightest(&view).get() * f64::from(guest.vcpus);
    let overhead = link.switch_over.unhurried;
    let shipment = |stall: Duration| stall.saturating_sub(overhead).as_secs_f64();
    (pages.0 > 0.0 && guest.cpu_demand.0 > 0.0).then_some(PlanInputs {
        cpu_demand: guest.cpu_demand,
        floor: CpuDemand(tightest.min(guest.cpu_demand.0)),
        link: pages,
        shipment: allowed.max_stall.map(shipment),
        weight: 0.0,
    })
}

/// Tolerance of a share for a gap at the edge of its measuring span.
const SHARE_ERROR: f64 = 0.02;

/// Seconds of CPU that a run lost that landed within what is to be kept.
fn kept(run: &Run, allowed: &Constraints) -> Option<f64> {
    let losses = &run.measured.losses;
    let kept = run.outcome == Outcome::Landed
        && allowed.max_stall.is_none_or(|stall| losses.longest_stall <= stall)
        && allowed.max_time.is_none_or(|time| run.measured.total <= time)
        && losses.min_share.get() >= allowed.min_cpu.get() - SHARE_ERROR;
    kept.then_some(losses.guest_cpu?.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{CurvePhase, Guest};
    use crate::link::Link;
    use crate::run::run;
    use landfall_core::model::Component;
    use landfall_core::policy;
    use landfall_core::requirements::Requirement;
    use landfall_core::units::Bytes;

    fn middle() -> Setup {
        let curve = DirtyCurve::new([Component { set: Bytes::mib(144), time: CpuTime(3.0) }]);
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
    fn no_policy_that_keeps_the_requirements_loses_less_than_what_is_solved() {
        let setup = middle();
        let oracle = oracle(&setup, &[], Seed(1)).unwrap();
        assert!(oracle.exact);
        for name in policy::names() {
            if let Some(regret) = regret(&setup, &oracle, &by(&setup, name)) {
                assert!(regret > -0.05, "{name}: {regret}, oracle {oracle:?}");
            }
        }
    }

    #[test]
    fn the_default_policy_comes_nearer_to_the_oracle_than_auto_converge() {
        let setup = middle();
        let oracle = oracle(&setup, &[], Seed(1)).unwrap();
        let of = |name| regret(&setup, &oracle, &by(&setup, name)).unwrap();
        assert!(of("predictive") < 0.3 * of("auto-converge"), "{}", of("predictive"));
    }

    #[test]
    fn what_changes_on_the_way_is_searched_and_no_worse_than_what_a_policy_did() {
        let mut setup = middle();
        let quiet = DirtyCurve::new([Component { set: Bytes::mib(2), time: CpuTime(1.0) }]);
        let Writes::Curve(phases) = &mut setup.guest.writes else { panic!() };
        phases[0].lasts = CpuTime(4.0);
        phases.push(CurvePhase { lasts: CpuTime(4.0), curve: quiet });
        let alone = oracle(&setup, &[], Seed(1)).unwrap();
        assert!(!alone.exact && alone.lost.0 < 1.0, "{alone:?}");
        for name in policy::names() {
            let run = by(&setup, name);
            let oracle = oracle(&setup, &[&run], Seed(1)).unwrap();
            assert!(oracle.lost <= alone.lost);
            assert!(regret(&setup, &oracle, &run).is_none_or(|regret| regret >= 0.0));
        }
    }

    #[test]
    fn a_guest_that_only_a_pause_lands_has_no_oracle_within_a_stall() {
        let mut setup = middle();
        let sweep = DirtyCurve::new([Component { set: Bytes::mib(144), time: CpuTime(0.001) }]);
        setup.guest.writes = Writes::Curve(vec![CurvePhase::forever(sweep)]);
        assert_eq!(oracle(&setup, &[], Seed(1)), None);
        setup.requirements.give_way = vec![Requirement::MaxStall];
        let paused = oracle(&setup, &[], Seed(1)).unwrap();
        assert_eq!(paused.keeps.max_stall, None);
        assert!((5.9..6.3).contains(&paused.lost.0), "{paused:?}");
    }

    #[test]
    fn a_run_that_broke_what_could_be_kept_has_no_regret() {
        let mut setup = middle();
        setup.requirements.give_way = vec![Requirement::MaxStall];
        let oracle = oracle(&setup, &[], Seed(1)).unwrap();
        assert!(oracle.keeps.max_stall.is_some());
        let paused = by(&setup, "pause-and-ship");
        assert!(paused.measured.losses.longest_stall > setup.requirements.max_stall);
        assert_eq!(regret(&setup, &oracle, &paused), None);
    }
}
