//! Conflicts of requirements: which conflict, and for each the smallest change that makes the rest
//! possible.
//!
//! **Problem.** No plan keeps all that was asked. The operator wants to know which of them
//! conflict, and what would resolve it: "raise --max-stall to 1.1s, or --max-bandwidth to 340MB/s".
//!
//! **Approach.** Every change is tried by planning with it. The values tried are those that people type,
//! of two digits. The smallest that works is found by bisection: so the next smaller one was tried too
//! and does not work, or it is the present value. A change counts only if it lands a guest that writes one and
//! a half standard errors more than is likeliest, with room for what a run takes beyond its plan.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::Constraints;
use super::implications::{Implication, implication};
use super::prospect::{CurveCase, prospect, soonest};
use crate::requirements::{Requirement, Requirements, Setting};
use crate::switch_over;
use crate::telemetry::view::View;
use crate::units::{ByteRate, Bytes, Share, format};

/// Requirements that cannot all be kept, and what would resolve it.
#[derive(Debug, Clone, PartialEq, Serialize, thiserror::Error)]
pub struct Conflict {
    /// Whether even the most optimistic guest within the measurements cannot land. Where it is not certain, a
    /// migration is started and may have to be cancelled.
    pub certain: bool,
    /// The requirements that cannot be kept together; without any one of them the others could.
    pub between: Vec<Setting>,
    /// The rate at which guest pages leave.
    pub link: ByteRate,
    /// What the guest writes again and again.
    pub working_set: Bytes,
    /// The tightest hold there may be; `None` where the vCPUs cannot be held.
    pub tightest: Option<Share>,
    /// Changes that resolve it, each by itself.
    pub remedies: Vec<Remedy>,
}

/// A change that makes the rest possible.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Remedy {
    /// What to ask instead.
    pub change: Setting,
    /// What that implies, planned with it.
    pub implies: Implication,
}

/// What a run may take beyond its plan, as a multiple: at the fast end of the dial simulated runs took up
/// to a fifth longer, for the policy learns of the link on the way.
const RUNS_OVER: f64 = 1.25;

/// How much looser than the tightest hold one comes out, as a multiple: a thread overruns its quota by up
/// to a tick, and QEMU's own work on the vCPU threads dirties nothing but takes its part.
const LOOSER: f64 = 1.5;

/// Whether what may not give way can be kept: `None` where it can, or too little is known.
pub fn resolve(view: &View) -> Option<Conflict> {
    let hard = hard(&view.requirements);
    hard.plan_inputs(view)?;
    let lands = prospect(view, &hard, CurveCase::NOMINAL).is_some();
    (!lands).then(|| Conflict::of(view, &hard)).flatten()
}

/// Returns the conflict also of a guest that a plan may land; `None` where too little is known.
pub fn doubt(view: &View) -> Option<Conflict> {
    Conflict::of(view, &hard(&view.requirements))
}

/// Why a guest cannot be landed within what was asked, in words, and what would resolve it.
pub fn conflict(view: &View) -> String {
    match Conflict::of(view, &hard(&view.requirements)) {
        Some(conflict) => conflict.to_string(),
        None => "nothing is known of the guest".to_owned(),
    }
}

/// The requirements that may not be broken.
fn hard(asked: &Requirements) -> Constraints {
    asked.give_way.iter().fold(Constraints::all(asked), |allowed, name| allowed.without(*name))
}

impl Conflict {
    fn of(view: &View, hard: &Constraints) -> Option<Conflict> {
        let asked = &view.requirements;
        let (guest, link) = (view.estimate()?, view.link?);
        let mut between = between(view, hard);
        // What the link carries is in it in any case; whether it was asked for, the operator knows.
        if asked.max_bandwidth.is_some() && !asked.may_break(Requirement::MaxBandwidth) {
            between.push(Requirement::MaxBandwidth);
        }
        let tightest = Some(hard.tightest(view)).filter(|share| *share < Share::FULL);
        let change = |name: &Requirement| smallest_change(view, *name);
        let changes = Requirement::ALL.iter().filter_map(change).chain(give_way(view));
        Some(Conflict {
            certain: prospect(view, hard, CurveCase::OPTIMISTIC).is_none(),
            between: between.into_iter().map(|name| demand(asked, name)).collect(),
            link,
            working_set: guest.curve.working_set(),
            tightest,
            remedies: changes.map(|change| Remedy::of(view, change)).collect(),
        })
    }
}

impl Remedy {
    /// A change, and what it implies by the planner.
    pub fn of(view: &View, change: Setting) -> Remedy {
        Remedy { implies: implication(&changed(view, &change)), change }
    }
}

/// Finds requirements that conflict with each other, by leaving out, one after the other, what makes no
/// difference.
fn between(view: &View, hard: &Constraints) -> Vec<Requirement> {
    let mut rest = *hard;
    let mut between = Vec::new();
    for name in [Requirement::MaxTime, Requirement::MinCpu, Requirement::MaxStall] {
        if rest == rest.without(name) {
            continue;
        }
        if soonest(view, &rest.without(name), CurveCase::NOMINAL).is_some() {
            between.push(name);
        } else {
            rest = rest.without(name);
        }
    }
    between.reverse();
    between
}

/// A requirement as it was asked.
fn demand(asked: &Requirements, name: Requirement) -> Setting {
    match name {
        Requirement::MaxBandwidth => Setting::MaxBandwidth(asked.max_bandwidth),
        Requirement::MinCpu => Setting::MinCpu(asked.min_cpu),
        Requirement::MaxStall => Setting::MaxStall(asked.max_stall),
        Requirement::MaxTime => Setting::MaxTime(asked.max_time),
    }
}

/// The view with a changed requirement. The link is assumed to carry a greater bandwidth.
fn changed(view: &View, change: &Setting) -> View {
    let mut view = view.clone();
    let asked = &mut view.requirements;
    match change.clone() {
        Setting::MaxBandwidth(rate) => {
            asked.max_bandwidth = rate;
            view.link = rate.or(view.link);
        }
        Setting::MinCpu(share) => asked.min_cpu = share,
        Setting::MaxStall(stall) => asked.max_stall = stall,
        Setting::MaxTime(time) => asked.max_time = time,
        Setting::GiveWay(list) => asked.give_way = list,
        Setting::Aggression(dial) => view.aggression = dial,
    }
    view
}

/// Whether a change is proven to resolve it.
fn resolves(view: &View, change: &Setting) -> bool {
    let view = changed(view, change);
    let hard = hard(&view.requirements);
    let grip = Share::clamped(hard.tightest(&view).get() * LOOSER);
    let any_time = Constraints { max_time: None, min_cpu: grip, ..hard };
    let in_time =
        |total: f64| hard.max_time.is_none_or(|limit| total * RUNS_OVER <= limit.as_secs_f64());
    // In a stall that the switch-over itself takes half of, nothing is sure.
    let long_enough = hard.max_stall.is_none_or(|stall| stall >= switch_over::BEYOND_SHIPMENT * 2);
    let lands = |case| soonest(&view, &any_time, case).is_some_and(|found| in_time(found.total()));
    // The likeliest as well: a plan ends on nodes, and near the border one node decides.
    long_enough && lands(CurveCase::PESSIMISTIC) && lands(CurveCase::NOMINAL)
}

/// The smallest change to one requirement that resolves it; `None` where none does, or where the
/// requirement may give way or was not asked.
fn smallest_change(view: &View, name: Requirement) -> Option<Setting> {
    first(&changes(view, name)?, |change| resolves(view, change)).cloned()
}

/// The next greater change to the same requirement; `None` where there is none.
pub fn further(view: &View, change: &Setting) -> Option<Setting> {
    let all = changes(view, change.name().parse().ok()?)?;
    all.into_iter().skip_while(|other| other != change).nth(1)
}

/// Changes to a requirement that people would type, the smallest first; `None` where it may give way or was
/// not asked.
fn changes(view: &View, name: Requirement) -> Option<Vec<Setting>> {
    let asked = &view.requirements;
    if asked.may_break(name) {
        return None;
    }
    Some(match name {
        Requirement::MaxBandwidth => {
            let now = view.link?.0;
            let rates =
                typable().skip_while(|rate| *rate <= now).take_while(|rate| *rate <= now * 1e3);
            rates.map(|rate| Setting::MaxBandwidth(Some(ByteRate(rate)))).collect()
        }
        Requirement::MinCpu => {
            let percents = typable().skip_while(|percent| *percent < 1.0);
            let shares = percents.map(|percent| Share::clamped(percent / 100.0));
            let lower = shares.take_while(|share| *share < asked.min_cpu);
            let mut lower: Vec<Share> = [Share::NONE].into_iter().chain(lower).collect();
            lower.retain(|share| *share < asked.min_cpu);
            lower.into_iter().rev().map(Setting::MinCpu).collect()
        }
        Requirement::MaxStall => longer(asked.max_stall).map(Setting::MaxStall).collect(),
        Requirement::MaxTime => {
            longer(asked.max_time?).map(|time| Setting::MaxTime(Some(time))).collect()
        }
    })
}

/// Times beyond one that people would type, up to a day.
fn longer(than: Duration) -> impl Iterator<Item = Duration> {
    const DAY: f64 = 86_400e3;
    let millis = typable().take_while(|millis| *millis <= DAY);
    millis
        .map(|millis| Duration::from_micros((millis * 1e3).round() as u64))
        .filter(move |time| *time > than)
}

/// Numbers of two digits, from a tenth up: 0.1, 0.11, ... 9.9, 10, 11, ... 99, 100, 110, ...
fn typable() -> impl Iterator<Item = f64> {
    let decade = |power: i32| (10..100).map(move |digits| (digits, power));
    (-2..14).flat_map(decade).map(|(digits, power)| match power {
        ..0 => f64::from(digits) / 10f64.powi(-power),
        _ => f64::from(digits) * 10f64.powi(power),
    })
}

/// The first of a list for which something holds that holds for all after it, found by halving; the one
/// before it was tried too. `None` where it does not hold for the last.
fn first<T>(all: &[T], holds: impl Fn(&T) -> bool) -> Option<&T> {
    let mut found = all.last().filter(|last| holds(last))?;
    let (mut low, mut high) = (0, all.len() - 1);
    while low < high {
        let middle = (low + high) / 2;
        if holds(&all[middle]) {
            (high, found) = (middle, &all[middle]);
        } else {
            low = middle + 1;
        }
    }
    Some(found)
}

/// What may give way besides so that the rest is kept: the first of these that does.
fn give_way(view: &View) -> Option<Setting> {
    use Requirement::{MaxStall, MaxTime, MinCpu};
    const LISTS: [&[Requirement]; 5] =
        [&[MaxStall], &[MinCpu], &[MaxTime], &[MaxTime, MaxStall], &[MinCpu, MaxTime, MaxStall]];
    let asked = &view.requirements;
    let with = |more: &[Requirement]| {
        let more = more.iter().filter(|name| !asked.may_break(**name));
        Setting::GiveWay(asked.give_way.iter().chain(more).copied().collect())
    };
    LISTS.into_iter().map(with).find(|change| resolves(view, change))
}

impl Conflict {
    /// What is in conflict, in words.
    pub fn problem(&self) -> String {
        let held = match self.tightest {
            None => "its vCPUs cannot be held".to_owned(),
            Some(share) => format!("even held to {:.1} %", share.get() * 100.0),
        };
        let asked: Vec<String> = self.between.iter().map(Setting::to_string).collect();
        let cannot = if self.certain { "cannot" } else { "is not likely to" };
        let limited = self.between.iter().any(|demand| matches!(demand, Setting::MaxBandwidth(_)));
        let over = if limited { String::new() } else { format!(" over {}", self.link) };
        format!(
            "the guest writes {} of memory again and again; {held}, it {cannot} land within {}{over}",
            self.working_set,
            and(&asked)
        )
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ways: Vec<String> = self.remedies.iter().map(Remedy::to_string).collect();
        let ways = match ways.is_empty() {
            true => "no change to one of them resolves it".to_owned(),
            false => ways.join(", or "),
        };
        write!(f, "{}: {ways}", self.problem())
    }
}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, text) = (self.change.name(), self.change.text());
        match &self.change {
            Setting::MinCpu(_) => write!(f, "lower --{name} to {text}"),
            Setting::GiveWay(list) if list.contains(&Requirement::MaxStall) => {
                let stall = self.implies.forecast.map(|forecast| forecast.longest_stall_s.mid);
                let stall = stall.and_then(|stall| Duration::try_from_secs_f64(stall).ok());
                let about =
                    stall.map(|stall| format!(" of about {}", format::duration(round(stall))));
                write!(f, "allow a longer pause{} (--{name} {text})", about.unwrap_or_default())
            }
            Setting::GiveWay(_) => write!(f, "let it be broken (--{name} {text})"),
            _ => write!(f, "raise --{name} to {text}"),
        }
    }
}

/// To two digits or so.
fn round(time: Duration) -> Duration {
    match time.as_millis() as u64 {
        ms @ ..1000 => Duration::from_millis(ms.next_multiple_of(10)),
        ms => Duration::from_millis(ms.next_multiple_of(100)),
    }
}

fn and(all: &[String]) -> String {
    match all {
        [] => "what was asked".to_owned(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

#[cfg(test)]
mod tests;
