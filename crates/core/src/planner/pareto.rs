//! The frontier between work lost, longest stall and total time: what can be had of one for how much of
//! the others.
//!
//! Every plan is a point with these three figures. Those that no other plan beats in all three are the
//! frontier: less of one means more of another. It is found by trying stall and CPU floor over their whole range, and the aggression over its
//! dial.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::prospect::{CurveCase, pause, prospect};
use super::{Constraints, implications};
use crate::requirements::Aggression;
use crate::telemetry::view::View;
use crate::units::Share;

/// A plan that no other beats in all three figures, and the settings that lead to it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ParetoPoint {
    /// The setting of the dial.
    pub aggression: Aggression,
    /// The stall it was allowed; `None`: any.
    pub max_stall: Option<Duration>,
    /// The least share of a CPU that each vCPU was to keep.
    pub min_cpu: Share,
    /// The whole migration, in seconds.
    pub total_s: f64,
    /// The longest stall, in seconds.
    pub longest_stall_s: f64,
    /// CPU time of the guest lost, in seconds.
    pub guest_cpu_lost_s: f64,
}

/// The frontier for the guest and the link of a view, shortest stall first; it ignores the requirements
/// on stall, floor and time. Empty while too little is known.
pub fn pareto_front(view: &View) -> Vec<ParetoPoint> {
    let mut all: Vec<ParetoPoint> = Vec::new();
    for max_stall in stalls(view) {
        for min_cpu in FLOORS.map(Share::clamped) {
            let allowed = Constraints { min_cpu, max_stall, max_time: None };
            all.extend(implications::dial().filter_map(|dial| point(view, dial, &allowed)));
        }
    }
    undominated(all)
}

/// Floors for the CPU to try: none, some, and never holding it.
const FLOORS: [f64; 4] = [0.0, 0.1, 0.3, 1.0];

/// The shortest stall to try: less no switch-over keeps.
const LEAST_STALL: f64 = 0.06;

/// How many stalls to try, evenly on a logarithmic scale, up to the one that pausing alone takes.
const STALLS: u32 = 12;

fn stalls(view: &View) -> impl Iterator<Item = Option<Duration>> {
    let most = pause(view).map_or(LEAST_STALL, |pause| pause.longest_stall(view) * 1.1);
    let ratio = (most / LEAST_STALL).max(1.0);
    let at = move |step: u32| LEAST_STALL * ratio.powf(f64::from(step) / f64::from(STALLS - 1));
    let stall = move |step| Duration::try_from_secs_f64(at(step)).ok();
    (0..STALLS).map(stall).chain([None])
}

fn point(view: &View, aggression: Aggression, allowed: &Constraints) -> Option<ParetoPoint> {
    let view = View { aggression, ..view.clone() };
    let found = prospect(&view, allowed, CurveCase::NOMINAL)?;
    Some(ParetoPoint {
        aggression,
        max_stall: allowed.max_stall,
        min_cpu: allowed.min_cpu,
        total_s: found.total(),
        longest_stall_s: found.longest_stall(&view),
        guest_cpu_lost_s: found.lost(),
    })
}

/// Those that no other beats; of nearly equal ones, one.
fn undominated(mut all: Vec<ParetoPoint>) -> Vec<ParetoPoint> {
    let key = |point: &ParetoPoint| point.longest_stall_s;
    all.sort_by(|a, b| {
        key(a).total_cmp(&key(b)).then(a.guest_cpu_lost_s.total_cmp(&b.guest_cpu_lost_s))
    });
    let mut kept: Vec<ParetoPoint> = Vec::new();
    for point in &all {
        if !kept.iter().any(|other| beats(other, point, EQUAL_WITHIN)) {
            kept.push(*point);
        }
    }
    let beaten =
        |point: &ParetoPoint| kept.iter().any(|other| other != point && beats(other, point, 1.0));
    let beaten: Vec<bool> = kept.iter().map(beaten).collect();
    kept.into_iter().zip(beaten).filter(|(_, beaten)| !beaten).map(|(point, _)| point).collect()
}

/// Figures that differ by less are the same.
const EQUAL_WITHIN: f64 = 1.02;

/// Whether one is no worse than another in any figure, `slack` times as much counting as no more.
fn beats(one: &ParetoPoint, other: &ParetoPoint, slack: f64) -> bool {
    figures(one).into_iter().zip(figures(other)).all(|(one, other)| one <= other * slack)
}

fn figures(point: &ParetoPoint) -> [f64; 3] {
    [point.total_s, point.longest_stall_s, point.guest_cpu_lost_s]
}
