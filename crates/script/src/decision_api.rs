//! A script's answer: built by a few functions, and made a [`Decision`] of here.
//!
//! What makes no sense (not a number, a list of holds for other vCPUs than there are) is a script's
//! error. What is merely too much is not: a share is cut to 0..1 here, and the guard of the core keeps
//! the decision inside the requirements, as it does for every policy.

use std::time::Duration;

use landfall_core::decision::{Decision, Finish, Hold, Tuning};
use landfall_core::telemetry::view::View;
use landfall_core::units::{ByteRate, Share};
use rhai::{Array, Dynamic, Engine, EvalAltResult, Map};

use crate::failure::ScriptFailure;
use crate::sandbox::number;
use crate::view_api::wrong;

/// What a script asks for.
#[derive(Debug, Clone)]
pub struct Answer {
    holds: Holds,
    tuning: Tuning,
    finish: Option<Finish>,
    why: String,
}

/// How the vCPUs shall be held.
#[derive(Debug, Clone)]
enum Holds {
    /// Nothing is said: free, or with an end to the migration as they are.
    Unsaid,
    /// All to one share.
    All(Share),
    /// Each to its own.
    Each(Vec<Share>),
    /// All stopped.
    Stopped,
}

type Made<T> = Result<T, Box<EvalAltResult>>;

/// Makes the functions that build answers known in an engine.
pub fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Answer>("Decision");
    engine.register_fn("leave_alone", |why: &str| Answer::new(Holds::Unsaid, why));
    engine.register_fn("stop", |why: &str| Answer::new(Holds::Stopped, why));
    engine.register_fn("hold", |share: Dynamic, why: &str| -> Made<Answer> {
        Ok(Answer::new(holds(&share)?, why))
    });
    for (name, finish) in
        [("ship", Finish::Ship), ("cancel", Finish::Cancel), ("post_copy", Finish::PostCopy)]
    {
        let end = finish.clone();
        engine.register_fn(name, move |why: &str| Answer {
            finish: Some(end.clone()),
            ..Answer::new(Holds::Unsaid, why)
        });
        engine.register_fn(name, move |answer: Answer| Answer {
            finish: Some(finish.clone()),
            ..answer
        });
    }
    engine.register_fn("tune", |answer: Answer, settings: Map| -> Made<Answer> {
        Ok(Answer { tuning: tuning(&settings)?, ..answer })
    });
}

impl Answer {
    fn new(holds: Holds, why: &str) -> Answer {
        Answer { holds, tuning: Tuning::default(), finish: None, why: why.to_owned() }
    }

    /// The decision that this is on a view.
    ///
    /// # Errors
    /// [`ScriptFailure::SharesForOtherVcpus`].
    pub fn decision(self, view: &View) -> Result<Decision, ScriptFailure> {
        let count = view.vcpus.len();
        let quota = |share: Share| view.quota_for(share).map_or(Hold::Free, Hold::Quota);
        let holds = match self.holds {
            Holds::Unsaid => Vec::new(),
            Holds::Stopped => vec![Hold::Stopped; count],
            Holds::All(share) => vec![quota(share); count],
            Holds::Each(shares) if shares.len() == count => shares.into_iter().map(quota).collect(),
            Holds::Each(shares) => {
                return Err(ScriptFailure::SharesForOtherVcpus {
                    shares: shares.len(),
                    vcpus: count,
                });
            }
        };
        Ok(Decision { holds, tuning: self.tuning, finish: self.finish, reason: self.why.into() })
    }
}

fn holds(value: &Dynamic) -> Made<Holds> {
    match value.read_lock::<Array>() {
        Some(shares) => Ok(Holds::Each(shares.iter().map(share).collect::<Made<_>>()?)),
        None => share(value).map(Holds::All),
    }
}

/// A share of a CPU; below 0 counts as 0, above 1 as 1.
fn share(value: &Dynamic) -> Made<Share> {
    let known = number(value).filter(|share| share.is_finite()).map(Share::clamped);
    known.ok_or_else(|| wrong(format!("hold: {value} is not a share; write 0.0 to 1.0")))
}

fn tuning(settings: &Map) -> Made<Tuning> {
    let mut tuning = Tuning::default();
    for (name, value) in settings {
        match name.as_str() {
            "max_bandwidth" => tuning.max_bandwidth = Some(rate(name, value)?),
            "switchover_bandwidth" => tuning.switchover_bandwidth = Some(rate(name, value)?),
            "downtime_limit" => tuning.downtime_limit = Some(time(name, value)?),
            other => {
                return Err(wrong(format!(
                    "tune: there is no {other:?}; choose from max_bandwidth, downtime_limit, \
                     switchover_bandwidth"
                )));
            }
        }
    }
    Ok(tuning)
}

/// At least a byte per second: to QEMU, zero means no limit at all.
fn rate(name: &str, value: &Dynamic) -> Made<ByteRate> {
    let known = number(value).filter(|rate| rate.is_finite() && *rate >= 1.0).map(ByteRate);
    known
        .ok_or_else(|| wrong(format!("tune: {name} {value} is not a rate; write bytes per second")))
}

fn time(name: &str, value: &Dynamic) -> Made<Duration> {
    let known = number(value).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    known.ok_or_else(|| wrong(format!("tune: {name} {value} is not a time; write seconds")))
}
