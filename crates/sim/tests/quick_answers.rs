//! The planner's quick answers (`landfall_core::planner::implications`) against what the policy does in the
//! simulator: near enough for a person who moves a slider.

use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::model::{Component, CurvePoint, DirtyCurve};
use landfall_core::planner::implications::{Implication, ImplicationVerdict, dial, implication};
use landfall_core::planner::remedies::resolve;
use landfall_core::policy;
use landfall_core::report::{Forecast, ForecastRange, Outcome};
use landfall_core::requirements::{Aggression, Requirement, Requirements, Setting, Settings};
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::view::{Levers, View};
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Share};
use landfall_sim::{Expected, Question, forecast};

/// Guests of one busy vCPU: sets in MB, and the CPU time in which a page of them is written once.
const GUESTS: [(&str, &[(u64, f64)]); 6] = [
    ("idle", &[(1, 50.0)]),
    ("calm", &[(50, 10.0)]),
    ("middle", &[(150, 3.0)]),
    ("hot and cold", &[(20, 0.2), (150, 8.0)]),
    ("fierce", &[(150, 1.0)]),
    ("sweep", &[(100, 0.01)]),
];

fn question(parts: &[(u64, f64)], aggression: Aggression) -> Question {
    let part =
        |(mb, time): &(u64, f64)| Component { set: Bytes(mb * 1_000_000), time: CpuTime(*time) };
    let curve = DirtyCurve::new(parts.iter().map(part));
    let point = |cpu: f64| CurvePoint {
        cpu: CpuTime(cpu),
        dirtied: curve.dirtied(CpuTime(cpu)),
        error: 0.03,
    };
    Question {
        prior: Prior {
            points: [0.05, 0.1, 0.2, 0.5, 1.0].map(point).to_vec(),
            contents: Some(Bytes(200_000_000)),
            memory: Some(Bytes(256_000_000)),
            cpu_demand: Some(CpuDemand(1.0)),
            link: Some(ByteRate::mb(60)),
            ..Prior::default()
        },
        requirements: Requirements {
            max_bandwidth: Some(ByteRate::mb(60)),
            give_way: vec![Requirement::MaxStall],
            ..Requirements::default()
        },
        aggression,
        levers: Levers {
            quota: true,
            stop: true,
            post_copy: false,
            tick: Duration::from_millis(4),
        },
        vcpus: 1,
    }
}

fn view(question: &Question) -> View {
    let Question { prior, requirements, aggression, levers, vcpus } = question;
    let observer = Observer::new(requirements.clone(), *aggression, *levers, prior);
    observer.view_before_start(prior.memory.unwrap(), *vcpus as usize)
}

fn quick(question: &Question) -> Implication {
    implication(&view(question))
}

fn thorough(question: &Question) -> Expected {
    forecast(question, &|| policy::by_name("predictive").unwrap()).unwrap()
}

/// Where the best plan changes from one kind to another, the two may do so a notch apart.
fn near(all: &[Forecast], notch: usize) -> &[Forecast] {
    &all[notch.saturating_sub(1)..(notch + 2).min(all.len())]
}

fn agrees(
    quick: ForecastRange,
    thorough: impl Iterator<Item = ForecastRange> + Clone,
    slack: f64,
) -> bool {
    let low = thorough.clone().map(|range| range.low).fold(f64::INFINITY, f64::min);
    let high = thorough.map(|range| range.high).fold(0.0, f64::max);
    (low / 1.35 - slack..=high * 1.35 + slack).contains(&quick.mid)
}

/// A figure of a forecast.
type Figure = fn(&Forecast) -> ForecastRange;

#[test]
fn the_planner_answers_nearly_what_the_simulated_policy_does() {
    for (name, parts) in GUESTS {
        let all: Vec<Forecast> = dial()
            .map(|aggression| thorough(&question(parts, aggression)).forecast.unwrap())
            .collect();
        for (notch, aggression) in dial().enumerate() {
            let quick = quick(&question(parts, aggression)).forecast.unwrap();
            let figures: [(&str, Figure, f64); 3] = [
                ("total", |forecast| forecast.total_s, 0.2),
                ("longest stall", |forecast| forecast.longest_stall_s, 0.1),
                ("work lost", |forecast| forecast.guest_cpu_lost_s, 0.1),
            ];
            for (figure, of, slack) in figures {
                let thorough = near(&all, notch).iter().map(of);
                assert!(
                    agrees(of(&quick), thorough.clone(), slack),
                    "{name} at {}, {figure}: {:?}, thorough {:?}",
                    aggression.get(),
                    of(&quick),
                    thorough.collect::<Vec<_>>()
                );
            }
        }
    }
}

#[test]
fn more_aggression_never_takes_much_longer_nor_loses_much_less() {
    for (name, parts) in GUESTS {
        let all: Vec<Forecast> =
            dial().map(|dial| quick(&question(parts, dial)).forecast.unwrap()).collect();
        for (gentle, fast) in all.iter().zip(&all[1..]) {
            assert!(fast.total_s.mid <= gentle.total_s.mid * 1.05, "{name}: {all:?}");
            assert!(
                fast.guest_cpu_lost_s.mid >= gentle.guest_cpu_lost_s.mid * 0.95,
                "{name}: {all:?}"
            );
        }
    }
}

#[test]
fn a_guest_that_nothing_lands_is_refused_by_both() {
    let mut question = question(&[(100, 0.01)], Aggression::DEFAULT);
    question.requirements.give_way.clear();
    assert_eq!(quick(&question).verdict, ImplicationVerdict::Refused);
    assert_eq!(thorough(&question).outcome, Outcome::Refused);
}

/// What is asked that cannot be kept, of guests that write so.
fn conflicts() -> Vec<Question> {
    let with = |parts: &[(u64, f64)], change: &dyn Fn(&mut Requirements)| {
        let mut question = question(parts, Aggression::DEFAULT);
        question.requirements.give_way.clear();
        change(&mut question.requirements);
        question
    };
    vec![
        with(&[(100, 0.01)], &|_| {}),
        with(&[(100, 0.05)], &|asked| asked.max_stall = Duration::from_millis(200)),
        with(&[(150, 1.0)], &|asked| asked.min_cpu = Share::clamped(0.6)),
        with(&[(150, 3.0)], &|asked| asked.max_time = Some(Duration::from_secs(2))),
        with(&[(20, 0.2), (150, 8.0)], &|asked| {
            asked.min_cpu = Share::clamped(0.7);
            asked.max_time = Some(Duration::from_secs(4));
        }),
    ]
}

/// What is asked with one thing changed.
fn with(question: &Question, change: &Setting) -> Requirements {
    let Question { requirements, aggression, .. } = question.clone();
    let mut settings = Settings { requirements, aggression };
    settings.apply(change.clone());
    settings.requirements
}

#[test]
fn every_remedy_lands_the_guest_by_the_very_policy_with_the_rest_kept() {
    let mut tried = 0;
    for question in conflicts() {
        assert_eq!(thorough(&question).outcome, Outcome::Refused, "{question:?}");
        let conflict = resolve(&view(&question)).unwrap();
        for remedy in &conflict.remedies {
            let asked = &with(&question, &remedy.change);
            let prior = Prior { link: asked.max_bandwidth, ..question.prior.clone() };
            let changed = Question { prior, requirements: asked.clone(), ..question.clone() };
            let expected = thorough(&changed);
            let forecast = expected.forecast.unwrap_or_else(|| panic!("{remedy}: {expected:?}"));
            let came =
                Implication::of(question.aggression, ImplicationVerdict::Lands, forecast, asked);
            let broken = came.broken.iter().filter(|name| !asked.may_break(**name));
            assert_eq!(broken.count(), 0, "{conflict}\n{remedy}: {came:?}");
            tried += 1;
        }
    }
    assert!(tried >= 12, "{tried} remedies");
}
