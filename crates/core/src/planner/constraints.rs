//! The inputs of a plan, from a view and the requirements that it must keep.

use std::time::Duration;

use super::{PlanInputs, classify, time_weight};
use crate::model::DirtyCurve;
use crate::quota::Quota;
use crate::report::Class;
use crate::requirements::{Requirement, Requirements};
use crate::switch_over;
use crate::telemetry::view::View;
use crate::units::{ByteRate, CpuDemand, Share};

/// The requirements that a plan must keep. They are given up one after the other, in the operator's order,
/// while no plan keeps the rest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Constraints {
    /// Least share of a CPU.
    pub min_cpu: Share,
    /// Longest stall; `None` for any.
    pub max_stall: Option<Duration>,
    /// Longest total time; `None` for any.
    pub max_time: Option<Duration>,
}

impl Constraints {
    /// All requirements.
    pub fn all(asked: &Requirements) -> Constraints {
        Constraints {
            min_cpu: asked.min_cpu,
            max_stall: Some(asked.max_stall),
            max_time: asked.max_time,
        }
    }

    /// Without one of them.
    #[must_use]
    pub fn without(self, given_up: Requirement) -> Constraints {
        match given_up {
            Requirement::MinCpu => Constraints { min_cpu: Share::NONE, ..self },
            Requirement::MaxStall => Constraints { max_stall: None, ..self },
            Requirement::MaxTime => Constraints { max_time: None, ..self },
            Requirement::MaxBandwidth => self,
        }
    }

    /// The tightest share that a quota may leave under these.
    pub fn tightest(&self, view: &View) -> Share {
        if !view.levers.quota {
            return Share::FULL;
        }
        let gap = self.max_stall.map_or(Quota::PERIODS.1, |stall| stall.mul_f64(GAP));
        self.min_cpu.max(Quota::least_share(gap, view.levers.tick))
    }

    /// The inputs for the guest and the link of a view; `None` while too little is known.
    pub fn plan_inputs(&self, view: &View) -> Option<PlanInputs> {
        let guest = view.estimate()?;
        self.plan_inputs_for(view, &guest.curve, guest.error)
    }

    /// The same for a curve that is known from elsewhere, with its relative error.
    pub fn plan_inputs_for(
        &self,
        view: &View,
        curve: &DirtyCurve,
        error: f64,
    ) -> Option<PlanInputs> {
        let link = view.link?;
        let paces = paces(view)?;
        let tightest = self.tightest(view).get();
        let pace: f64 = paces.iter().sum();
        let floor: f64 = paces.iter().map(|pace| pace.min(tightest)).sum();
        let shipment = |stall| switch_over::drained(stall).as_secs_f64() / (1.0 + error);
        let terms = PlanInputs {
            cpu_demand: CpuDemand(pace.max(LEAST_PACE)),
            floor: CpuDemand(floor.min(pace).max(0.0)),
            link: ByteRate(link.0.max(1.0)),
            shipment: self.max_stall.map(shipment),
            weight: time_weight(view.aggression),
        };
        let unaided = classify(curve, &terms) == Class::Unaided;
        // A guest that lands unaided is not held, however much faster that would be.
        Some(if unaided { PlanInputs { floor: terms.cpu_demand, ..terms } } else { terms })
    }
}

/// Longest gap of a quota as a part of the stall allowed: not quite half, for what a quota grants in
/// a period may all go into the hypervisor's own work (looking at the dirty bitmap, filling the
/// translation cache), and then the guest sees two gaps as one: 0.45 s of 0.28 were seen.
const GAP: f64 = 0.47;

/// The least CPU demand, so that nothing is divided by zero.
const LEAST_PACE: f64 = 1e-3;

/// CPU time that each vCPU takes in a second while it is not throttled: recently, or before the start.
fn paces(view: &View) -> Option<Vec<f64>> {
    let of_late: Option<Vec<f64>> =
        view.vcpus.iter().map(|vcpu| vcpu.unthrottled.map(Share::get)).collect();
    let before = || {
        let each = view.cpu_demand?.0 / view.vcpus.len().max(1) as f64;
        Some(vec![each; view.vcpus.len().max(1)])
    };
    of_late.filter(|paces| !paces.is_empty()).or_else(before)
}

/// The share for each vCPU that gives the guest this much CPU time in a second.
pub(crate) fn share_for_cpu(view: &View, wanted: CpuDemand) -> Share {
    let Some(paces) = paces(view) else { return Share::FULL };
    // Those that take less than an even part leave theirs to the others.
    let (mut left, mut count) = (wanted.0, paces.len());
    let mut sorted = paces;
    sorted.sort_by(f64::total_cmp);
    for pace in sorted {
        let even = left / count as f64;
        if pace > even {
            return Share::clamped(even);
        }
        left -= pace;
        count -= 1;
    }
    Share::FULL
}
