use super::*;
use crate::model::prior::Prior;
use crate::model::{Component, CurvePoint, DirtyCurve};
use crate::planner::implications::ImplicationVerdict;
use crate::policy::{Policy, Predictive};
use crate::requirements::Aggression;
use crate::telemetry::observer::Observer;
use crate::telemetry::view::Levers;
use crate::units::{CpuDemand, CpuTime};
use proptest::prelude::*;

const TICK: Duration = Duration::from_millis(4);

/// A guest of these sets, as a probe finds it, before a migration over so many MB/s.
fn view(parts: &[(u64, f64)], link: u64, asked: Requirements) -> View {
    let part =
        |(mb, time): &(u64, f64)| Component { set: Bytes(mb * 1_000_000), time: CpuTime(*time) };
    let curve = DirtyCurve::new(parts.iter().map(part));
    let point = |cpu: f64| CurvePoint {
        cpu: CpuTime(cpu),
        dirtied: curve.dirtied(CpuTime(cpu)),
        error: 0.03,
    };
    let memory: u64 = parts.iter().map(|(mb, _)| mb).sum();
    let prior = Prior {
        points: [0.05, 0.1, 0.2, 0.5, 1.0].map(point).to_vec(),
        contents: Some(Bytes((memory + 10) * 1_000_000)),
        memory: Some(Bytes((memory + 100) * 1_000_000)),
        cpu_demand: Some(CpuDemand(1.0)),
        link: Some(ByteRate::mb(link)),
        ..Prior::default()
    };
    let levers = Levers { quota: true, stop: true, post_copy: false, tick: TICK };
    let observer = Observer::new(asked, Aggression::DEFAULT, levers, &prior);
    observer.view_before_start(prior.memory.unwrap(), 1)
}

fn asked() -> Requirements {
    Requirements { max_bandwidth: Some(ByteRate::mb(60)), ..Requirements::default() }
}

fn names(settings: &[Setting]) -> Vec<&str> {
    settings.iter().map(Setting::name).collect()
}

#[test]
fn a_guest_that_can_be_landed_has_no_conflict() {
    assert_eq!(resolve(&view(&[(50, 10.0)], 60, asked())), None);
    assert_eq!(resolve(&view(&[(150, 2.0)], 60, asked())), None);
}

#[test]
fn the_pathological_guest_needs_a_longer_stall_or_a_faster_link() {
    let conflict = resolve(&view(&[(100, 0.003)], 60, asked())).unwrap();
    assert_eq!(names(&conflict.between), ["max-stall", "max-bandwidth"]);
    let changes: Vec<&str> = conflict.remedies.iter().map(|remedy| remedy.change.name()).collect();
    assert_eq!(changes, ["max-bandwidth", "max-stall", "give-way"]);
    let words = conflict.to_string();
    for part in ["--max-stall 300ms", "raise --max-stall to ", "raise --max-bandwidth to ", "MB/s"]
    {
        assert!(words.contains(part), "{words}");
    }
    assert!(words.contains("--give-way max-stall"), "{words}");
}

#[test]
fn a_floor_that_is_in_the_way_of_the_stall_is_named_and_can_be_lowered() {
    let asked = Requirements { min_cpu: Share::clamped(0.9), ..asked() };
    let conflict = resolve(&view(&[(150, 1.0)], 60, asked)).unwrap();
    assert_eq!(names(&conflict.between), ["max-stall", "min-cpu", "max-bandwidth"]);
    let lower =
        |remedy: &Remedy| matches!(remedy.change, Setting::MinCpu(share) if share > Share::NONE);
    assert!(conflict.remedies.iter().any(lower), "{conflict}");
}

#[test]
fn a_time_that_the_link_cannot_keep_is_in_conflict_with_the_link_alone() {
    let asked = Requirements { max_time: Some(Duration::from_secs(1)), ..asked() };
    let conflict = resolve(&view(&[(150, 20.0)], 60, asked)).unwrap();
    assert_eq!(names(&conflict.between), ["max-time", "max-bandwidth"]);
    assert!(conflict.to_string().contains("raise --max-time to "), "{conflict}");
}

#[test]
fn what_may_give_way_is_in_nobodys_way() {
    let give_way = vec![Requirement::MaxStall];
    let loose = Requirements { give_way, ..asked() };
    assert_eq!(resolve(&view(&[(100, 0.003)], 60, loose.clone())), None);
    let hasty = Requirements { max_time: Some(Duration::from_secs(1)), ..loose };
    let conflict = resolve(&view(&[(100, 0.003)], 60, hasty)).unwrap();
    assert_eq!(names(&conflict.between), ["max-time", "max-bandwidth"]);
    assert!(conflict.remedies.iter().all(|remedy| remedy.change.name() != "max-stall"));
}

#[test]
fn of_an_unknown_guest_nothing_is_said() {
    let mut unknown = view(&[(100, 0.003)], 60, asked());
    unknown.curve_estimate = Default::default();
    assert_eq!(resolve(&unknown), None);
    assert_eq!(conflict(&unknown), "nothing is known of the guest");
}

/// The value that comes before a change in the order it was searched in.
fn a_little_less(view: &View, change: &Setting) -> Option<Setting> {
    let smaller = |value: f64, unit: f64| {
        let below = typable().take_while(|other| *other < value / unit * (1.0 - 1e-9)).last();
        below.map(|value| value * unit)
    };
    let asked = &view.requirements;
    Some(match change {
        Setting::MaxBandwidth(Some(rate)) => {
            let less = smaller(rate.0, 1.0).filter(|less| *less > view.link.unwrap().0)?;
            Setting::MaxBandwidth(Some(ByteRate(less)))
        }
        Setting::MaxStall(stall) => Setting::MaxStall(shorter(smaller, *stall, asked.max_stall)?),
        Setting::MaxTime(Some(time)) => {
            Setting::MaxTime(Some(shorter(smaller, *time, asked.max_time.unwrap())?))
        }
        Setting::MinCpu(share) => {
            let percent = (share.get() * 100.0).max(0.99) * (1.0 + 1e-9);
            let more = Share::clamped(typable().find(|other| *other > percent)? / 100.0);
            Setting::MinCpu(Some(more).filter(|more| *more < asked.min_cpu)?)
        }
        _ => return None,
    })
}

fn shorter(
    smaller: impl Fn(f64, f64) -> Option<f64>,
    time: Duration,
    than: Duration,
) -> Option<Duration> {
    let less = Duration::from_secs_f64(smaller(time.as_secs_f64() * 1e3, 1.0)? / 1e3);
    Some(less).filter(|less| *less > than)
}

/// A guest, a link and what is asked.
#[derive(Debug, Clone)]
struct Problem {
    parts: Vec<(u64, f64)>,
    link: u64,
    asked: Requirements,
}

impl Problem {
    fn view(&self) -> View {
        view(&self.parts, self.link, self.asked.clone())
    }
}

fn problems() -> impl Strategy<Value = Problem> {
    let parts = proptest::collection::vec((5u64..400, 0.002f64..10.0), 1..4);
    let asked = (0u32..100, 50u64..2000, proptest::option::of(500u64..60_000));
    let ways = proptest::sample::subsequence(
        vec![Requirement::MinCpu, Requirement::MaxStall, Requirement::MaxTime],
        0..=1,
    );
    (parts, 20u64..500, asked, ways).prop_map(|(parts, link, (floor, stall, time), give_way)| {
        let asked = Requirements {
            max_bandwidth: Some(ByteRate::mb(link)),
            min_cpu: Share::clamped(f64::from(floor) / 100.0),
            max_stall: Duration::from_millis(stall),
            max_time: time.map(Duration::from_millis),
            give_way,
        };
        Problem { parts, link, asked }
    })
}

proptest! {
    #[test]
    fn every_remedy_gives_a_plan_that_keeps_all_and_is_started(problem in problems()) {
        let view = problem.view();
        let Some(conflict) = resolve(&view) else { return Ok(()) };
        prop_assert!(!conflict.remedies.is_empty(), "{conflict}");
        for Remedy { change, implies } in &conflict.remedies {
            let view = changed(&view, change);
            prop_assert_eq!(implies.verdict, ImplicationVerdict::Lands, "{}", change);
            let asked = &view.requirements;
            let total = implies.forecast.unwrap().total_s.mid;
            // A plan may end just in time, but for its switch-over, when something may give way after.
            let in_time = asked.max_time.is_some_and(|limit| {
                total <= (limit + switch_over::BEYOND_SHIPMENT).as_secs_f64()
            });
            let late = |name: &Requirement| *name == Requirement::MaxTime && in_time;
            let hard = |name: &Requirement| !asked.may_break(*name) && !late(name);
            let broken: Vec<_> = implies.broken.iter().copied().filter(hard).collect();
            prop_assert_eq!(broken, vec![], "{}: {:?}", change, implies);
            prop_assert_eq!(resolve(&view), None);
            prop_assert_eq!(Predictive::default().preflight(&view), Ok(()));
        }
    }

    #[test]
    fn a_slightly_smaller_change_does_not_do(problem in problems()) {
        let view = problem.view();
        let Some(conflict) = resolve(&view) else { return Ok(()) };
        for Remedy { change, .. } in &conflict.remedies {
            if let Some(less) = a_little_less(&view, change) {
                prop_assert!(!resolves(&view, &less), "{} would do instead of {}", less, change);
            }
        }
    }

    #[test]
    fn each_requirement_of_a_conflict_is_in_the_way_of_the_others(problem in problems()) {
        let view = problem.view();
        let Some(conflict) = resolve(&view) else { return Ok(()) };
        let hard = hard(&view.requirements);
        let named: Vec<Requirement> =
            conflict.between.iter().map(|demand| demand.name().parse().unwrap()).collect();
        let only = |names: &[Requirement]| {
            let others = Requirement::ALL.into_iter().filter(|name| !names.contains(name));
            others.fold(hard, Constraints::without)
        };
        prop_assert!(soonest(&view, &only(&named), CurveCase::NOMINAL).is_none());
        for name in named.iter().filter(|name| **name != Requirement::MaxBandwidth) {
            let allowed = only(&named).without(*name);
            prop_assert!(soonest(&view, &allowed, CurveCase::NOMINAL).is_some(), "{name}");
        }
    }

    #[test]
    fn what_is_refused_is_a_certain_conflict_and_the_other_way_round(problem in problems()) {
        let view = problem.view();
        let refused = Predictive::default().preflight(&view).is_err();
        prop_assert_eq!(resolve(&view).is_some_and(|conflict| conflict.certain), refused);
    }
}
