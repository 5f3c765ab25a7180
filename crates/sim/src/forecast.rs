//! The forecast: some simulated migrations of the known guest, by the same policy that will steer.
//!
//! Guest and link are known with an uncertainty each. The migration is simulated at several steps up to
//! one and a half standard errors to either side of both, and at several moments of QEMU's windows. The
//! middle of the forecast is the median of all, because a policy that decides by steps can go either way
//! on the likeliest guest; its range is that of all.

use landfall_core::model::prior::Prior;
use landfall_core::model::{DirtyCurve, Estimator};
use landfall_core::planner::{self, LINK_ERROR};
use landfall_core::policy::Policy;
use landfall_core::report::{Class, Forecast, ForecastRange, Outcome};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Bytes};

use crate::link::Link;
use crate::rng::Seed;
use crate::run::{Run, Setup, run};

/// What a forecast is asked for.
#[derive(Debug, Clone)]
pub struct Question {
    /// What was found out of guest and link.
    pub prior: Prior,
    /// What the operator asks for.
    pub requirements: Requirements,
    /// The aggression.
    pub aggression: Aggression,
    /// What can be done to the guest.
    pub levers: Levers,
    /// How many vCPUs it has.
    pub vcpus: u32,
}

impl Question {
    /// What is simulated to answer it: a guest with this curve over a link with this rate. `None` where
    /// too little is known of the guest.
    pub fn setup(&self, curve: DirtyCurve, link: ByteRate) -> Option<Setup> {
        let Question { prior, requirements, aggression, levers, vcpus } = self;
        Some(Setup {
            requirements: Requirements {
                max_bandwidth: requirements.max_bandwidth.or(prior.link),
                ..requirements.clone()
            },
            aggression: *aggression,
            levers: *levers,
            ..Setup::from_prior(prior, *vcpus, curve, Link::steady(link))?
        })
    }
}

/// What is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// How it is likely to end, and why if that needs saying.
    pub outcome: Outcome,
    /// See [`Run::reason`].
    pub reason: Option<String>,
    /// The guest's class under these requirements.
    pub class: Class,
    /// The figures, where it is likely to land.
    pub forecast: Option<Forecast>,
}

/// How far out the range goes, in standard errors.
const REACH: f64 = 1.5;

/// What the link is taken to carry, as a multiple of what may be used of it: at the limit itself, its
/// buffers fill and lengthen the switch-over, which is what the far end of the range reckons with.
const ROOM: f64 = 1.12;

/// Moments of QEMU's windows to try.
const MOMENTS: u64 = 3;

/// Forecasts a migration by a policy, a new one for each run; `None` where too little is known of the
/// guest or the link.
pub fn forecast(question: &Question, policy: &dyn Fn() -> Box<dyn Policy>) -> Option<Expected> {
    let prior = &question.prior;
    let link = prior.link?;
    let estimate = Estimator::new(prior).estimate()?;
    let simulate = |curve: DirtyCurve, link: ByteRate, seed: u64| {
        let setup = question.setup(curve, link)?;
        Some(run(&setup, policy().as_mut(), Seed(seed)))
    };
    let middle = simulate(estimate.curve.clone(), ByteRate(link.0 * ROOM), 0)?;
    let mut runs = Vec::new();
    for off in [-REACH, -REACH / 2.0, 0.0, REACH / 2.0, REACH] {
        for seed in 0..MOMENTS {
            let curve = estimate.curve.scaled((1.0 + off * estimate.error).max(0.0));
            let rate = link.0 * if off > 0.0 { 1.0 - off * LINK_ERROR } else { ROOM };
            runs.extend(simulate(curve, ByteRate(rate), seed));
        }
    }
    let landed: Vec<&Run> = runs.iter().filter(|run| run.outcome == Outcome::Landed).collect();
    let likely = middle.outcome == Outcome::Landed && !landed.is_empty();
    let forecast = likely.then(|| figures(&landed));
    Some(Expected {
        outcome: middle.outcome,
        reason: middle.reason,
        class: class(question).unwrap_or(Class::Unknown),
        forecast,
    })
}

fn class(question: &Question) -> Option<Class> {
    let Question { prior, requirements, aggression, levers, vcpus } = question;
    let observer = Observer::new(requirements.clone(), *aggression, *levers, prior);
    planner::classify_view(&observer.view_before_start(prior.contents?, *vcpus as usize))
}

fn figures(landed: &[&Run]) -> Forecast {
    let range = |figure: &dyn Fn(&Run) -> f64| {
        let mut values: Vec<f64> = landed.iter().map(|run| figure(run)).collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        ForecastRange {
            low: at(0),
            mid: at(values.len() / 2),
            high: at(values.len().saturating_sub(1)),
        }
    };
    let lost = |run: &Run| run.measured.losses.guest_cpu.unwrap_or_default().as_secs_f64();
    Forecast {
        total_s: range(&|run| run.measured.total.as_secs_f64()),
        longest_stall_s: range(&|run| run.measured.losses.longest_stall.as_secs_f64()),
        guest_cpu_lost_s: range(&lost),
        min_cpu_share: range(&|run| run.measured.losses.min_share.get()),
        transferred_bytes: range(&|run| run.measured.transferred.unwrap_or(Bytes(0)).as_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Guest;
    use landfall_core::model::{Component, CurvePoint};
    use landfall_core::policy;
    use landfall_core::units::{CpuDemand, CpuTime};

    /// What a probe finds of a guest of one busy vCPU that writes at random.
    fn question(set: u64, time: f64, link: u64) -> Question {
        let curve =
            DirtyCurve::new([Component { set: Bytes(set * 1_000_000), time: CpuTime(time) }]);
        let point = |cpu: f64| CurvePoint {
            cpu: CpuTime(cpu),
            dirtied: curve.dirtied(CpuTime(cpu)),
            error: 0.02,
        };
        Question {
            prior: Prior {
                points: [0.05, 0.1, 0.2, 0.5, 1.0].map(point).to_vec(),
                contents: Some(Bytes((set + 10) * 1_000_000)),
                memory: Some(Bytes(256_000_000)),
                cpu_demand: Some(CpuDemand(1.0)),
                link: Some(ByteRate::mb(link)),
                ..Prior::default()
            },
            requirements: Requirements {
                max_bandwidth: Some(ByteRate::mb(link)),
                ..Requirements::default()
            },
            aggression: Aggression::DEFAULT,
            levers: Setup::new(
                Guest::with_curve(Bytes(1), DirtyCurve::IDLE),
                Link::steady(ByteRate::mb(1)),
            )
            .levers,
            vcpus: 1,
        }
    }

    fn expected(question: &Question, name: &str) -> Expected {
        forecast(question, &|| policy::by_name(name).unwrap()).unwrap()
    }

    #[test]
    fn a_middle_guest_lands_sooner_by_the_default_policy_than_by_auto_converge() {
        let question = question(150, 3.0, 25);
        let ours = expected(&question, "predictive");
        assert_eq!((ours.outcome, ours.class), (Outcome::Landed, Class::Middle), "{ours:?}");
        let theirs = expected(&question, "auto-converge").forecast.unwrap();
        let ours = ours.forecast.unwrap();
        assert!(ours.total_s.mid < theirs.total_s.low, "{ours:?} {theirs:?}");
        assert!(ours.guest_cpu_lost_s.mid < theirs.guest_cpu_lost_s.mid);
    }

    #[test]
    fn a_pathological_guest_is_refused_with_remedies_and_lands_where_the_stall_may_give_way() {
        let mut question = question(100, 0.003, 100);
        let strict = expected(&question, "predictive");
        assert_eq!((strict.outcome, strict.class), (Outcome::Refused, Class::Pathological));
        assert!(strict.reason.unwrap().contains("--give-way max-stall"));
        question.requirements.give_way = vec![landfall_core::requirements::Requirement::MaxStall];
        let loose = expected(&question, "predictive");
        assert_eq!(loose.outcome, Outcome::Landed, "{loose:?}");
        let forecast = loose.forecast.unwrap();
        assert!((0.8..1.2).contains(&forecast.guest_cpu_lost_s.mid), "{forecast:?}");
    }

    #[test]
    fn an_unaided_guest_is_expected_to_lose_next_to_nothing() {
        let calm = expected(&question(50, 10.0, 100), "predictive");
        assert_eq!((calm.outcome, calm.class), (Outcome::Landed, Class::Unaided));
        assert!(calm.forecast.unwrap().min_cpu_share.low > 0.99, "{calm:?}");
    }

    #[test]
    fn of_an_unknown_guest_nothing_is_forecast() {
        let mut question = question(50, 10.0, 100);
        question.prior.points.clear();
        assert_eq!(forecast(&question, &|| policy::by_name("plain").unwrap()), None);
    }
}
