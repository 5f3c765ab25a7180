//! What settings imply for a guest that was probed: quickly by the planner alone, or thoroughly by
//! simulating the migration.

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
use landfall_migration::forecaster::Forecaster;
use landfall_migration::preflight::Preflight;
use landfall_migration::recommendation::{Recommendation, recommend};
use landfall_qemu::mutex::lock_unpoisoned;

use super::guests::GuestProbe;
use super::settings_form::SettingsForm;

/// How an answer is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhatIfGrade {
    /// By the planner alone, in milliseconds: while a slider moves.
    Planned,
    /// By simulation, in up to a second: once the slider rests.
    Simulated,
}

/// What settings imply.
#[derive(Debug, Clone)]
pub struct WhatIf {
    pub grade: WhatIfGrade,
    /// What the probe found, with the link as the settings limit it.
    pub prior: Prior,
    pub class: Option<Class>,
    /// Of the settings as they are.
    pub chosen: Implication,
    /// Of each aggression of the dial, with all other settings as they are.
    pub dial: Vec<Implication>,
    /// The recommended aggression.
    pub recommended: Option<Recommendation>,
    /// The requirements that cannot all be kept, and what would resolve that.
    pub conflict: Option<Conflict>,
    /// Throttling and pausing compared.
    pub ways: Option<Ways>,
    /// The landings that no other landing beats in every figure.
    pub pareto_front: Arc<Vec<ParetoPoint>>,
}

/// Answers what the settings of a form imply. Returns `None` early if `is_wanted` says that nothing waits
/// for the answer any more.
pub fn answer_what_if(
    probe: &GuestProbe,
    form: &SettingsForm,
    grade: WhatIfGrade,
    is_wanted: &dyn Fn() -> bool,
) -> Option<WhatIf> {
    let forecaster = forecaster_for(probe, form);
    let aggression = form.settings.aggression;
    let view = forecaster.initial_view(aggression);
    let asked = &form.settings.requirements;
    let (chosen, dial, conflict) = match grade {
        WhatIfGrade::Planned => {
            (implication(&view), implications(&view), find_planned_conflict(&view))
        }
        WhatIfGrade::Simulated => {
            let simulate = |dial| is_wanted().then(|| forecaster.simulate_aggression(dial));
            let all = dial().map(simulate).collect::<Option<Vec<_>>>()?;
            let conflict = forecaster.find_conflict(&all);
            (simulate(aggression)?, all, conflict)
        }
    };
    Some(WhatIf {
        grade,
        class: classify_view(&view),
        recommended: recommend(&dial, asked),
        conflict,
        chosen,
        dial,
        ways: ways(&view),
        pareto_front: cached_pareto_front(probe, &view),
        prior: forecaster.preflight.prior,
    })
}

/// Finds the requirements that cannot all be kept, also if some may give way, with the planner's remedies.
fn find_planned_conflict(view: &View) -> Option<Conflict> {
    let mut strict = view.clone();
    strict.requirements.give_way.clear();
    resolve(&strict)
}

/// Makes the forecaster for a probed guest, with the link as the settings limit it.
fn forecaster_for(probe: &GuestProbe, form: &SettingsForm) -> Forecaster {
    let Preflight { prior, .. } = &probe.preflight;
    let link = form.settings.requirements.max_bandwidth.or(prior.link);
    Forecaster {
        preflight: Preflight { prior: Prior { link, ..prior.clone() }, ..probe.preflight.clone() },
        policy: form.built_in_policy(),
        settings: form.settings.clone(),
    }
}

/// Returns the Pareto front. It is the slowest part and depends on no setting but the link, so it is kept.
fn cached_pareto_front(probe: &GuestProbe, view: &View) -> Arc<Vec<ParetoPoint>> {
    let mut cache = lock_unpoisoned(&probe.pareto_cache);
    match &*cache {
        Some((link, points)) if *link == view.link => points.clone(),
        _ => {
            let points = Arc::new(pareto_front(view));
            *cache = Some((view.link, points.clone()));
            points
        }
    }
}

/// Returns the class of a probed guest with the default settings.
pub fn class_by_default(probe: &GuestProbe) -> Option<Class> {
    let form = SettingsForm::parse(&[]);
    classify_view(&forecaster_for(probe, &form).initial_view(form.settings.aggression))
}
