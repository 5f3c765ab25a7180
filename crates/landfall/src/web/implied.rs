//! What a setting implies for a guest that was looked at: quickly, by the planner alone, and thoroughly,
//! by simulating the migration.

use std::sync::Arc;

use landfall_core::model::prior::Prior;
use landfall_core::planner::classify_view;
use landfall_core::planner::implications::{
    Implication, Ways, dial, implication, implications, ways,
};
use landfall_core::planner::pareto::{ParetoPoint, pareto_front};
use landfall_core::planner::remedies::{Conflict, resolve};
use landfall_core::report::Class;
use landfall_core::telemetry::view::View;
use landfall_qemu::mutex::lock_unpoisoned;

use super::guests::Looked;
use super::settings::Settings;
use landfall_migration::forecaster::Forecaster;
use landfall_migration::preflight::Preflight;
use landfall_migration::recommendation::{Recommendation, recommend};

/// How an answer was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grade {
    /// By the planner alone: while a slider moves.
    Planned,
    /// By simulation: once it rests.
    Simulated,
}

/// What is implied.
#[derive(Debug, Clone)]
pub struct Implied {
    pub grade: Grade,
    /// What is known, with the link as it may be used.
    pub prior: Prior,
    pub class: Option<Class>,
    /// Of the setting itself.
    pub chosen: Implication,
    /// Of each setting of the dial, all else as it was set.
    pub dial: Vec<Implication>,
    /// The setting to take.
    pub recommended: Option<Recommendation>,
    /// What cannot all be kept, and what would resolve it.
    pub conflict: Option<Conflict>,
    /// Holding or pausing, and which of the two loses less.
    pub ways: Option<Ways>,
    /// What can be had of one figure for how much of the others.
    pub frontier: Arc<Vec<ParetoPoint>>,
}

/// What is implied, in one of the two ways. The quick one takes milliseconds, the other up to a second:
/// it ends early, with nothing, once nobody wants it any more.
pub fn implied(
    looked: &Looked,
    settings: &Settings,
    grade: Grade,
    wanted: &dyn Fn() -> bool,
) -> Option<Implied> {
    let forecaster = forecaster(looked, settings);
    let aggression = settings.demands.aggression;
    let view = forecaster.initial_view(aggression);
    let asked = &settings.demands.requirements;
    let (chosen, dial, conflict) = match grade {
        Grade::Planned => (implication(&view), implications(&view), planned_conflict(&view)),
        Grade::Simulated => {
            let thorough = |dial| wanted().then(|| forecaster.simulate_aggression(dial));
            let all = dial().map(thorough).collect::<Option<Vec<_>>>()?;
            let conflict = forecaster.find_conflict(&all);
            (thorough(aggression)?, all, conflict)
        }
    };
    Some(Implied {
        grade,
        class: classify_view(&view),
        recommended: recommend(&dial, asked),
        conflict,
        chosen,
        dial,
        ways: ways(&view),
        frontier: known_frontier(looked, &view),
        prior: forecaster.preflight.prior,
    })
}

/// What cannot all be kept, even if something may give way, with the planner's remedies.
fn planned_conflict(view: &View) -> Option<Conflict> {
    let mut strict = view.clone();
    strict.requirements.give_way.clear();
    resolve(&strict)
}

/// Who answers, with the link as it may be used.
fn forecaster(looked: &Looked, settings: &Settings) -> Forecaster {
    let Preflight { prior, .. } = &looked.foresight;
    let link = settings.demands.requirements.max_bandwidth.or(prior.link);
    Forecaster {
        preflight: Preflight { prior: Prior { link, ..prior.clone() }, ..looked.foresight.clone() },
        policy: settings.law(),
        demands: settings.demands.clone(),
    }
}

/// The frontier does not depend on what is asked but for the link, and takes longest.
fn known_frontier(looked: &Looked, view: &View) -> Arc<Vec<ParetoPoint>> {
    let mut known = lock_unpoisoned(&looked.frontier);
    match &*known {
        Some((link, points)) if *link == view.link => points.clone(),
        _ => {
            let points = Arc::new(pareto_front(view));
            *known = Some((view.link, points.clone()));
            points
        }
    }
}

/// The class of a guest that was looked at, with nothing demanded but what is demanded by default.
pub fn class_by_default(looked: &Looked) -> Option<Class> {
    let settings = Settings::read(&[]);
    classify_view(&forecaster(looked, &settings).initial_view(settings.demands.aggression))
}
