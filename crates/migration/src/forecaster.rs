//! What can be said before a migration: what was measured, what each setting implies, what conflicts.
//!
//! There are two grades of answer. The planner answers in well under a millisecond, fast enough for a
//! slider that is being moved ([`implication`](landfall_core::planner::implications::implication) of
//! [`Forecaster::initial_view`]). Simulating the policy takes some milliseconds for each setting
//! ([`Forecaster::simulate_aggression`]).

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::Prior;
use landfall_core::planner::classify_view;
use landfall_core::planner::implications::{Implication, ImplicationVerdict, Ways, dial, ways};
use landfall_core::planner::pareto::{ParetoPoint, pareto_front};
use landfall_core::planner::remedies::{Conflict, Remedy, doubt, further, resolve};
use landfall_core::report::{Class, Outcome};
use landfall_core::requirements::{Aggression, Requirement, Setting, Settings};
use landfall_core::telemetry::observer::Observer;
use landfall_core::telemetry::view::View;
use landfall_core::units::{ByteRate, Bytes, CpuDemand};
use serde::Serialize;

use crate::policy_registry::NamedPolicy;
use crate::preflight::{Preflight, all_levers};
use crate::recommendation::{Recommendation, recommend};

/// How many changes to one requirement are simulated.
const TRIES: usize = 8;

/// Answers questions about a probed guest under given requirements.
#[derive(Debug, Clone)]
pub struct Forecaster {
    /// What is known of guest and link.
    pub preflight: Preflight,
    /// The policy that would steer.
    pub policy: NamedPolicy,
    /// The requirements and the aggression.
    pub settings: Settings,
}

/// All answers, as `landfall plan --json` prints them.
#[derive(Debug, Clone, Serialize)]
pub struct Prospects {
    /// The policy that would steer.
    pub policy: String,
    /// The requirements and the aggression.
    pub asked: Settings,
    /// What the probe found.
    pub measured: ProbeSummary,
    /// The guest's class over this link, within what was asked.
    pub class: Class,
    /// What each setting of the dial implies, simulated by the policy.
    pub implications: Vec<Implication>,
    /// The setting to take; `None` where none lands.
    pub recommended: Option<Recommendation>,
    /// What cannot all be kept, and what would resolve it; `None` where all can.
    pub conflict: Option<Conflict>,
    /// Holding the guest, or pausing it; `None` while too little is known.
    pub ways: Option<Ways>,
    /// What can be had of stall, time and work lost for how much of the others, by the planner.
    pub frontier: Vec<ParetoPoint>,
}

/// What the probe found; `null` where it found nothing.
#[derive(Debug, Clone, Serialize)]
pub struct ProbeSummary {
    /// Points of the dirty curve.
    pub points: Vec<CurvePoint>,
    /// Relative standard error of the curve through them.
    pub error: Option<f64>,
    /// Size of the working set: what the guest writes again and again.
    pub working_set_bytes: Option<Bytes>,
    /// All its memory.
    pub memory_bytes: Option<Bytes>,
    /// Memory with contents.
    pub contents_bytes: Option<Bytes>,
    /// CPUs it keeps busy.
    #[serde(rename = "pace")]
    pub cpu_demand: Option<CpuDemand>,
    /// How many it has.
    pub vcpus: u32,
    /// Whether they are emulated.
    pub emulated: bool,
    /// The rate at which its pages would leave.
    pub link_bytes_per_second: Option<ByteRate>,
    /// Why something is missing.
    pub notes: Vec<String>,
}

impl ProbeSummary {
    /// Returns what the dirty curve was fitted to.
    pub fn prior(&self) -> Prior {
        Prior {
            points: self.points.clone(),
            contents: self.contents_bytes,
            memory: self.memory_bytes,
            cpu_demand: self.cpu_demand,
            link: self.link_bytes_per_second,
            emulated: self.emulated,
        }
    }
}

impl Forecaster {
    /// Returns all answers, those for each setting simulated.
    pub fn prospects(&self) -> Prospects {
        let view = self.initial_view(self.settings.aggression);
        let implications: Vec<Implication> =
            dial().map(|dial| self.simulate_aggression(dial)).collect();
        Prospects {
            policy: self.policy.name().to_owned(),
            asked: self.settings.clone(),
            measured: self.probe_summary(&view),
            class: classify_view(&view).unwrap_or(Class::Unknown),
            recommended: recommend(&implications, &self.settings.requirements),
            conflict: self.find_conflict(&implications),
            implications,
            ways: ways(&view),
            frontier: pareto_front(&view),
        }
    }

    /// Returns the view that a policy has before the start, at an aggression.
    pub fn initial_view(&self, aggression: Aggression) -> View {
        let Preflight { prior, vcpus, .. } = &self.preflight;
        let asked = self.settings.requirements.clone();
        let memory = prior.memory.or(prior.contents).unwrap_or_default();
        Observer::new(asked, aggression, all_levers(), prior)
            .view_before_start(memory, *vcpus as usize)
    }

    /// Simulates the policy at an aggression and returns what that implies.
    pub fn simulate_aggression(&self, aggression: Aggression) -> Implication {
        let asked = &self.settings.requirements;
        let Some(expected) = self.preflight.forecast(&self.policy, asked, aggression) else {
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

    /// Returns the requirements that cannot all be kept, with remedies; what may give way counts as well.
    /// Each remedy is simulated, and made greater until the policy keeps the rest; a remedy for which that
    /// never happens is left out.
    ///
    /// It is a conflict too if the planner lands the guest but no simulated setting does.
    pub fn find_conflict(&self, implications: &[Implication]) -> Option<Conflict> {
        let mut strict = self.clone();
        strict.settings.requirements.give_way.clear();
        let view = strict.initial_view(strict.settings.aggression);
        let keeps =
            |one: &Implication| one.verdict == ImplicationVerdict::Lands && one.broken.is_empty();
        let none_keeps = || !implications.iter().any(keeps);
        let mut conflict = resolve(&view).or_else(|| doubt(&view).filter(|_| none_keeps()))?;
        let confirmed = |remedy: &Remedy| strict.confirm_remedy(&view, remedy.change.clone());
        conflict.remedies = conflict.remedies.iter().filter_map(confirmed).collect();
        Some(conflict)
    }

    /// Returns this change, or the next greater one, with which the simulated policy keeps the rest.
    fn confirm_remedy(&self, view: &View, change: Setting) -> Option<Remedy> {
        let greater = |change: &Setting| further(view, change);
        let tries = std::iter::successors(Some(change), greater).take(TRIES);
        tries.map(|change| self.simulate_change(change)).find(|remedy| {
            let hard = |name: &&Requirement| match &remedy.change {
                Setting::GiveWay(list) => !list.contains(name),
                _ => true,
            };
            let Implication { verdict, broken, .. } = &remedy.implies;
            *verdict == ImplicationVerdict::Lands && broken.iter().filter(hard).count() == 0
        })
    }

    /// Simulates the policy with a changed requirement.
    fn simulate_change(&self, change: Setting) -> Remedy {
        let mut changed = self.clone();
        changed.settings.apply(change.clone());
        changed.preflight.prior.link =
            changed.settings.requirements.max_bandwidth.or(self.preflight.prior.link);
        Remedy { implies: changed.simulate_aggression(self.settings.aggression), change }
    }

    fn probe_summary(&self, view: &View) -> ProbeSummary {
        let Preflight { prior, vcpus, notes } = &self.preflight;
        let Prior { points, contents, memory, cpu_demand, link, emulated } = prior.clone();
        ProbeSummary {
            points,
            error: view.estimate().map(|guest| guest.error),
            working_set_bytes: view.estimate().map(|guest| guest.curve.working_set()),
            memory_bytes: memory,
            contents_bytes: contents,
            cpu_demand,
            vcpus: *vcpus,
            emulated,
            link_bytes_per_second: link,
            notes: notes.clone(),
        }
    }
}
