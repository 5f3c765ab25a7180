//! What is known of a guest's curve, fitted only when it is asked for.
//!
//! A fit is the most expensive step of a sample, and most policies never ask for it. What the syncs
//! showed is kept until then; the result is the same whenever it is asked for.

use std::sync::Arc;
use std::sync::OnceLock;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{CurvePoint, Estimate, Estimator};
use crate::model::prior::Prior;
use crate::units::{Bytes, CpuTime};

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct LazyEstimate(Arc<Node>);

#[derive(Debug, Default)]
struct Node {
    source: Source,
    /// How many must be evaluated for this one, itself included, when none has been.
    waiting: usize,
    now: OnceLock<Evaluated>,
}

/// What it is evaluated from.
#[derive(Debug, Default)]
enum Source {
    /// Nothing: it was evaluated elsewhere, or nothing is known.
    #[default]
    Given,
    /// What was found out before the migration.
    Prior(Prior),
    /// What was known before, and what has been seen since.
    Seen(LazyEstimate, SyncObservation),
}

#[derive(Debug, Clone, Default)]
struct Evaluated {
    estimator: Estimator,
    estimate: Option<Arc<Estimate>>,
}

/// What a sync has shown of the curve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SyncObservation {
    /// CPU time since the sync before.
    pub cpu: CpuTime,
    /// Memory found newly dirty.
    pub dirtied: Bytes,
    /// Its relative standard error by itself.
    pub error: f64,
    /// Unsent memory at the sync. Pages dirtied again within it do not show.
    pub unsent: Bytes,
    /// The least that the guest writes, as far as the sync shows it.
    pub written: Bytes,
}

/// Where more than this part of what the guest writes was still unsent at a sync, what the sync found
/// says too little of what was dirtied.
const MOST_HIDDEN: f64 = 0.5;

/// The most syncs that wait to be evaluated.
const MOST_WAITING: usize = 200;

impl LazyEstimate {
    /// What was found out before the migration.
    pub fn new(prior: &Prior) -> LazyEstimate {
        LazyEstimate::of(Source::Prior(prior.clone()), 1)
    }

    fn of(source: Source, waiting: usize) -> LazyEstimate {
        LazyEstimate(Arc::new(Node { source, waiting, now: OnceLock::new() }))
    }

    /// The estimate; `None` before the first point.
    pub fn estimate(&self) -> Option<&Arc<Estimate>> {
        self.now().estimate.as_ref()
    }

    /// Adds what a sync showed.
    #[must_use]
    pub fn and(&self, seen: SyncObservation) -> LazyEstimate {
        // An evaluated one needs none of the earlier ones.
        let before = match self.0.now.get() {
            None if self.0.waiting < MOST_WAITING => self.clone(),
            _ => LazyEstimate::from(self.now().clone()),
        };
        let waiting = before.0.waiting + 1;
        LazyEstimate::of(Source::Seen(before, seen), waiting)
    }

    fn now(&self) -> &Evaluated {
        self.0.now.get_or_init(|| match &self.0.source {
            Source::Given => Evaluated::default(),
            Source::Prior(prior) => Evaluated::of(Estimator::new(prior)),
            Source::Seen(before, seen) => before.now().and(seen),
        })
    }
}

impl Evaluated {
    fn of(estimator: Estimator) -> Evaluated {
        Evaluated { estimate: estimator.estimate().map(Arc::new), estimator }
    }

    /// Makes a point of the curve of what was seen: what was unsent stands for the rest.
    fn and(&self, seen: &SyncObservation) -> Evaluated {
        let known = self.estimate.as_ref().map_or(Bytes(0), |guest| guest.curve.working_set());
        let hidden = seen.unsent.as_f64() / known.max(seen.written).as_f64().max(1.0);
        if hidden > MOST_HIDDEN {
            return self.clone();
        }
        let dirtied = Bytes((seen.dirtied.as_f64() / (1.0 - hidden)) as u64);
        let mut estimator = self.estimator.clone();
        estimator.add_point(CurvePoint {
            cpu: seen.cpu,
            dirtied,
            error: seen.error + 0.3 * hidden,
        });
        Evaluated::of(estimator)
    }
}

impl From<Evaluated> for LazyEstimate {
    fn from(now: Evaluated) -> LazyEstimate {
        LazyEstimate(Arc::new(Node { now: OnceLock::from(now), ..Node::default() }))
    }
}

impl From<Arc<Estimate>> for LazyEstimate {
    fn from(estimate: Arc<Estimate>) -> LazyEstimate {
        LazyEstimate::from(Evaluated { estimate: Some(estimate), ..Evaluated::default() })
    }
}

impl PartialEq for LazyEstimate {
    fn eq(&self, other: &LazyEstimate) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.estimate() == other.estimate()
    }
}

impl Serialize for LazyEstimate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.estimate().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for LazyEstimate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LazyEstimate, D::Error> {
        let estimate = Option::<Arc<Estimate>>::deserialize(deserializer)?;
        Ok(estimate.map_or_else(LazyEstimate::default, LazyEstimate::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(n: u64) -> SyncObservation {
        SyncObservation {
            cpu: CpuTime(1.0 + n as f64 % 3.0),
            dirtied: Bytes(50_000_000 + n % 7 * 1_000_000),
            error: 0.03,
            unsent: Bytes(1_000_000),
            written: Bytes(60_000_000),
        }
    }

    #[test]
    fn when_it_is_asked_for_makes_no_difference() {
        let (mut asked, mut waits) =
            (LazyEstimate::new(&Prior::default()), LazyEstimate::new(&Prior::default()));
        assert_eq!(asked.estimate(), None);
        for n in 0..2 * MOST_WAITING as u64 + 5 {
            (asked, waits) = (asked.and(seen(n)), waits.and(seen(n)));
            assert!(asked.estimate().is_some());
        }
        assert!(waits.0.now.get().is_none(), "it was not asked for");
        assert_eq!(asked.estimate(), waits.estimate());
    }
}
