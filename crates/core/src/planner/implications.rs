//! What each aggression implies for the rest: total time, guest CPU, longest stall,
//! work lost.
//!
//! "Let the user select the aggression-level, and display the implication on all the other parameters
//! (total-time, %CPU) based on the current behavior of the guest and network" (2011). This is the quick
//! answer, by the planner alone, for a person who moves a slider. The thorough one simulates the
//! migration by the very policy (`landfall_sim::forecast`); both have the same shape.

use serde::{Deserialize, Serialize};

use super::prospect::{CurveCase, Prospect, pause, prospect};
use super::{Constraints, classify_view};
use crate::report::{Class, Forecast, ForecastRange, SHARE_NOISE};
use crate::requirements::{Aggression, Requirement, Requirements};
use crate::telemetry::view::View;

/// What a setting implies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Implication {
    /// The setting.
    pub aggression: Aggression,
    /// Whether it is likely to land.
    pub verdict: ImplicationVerdict,
    /// Requirements that are likely to be broken.
    pub broken: Vec<Requirement>,
    /// Requirements that are likely to be kept, but not at the far end of the range.
    pub doubtful: Vec<Requirement>,
    /// The figures; `None` where it is not likely to land.
    pub forecast: Option<Forecast>,
}

/// Whether a setting lands a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImplicationVerdict {
    /// It is likely to land.
    Lands,
    /// It would be started, and may have to be cancelled.
    Uncertain,
    /// It would be refused: no plan keeps what may not be broken.
    Refused,
    /// Too little is known of the guest or the link.
    Unknown,
}

impl Implication {
    /// An implication without figures.
    pub fn without_figures(aggression: Aggression, verdict: ImplicationVerdict) -> Implication {
        Implication { aggression, verdict, broken: vec![], doubtful: vec![], forecast: None }
    }

    /// An implication with these figures, judged by the requirements.
    pub fn of(
        aggression: Aggression,
        verdict: ImplicationVerdict,
        forecast: Forecast,
        asked: &Requirements,
    ) -> Implication {
        let (broken, doubtful) =
            (missed(&forecast, asked, Side::Mid), missed(&forecast, asked, Side::Far));
        let doubtful = doubtful.into_iter().filter(|name| !broken.contains(name)).collect();
        Implication { aggression, verdict, broken, doubtful, forecast: Some(forecast) }
    }

    /// Whether all requirements are kept, even at the far end of the range.
    pub fn keeps_all(&self) -> bool {
        self.forecast.is_some() && self.broken.is_empty() && self.doubtful.is_empty()
    }
}

/// The settings of the dial that are shown: 0.0, 0.1 and so on to 1.0.
pub fn dial() -> impl Iterator<Item = Aggression> {
    (0..=10).filter_map(|tenth| Aggression::new(f64::from(tenth) / 10.0))
}

/// What the setting of a view implies, by the planner alone.
pub fn implication(view: &View) -> Implication {
    let known = view.estimate().is_some() && view.link.is_some();
    let asked = &view.requirements;
    if !known || Constraints::all(asked).plan_inputs(view).is_none() {
        return Implication::without_figures(view.aggression, ImplicationVerdict::Unknown);
    }
    let likely = landing(view, CurveCase::NOMINAL).map(|found| (found, ImplicationVerdict::Lands));
    let hopeful =
        || landing(view, CurveCase::OPTIMISTIC).map(|found| (found, ImplicationVerdict::Uncertain));
    let Some((found, verdict)) = likely.or_else(hopeful) else {
        return Implication::without_figures(view.aggression, ImplicationVerdict::Refused);
    };
    let others = CASES.into_iter().filter_map(|case| landing(view, case));
    let all: Vec<Prospect> = others.chain([found]).collect();
    Implication::of(view.aggression, verdict, figures(view, &found, &all), asked)
}

/// What each setting of the dial implies, by the planner alone.
pub fn implications(view: &View) -> Vec<Implication> {
    let at = |aggression| implication(&View { aggression, ..view.clone() });
    dial().map(at).collect()
}

/// Guests and links beside the likeliest that the range is made of.
const CASES: [CurveCase; 4] = [CurveCase(-1.5), CurveCase(-0.75), CurveCase(0.75), CurveCase(1.5)];

/// How the default policy lands such a guest: by a plan that keeps all, or all but the first that may give
/// way, and so on.
fn landing(view: &View, case: CurveCase) -> Option<Prospect> {
    let mut allowed = Constraints::all(&view.requirements);
    let first = prospect(view, &allowed, case);
    first.or_else(|| {
        view.requirements.give_way.iter().find_map(|given_up| {
            allowed = allowed.without(*given_up);
            prospect(view, &allowed, case)
        })
    })
}

fn figures(view: &View, middle: &Prospect, all: &[Prospect]) -> Forecast {
    let range = |figure: &dyn Fn(&Prospect) -> f64| {
        let values = || all.iter().map(figure);
        ForecastRange {
            low: values().fold(f64::INFINITY, f64::min),
            mid: figure(middle),
            high: values().fold(f64::NEG_INFINITY, f64::max),
        }
    };
    Forecast {
        total_s: range(&Prospect::total),
        longest_stall_s: range(&|one| one.longest_stall(view)),
        guest_cpu_lost_s: range(&Prospect::lost),
        min_cpu_share: range(&|one| one.plan.cost.least_share),
        transferred_bytes: range(&Prospect::sent),
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Side {
    Mid,
    Far,
}

/// Requirements that a forecast does not keep. A plan goes up to the limit of what it was allowed, and
/// the floor of a range with it; what is missed by a rounding error was kept.
fn missed(forecast: &Forecast, asked: &Requirements, side: Side) -> Vec<Requirement> {
    let far = side == Side::Far;
    let most = |range: ForecastRange| if far { range.high } else { range.mid };
    let least = |range: ForecastRange| if far { range.low } else { range.mid };
    let over = |value: f64, limit: f64| value > limit * 1.005;
    let mut missed = Vec::new();
    if least(forecast.min_cpu_share) < asked.min_cpu.get() - SHARE_NOISE {
        missed.push(Requirement::MinCpu);
    }
    if over(most(forecast.longest_stall_s), asked.max_stall.as_secs_f64()) {
        missed.push(Requirement::MaxStall);
    }
    if asked.max_time.is_some_and(|limit| over(most(forecast.total_s), limit.as_secs_f64())) {
        missed.push(Requirement::MaxTime);
    }
    missed
}

/// Holding the guest, or pausing it: what each loses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ways {
    /// Holding its vCPUs until what is left fits the stall; `None` where no hold lands it.
    pub throttle: Option<Way>,
    /// Never holding it, and pausing it for as long as the rest takes.
    pub pause: Way,
    /// Which of the two loses less of its work, whatever the stall.
    pub loses_less: Lever,
}

/// What a way to land comes to, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Way {
    /// The whole migration.
    pub total_s: f64,
    /// The longest stall.
    pub longest_stall_s: f64,
    /// CPU time of the guest lost.
    pub guest_cpu_lost_s: f64,
    /// Lowest share of the CPU it wants that it gets while it runs, 0 to 1.
    pub min_cpu_share: f64,
}

/// One of the two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lever {
    /// Neither is needed: the guest lands unaided.
    Neither,
    /// Holding it.
    Throttle,
    /// Pausing it.
    Pause,
}

/// What holding and pausing would each lose; `None` while too little is known.
pub fn ways(view: &View) -> Option<Ways> {
    let way = |prospect: Prospect| Way {
        total_s: prospect.total(),
        longest_stall_s: prospect.longest_stall(view),
        guest_cpu_lost_s: prospect.lost(),
        min_cpu_share: prospect.plan.cost.least_share,
    };
    let pause = way(pause(view)?);
    let within = Constraints { max_time: None, ..Constraints::all(&view.requirements) };
    let throttle = prospect(view, &within, CurveCase::NOMINAL).map(way);
    let loses_less = match throttle {
        _ if classify_view(view) == Some(Class::Unaided) => Lever::Neither,
        Some(held) if held.guest_cpu_lost_s < pause.guest_cpu_lost_s => Lever::Throttle,
        _ => Lever::Pause,
    };
    Some(Ways { throttle, pause, loses_less })
}
