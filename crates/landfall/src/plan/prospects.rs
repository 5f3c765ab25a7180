//! All that can be said before a migration: what was measured, what each setting implies, what conflicts.
//!
//! For whoever shows it, `landfall plan` or a page. There are two grades of answer: the planner's, in
//! well under a millisecond, for somebody who moves a slider
//! ([`implication`](landfall_core::planner::implications::implication) of [`Forecaster::view`]); and the
//! policy's own, simulated, in some milliseconds for each setting ([`Forecaster::thorough`]).

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::{Pace, Prior};
use landfall_core::planner::classify_view;
use landfall_core::planner::implications::{Implication, ImplicationVerdict, Ways, dial, ways};
use landfall_core::planner::pareto::{ParetoPoint, pareto_front};
use landfall_core::planner::remedies::{Conflict, Remedy, doubt, further, resolve};
use landfall_core::report::{Class, Outcome};
use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::requirements::{Aggression, Requirement};
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::view::View;
use landfall_core::units::{ByteRate, Bytes};
use serde::Serialize;

use super::recommend::{Recommended, recommend};
use crate::foresight::{Foresight, levers};
use crate::law::Law;

/// How many changes to one requirement are simulated.
const TRIES: usize = 8;

/// Answers questions about a guest that was probed, under what is demanded.
#[derive(Debug, Clone)]
pub struct Forecaster {
    /// What is known.
    pub foresight: Foresight,
    /// The policy that would steer.
    pub policy: Law,
    /// What is demanded.
    pub demands: Demands,
}

/// Everything there is to say.
#[derive(Debug, Clone, Serialize)]
pub struct Prospects {
    /// The policy that would steer.
    pub policy: String,
    /// What was asked.
    pub asked: Demands,
    /// What was measured.
    pub measured: Measured,
    /// The guest's class over this link, within what was asked.
    pub class: Class,
    /// What each setting of the dial implies, simulated by the policy.
    pub implications: Vec<Implication>,
    /// The setting to take; `None` where none lands.
    pub recommended: Option<Recommended>,
    /// What cannot all be kept, and what would resolve it; `None` where all can.
    pub conflict: Option<Conflict>,
    /// Holding the guest, or pausing it; `None` while too little is known.
    pub ways: Option<Ways>,
    /// What can be had of stall, time and work lost for how much of the others, by the planner.
    pub frontier: Vec<ParetoPoint>,
}

/// What the probe found; what it did not is `null`.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Points of the dirty curve.
    pub points: Vec<CurvePoint>,
    /// Relative standard error of the curve through them.
    pub error: Option<f64>,
    /// What the guest writes again and again.
    pub working_set_bytes: Option<Bytes>,
    /// All its memory.
    pub memory_bytes: Option<Bytes>,
    /// Memory with contents.
    pub contents_bytes: Option<Bytes>,
    /// CPUs it keeps busy.
    pub pace: Option<Pace>,
    /// How many it has.
    pub vcpus: u32,
    /// Whether they are emulated.
    pub emulated: bool,
    /// The rate at which its pages would leave.
    pub link_bytes_per_second: Option<ByteRate>,
    /// Why something is missing.
    pub notes: Vec<String>,
}

impl Measured {
    /// What the curve was made of.
    pub fn prior(&self) -> Prior {
        Prior {
            points: self.points.clone(),
            contents: self.contents_bytes,
            memory: self.memory_bytes,
            pace: self.pace,
            link: self.link_bytes_per_second,
            emulated: self.emulated,
        }
    }
}

impl Forecaster {
    /// Everything, by the thorough grade.
    pub fn prospects(&self) -> Prospects {
        let view = self.view(self.demands.aggression);
        let implications: Vec<Implication> = dial().map(|dial| self.thorough(dial)).collect();
        Prospects {
            policy: self.policy.name().to_owned(),
            asked: self.demands.clone(),
            measured: self.measured(&view),
            class: classify_view(&view).unwrap_or(Class::Unknown),
            recommended: recommend(&implications, &self.demands.requirements),
            conflict: self.conflict(&implications),
            implications,
            ways: ways(&view),
            frontier: pareto_front(&view),
        }
    }

    /// The view before the start, at a setting.
    pub fn view(&self, aggression: Aggression) -> View {
        let Foresight { prior, vcpus, .. } = &self.foresight;
        let asked = self.demands.requirements.clone();
        let memory = prior.memory.or(prior.contents).unwrap_or_default();
        Observer::new(asked, aggression, levers(), prior).view_before_start(memory, *vcpus as usize)
    }

    /// What a setting implies, simulated by the policy.
    pub fn thorough(&self, aggression: Aggression) -> Implication {
        let asked = &self.demands.requirements;
        let Some(expected) = self.foresight.expect(&self.policy, asked, aggression) else {
            return Implication::without_figures(aggression, ImplicationVerdict::Unknown);
        };
        match (expected.forecast, expected.outcome) {
            (Some(forecast), _) => {
                Implication::of(aggression, ImplicationVerdict::Lands, forecast, asked)
            }
            (None, Outcome::Refused) => {
                Implication::without_figures(aggression, ImplicationVerdict::Refused)
            }
            (None, _) => Implication::without_figures(aggression, ImplicationVerdict::Uncertain),
        }
    }

    /// What cannot all be kept, even if something may give way. Each remedy is simulated by the policy as
    /// well, and made greater until that keeps the rest; what never does is left out.
    ///
    /// Where the planner lands the guest but no setting does when it is simulated, that is a conflict too.
    pub fn conflict(&self, implications: &[Implication]) -> Option<Conflict> {
        let mut strict = self.clone();
        strict.demands.requirements.give_way.clear();
        let view = strict.view(strict.demands.aggression);
        let keeps =
            |one: &Implication| one.verdict == ImplicationVerdict::Lands && one.broken.is_empty();
        let none_keeps = || !implications.iter().any(keeps);
        let mut conflict = resolve(&view).or_else(|| doubt(&view).filter(|_| none_keeps()))?;
        let confirmed = |remedy: &Remedy| strict.confirmed(&view, remedy.change.clone());
        conflict.remedies = conflict.remedies.iter().filter_map(confirmed).collect();
        Some(conflict)
    }

    /// A change that the simulated policy lands with, the rest kept: this one or the next greater ones.
    fn confirmed(&self, view: &View, change: Demand) -> Option<Remedy> {
        let greater = |change: &Demand| further(view, change);
        let tries = std::iter::successors(Some(change), greater).take(TRIES);
        tries.map(|change| self.simulated(change)).find(|remedy| {
            let hard = |name: &&Requirement| match &remedy.change {
                Demand::GiveWay(list) => !list.contains(name),
                _ => true,
            };
            let Implication { verdict, broken, .. } = &remedy.implies;
            *verdict == ImplicationVerdict::Lands && broken.iter().filter(hard).count() == 0
        })
    }

    /// What asking that instead implies, simulated by the policy.
    fn simulated(&self, change: Demand) -> Remedy {
        let mut changed = self.clone();
        changed.demands.apply(change.clone());
        changed.foresight.prior.link =
            changed.demands.requirements.max_bandwidth.or(self.foresight.prior.link);
        Remedy { implies: changed.thorough(self.demands.aggression), change }
    }

    fn measured(&self, view: &View) -> Measured {
        let Foresight { prior, vcpus, notes } = &self.foresight;
        let Prior { points, contents, memory, pace, link, emulated } = prior.clone();
        Measured {
            points,
            error: view.estimate().map(|guest| guest.error),
            working_set_bytes: view.estimate().map(|guest| guest.curve.working_set()),
            memory_bytes: memory,
            contents_bytes: contents,
            pace,
            vcpus: *vcpus,
            emulated,
            link_bytes_per_second: link,
            notes: notes.clone(),
        }
    }
}
