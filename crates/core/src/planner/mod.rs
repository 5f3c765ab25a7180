//! The planner: how to land a guest whose dirty curve is known, at the least cost.
//!
//! **Problem.** A pass over `R` bytes takes `T = R/B`. In it the guest may be given any CPU time `c`
//! from `floor*T` to `demand*T`, and leaves `D(c)` bytes for the next pass: how `c` is spread over the
//! pass does not matter. At the end of a pass the rest may be shipped with the guest standing
//! still, if that takes no longer than the stall allowed. Work lost is `demand*T - c` in a pass,
//! and `demand*T` in a shipment. Which sequence of passes costs least, where cost is
//! `(1-w)*lost + w*demand*time`?
//!
//! **Approach.** Dynamic programming over the CPU time given in the pass before, the one fact of the
//! past that matters: it determines what remains. With `c_k` on a grid and `R_k = D(c_k)`, the least
//! cost from state `k` is `V_k = min(ship, demand*T_k + min over j of V_j - (1-w)*c_j)`, where `j` runs
//! over the states below `k` that a pass over `R_k` can reach. Going to a state that leaves more
//! than there was never helps, for everything that can be done from there can be done from here.
//! So states are filled in order of what they leave, once.
//!
//! **Properties.**
//! - Holding late, hard and short is a result of it: a pass at full speed costs no work, so holding early
//!   buys nothing that holding in the last pass does not buy for less.
//! - In `w` total time never rises and work lost never falls, for both are minima of one family of
//!   plans under a weighted sum. So aggression is monotone by construction.
//! - The result is the best plan whose passes end on the grid; the shipment that just keeps the
//!   stall is a node of it, so the last pass is exact.

mod constraints;
pub mod implications;
pub mod pareto;
mod prospect;
pub mod remedies;
mod value_table;

use serde::{Deserialize, Serialize};

use crate::model::DirtyCurve;
use crate::report::Class;
use crate::requirements::Aggression;
use crate::telemetry::view::View;
use crate::units::{ByteRate, Bytes, CpuDemand, CpuTime};

pub use constraints::Constraints;
pub(crate) use constraints::share_for_cpu;
pub use prospect::LINK_ERROR;
pub use value_table::{PlanStep, STEERING_NODES, ValueTable};

/// What a plan is made for: a guest, a link and what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PlanInputs {
    /// CPU time the guest takes in a second when nothing holds it.
    pub cpu_demand: CpuDemand,
    /// CPU time it gets in a second under the tightest hold there may be.
    pub floor: CpuDemand,
    /// Rate at which guest pages leave.
    pub link: ByteRate,
    /// Longest shipment with the guest standing still, in seconds; `None` where any will do.
    pub shipment: Option<f64>,
    /// How much a second of time weighs against a second of a busy guest's work: 0 to 1.
    pub weight: f64,
}

/// The cost of a plan, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PlanCost {
    /// Until the guest runs at the destination.
    pub total: f64,
    /// CPU time of the guest lost.
    pub lost: CpuTime,
    /// The shipment at the end.
    pub shipment: f64,
    /// Least CPU time in a second that the guest gets while it runs, as a share of its demand.
    pub least_share: f64,
    /// Passes, the one under way included.
    pub passes: u32,
}

/// A moment of a migration from which to plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlanState {
    /// What is left of the pass under way.
    pub remaining: Bytes,
    /// CPU time the guest has had since the pass began.
    pub used: CpuTime,
    /// The rest may be shipped at once.
    pub may_ship: bool,
}

impl PlanState {
    /// The moment from which a migration that has not begun can be steered, and how many seconds after its
    /// start that is: until the link is known nothing is held.
    pub(crate) fn once_known(remaining: Bytes, terms: &PlanInputs) -> (PlanState, f64) {
        let begun = BLIND.min(remaining.as_f64() / terms.link.0);
        let remaining = Bytes((remaining.as_f64() - begun * terms.link.0) as u64);
        let used = CpuTime(terms.cpu_demand.0 * begun);
        (PlanState { remaining, used, may_ship: false }, begun)
    }
}

/// Seconds that a migration goes on before its link is known.
const BLIND: f64 = 0.4;

/// A plan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// What to do in the pass under way.
    pub step: PlanStep,
    /// Its cost.
    pub cost: PlanCost,
}

impl Plan {
    /// Whether the guest is never held before the shipment.
    pub fn is_free(&self) -> bool {
        self.cost.least_share >= 0.999
    }
}

/// The weight of time at an aggression. At 0 little, but enough to end: passes at full speed cost
/// nothing, and what the next one saves gets less from one to the next. In the middle of the dial a second
/// of work still weighs as much as nine of time. At 1 time counts, and work only between plans that
/// take as long.
pub fn time_weight(aggression: Aggression) -> f64 {
    let dial = aggression.get();
    0.04 + 0.95 * dial.powi(4)
}

/// Weights of time to try where the aggression's does not end in time.
pub(crate) const HURRY_WEIGHTS: [f64; 2] = [0.5, 1.0];

/// The class of the guest in a view, within all that was asked; `None` while too little is known.
pub fn classify_view(view: &View) -> Option<Class> {
    let terms = Constraints::all(&view.requirements).plan_inputs(view)?;
    Some(classify(&view.estimate()?.curve, &terms))
}

/// Whether a guest lands by itself, when it is held, or only by a pause.
///
/// It lands where a pass ends with `D(u*T) <= B*t`. `D` is concave, so `D(u*T)/T` falls in `T`: if
/// the last and shortest pass, of length `t`, leaves no more than it sent, all longer ones do.
pub fn classify(curve: &DirtyCurve, terms: &PlanInputs) -> Class {
    let Some(stall) = terms.shipment else { return Class::Unknown };
    let fits = |pace: CpuDemand| curve.dirtied_bytes(pace.0 * stall) <= terms.link.0 * stall;
    match (fits(terms.cpu_demand), fits(terms.floor)) {
        (true, _) => Class::Unaided,
        (false, true) => Class::Middle,
        (false, false) => Class::Pathological,
    }
}

/// Whether it is clear without a table that no plan lands the guest from here: what has to be shipped is
/// too much, and of a pathological guest no pass leaves less ([`classify`]).
pub(crate) fn cannot_land(curve: &DirtyCurve, terms: &PlanInputs, from: &PlanState) -> bool {
    let too_much = |stall: f64| from.remaining.as_f64() > terms.link.0 * stall;
    !from.may_ship
        && terms.shipment.is_some_and(too_much)
        && classify(curve, terms) == Class::Pathological
}
