//! What a setting implies for a guest that was looked at: quickly, by the planner alone, and thoroughly,
//! by simulating the migration.

use std::sync::Arc;

use landfall_core::observer::Observer;
use landfall_core::demands::Demands;
use landfall_core::plan::class_in;
use landfall_core::plan::frontier::{FrontierPoint, frontier};
use landfall_core::plan::implications::{Implication, Verdict, Ways, implication, implications, ways};
use landfall_core::prior::Prior;
use landfall_core::report::{Class, Outcome};
use landfall_core::view::View;
use landfall_qemu::mutex::lock;

use super::guests::Looked;
use super::settings::Settings;
use crate::foresight::{Foresight, levers};

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
    /// Holding or pausing, and which of the two loses less.
    pub ways: Option<Ways>,
    /// What can be had of one figure for how much of the others.
    pub frontier: Arc<Vec<FrontierPoint>>,
}

/// What is implied, in one of the two ways. The quick one takes milliseconds, the other up to a second.
pub fn implied(looked: &Looked, settings: &Settings, grade: Grade) -> Implied {
    let view = view(looked, settings);
    let chosen = match grade {
        Grade::Planned => implication(&view),
        Grade::Simulated => simulated(looked, settings).unwrap_or_else(|| implication(&view)),
    };
    Implied {
        grade,
        prior: prior(looked, settings),
        class: class_in(&view),
        chosen,
        dial: implications(&view),
        ways: ways(&view),
        frontier: known_frontier(looked, &view),
    }
}

/// What the policy would see before its start.
fn view(looked: &Looked, settings: &Settings) -> View {
    let prior = prior(looked, settings);
    let contents = prior.contents.or(prior.memory).unwrap_or_default();
    let asked = settings.demands.requirements.clone();
    let observer = Observer::new(asked, settings.demands.aggression, levers(), &prior);
    observer.before(contents, looked.foresight.vcpus as usize)
}

/// What is known, with the link as it may be used.
fn prior(looked: &Looked, settings: &Settings) -> Prior {
    let prior = looked.foresight.prior.clone();
    Prior { link: settings.demands.requirements.max_bandwidth.or(prior.link), ..prior }
}

/// The same for the policy that was chosen, by simulation; `None` where too little is known for one.
fn simulated(looked: &Looked, settings: &Settings) -> Option<Implication> {
    let Demands { requirements: asked, aggression } = &settings.demands;
    let vcpus = looked.foresight.vcpus;
    let foresight = Foresight { prior: prior(looked, settings), vcpus };
    let expected = foresight.expect(&settings.policy, asked, *aggression)?;
    Some(match (expected.forecast, expected.outcome) {
        (Some(forecast), _) => Implication::of(*aggression, Verdict::Lands, forecast, asked),
        (None, Outcome::Refused) => Implication::without_figures(*aggression, Verdict::Refused),
        (None, _) => Implication::without_figures(*aggression, Verdict::Uncertain),
    })
}

/// The frontier does not depend on what is asked but for the link, and takes longest.
fn known_frontier(looked: &Looked, view: &View) -> Arc<Vec<FrontierPoint>> {
    let mut known = lock(&looked.frontier);
    match &*known {
        Some((link, points)) if *link == view.link => points.clone(),
        _ => {
            let points = Arc::new(frontier(view));
            *known = Some((view.link, points.clone()));
            points
        }
    }
}

/// The class of a guest that was looked at, with nothing demanded but what is demanded by default.
pub fn class_by_default(looked: &Looked) -> Option<Class> {
    class_in(&view(looked, &Settings::read(&[])))
}
