//! What was expected of a migration when it started: its figures with their ranges, and its course.

use landfall_core::model::Estimator;
use landfall_core::recording::RecordingHeader;
use landfall_core::report::Forecast;
use landfall_migration::policy_registry::{NamedPolicy, report_first_failure};
use landfall_sim::{Question, Seed, TracePoint, forecast, run_traced};

/// What was expected of a migration.
#[derive(Debug, Clone)]
pub struct ExpectedCourse {
    /// The figures, if it was likely to land.
    pub forecast: Option<Forecast>,
    /// One likely course.
    pub points: Vec<ExpectedPoint>,
}

/// A moment of an expected course.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedPoint {
    /// Seconds since the start.
    pub at_s: f64,
    /// Bytes left to send.
    pub remaining_bytes: f64,
    /// Share of the CPU it wants that the guest gets.
    pub cpu_share: f64,
}

/// Makes the forecast of the start once more, from the head of the recording; `None` if too little was
/// known then. Takes a good part of a second.
pub fn find_expected_course(head: &RecordingHeader) -> Option<ExpectedCourse> {
    let policy = NamedPolicy::of_recording(head)?;
    let on_failure = report_first_failure("in the forecast");
    let make_policy = || policy.create(&on_failure);
    let vcpus = u32::try_from(head.vcpus).ok()?;
    let question = Question {
        prior: head.prior.clone(),
        requirements: head.requirements.clone(),
        aggression: head.aggression,
        levers: head.levers,
        vcpus,
    };
    let expected = forecast(&question, &make_policy)?;
    let likeliest_curve = Estimator::new(&head.prior).estimate()?.curve;
    let setup = question.setup(likeliest_curve, head.prior.link?)?;
    let run = run_traced(&setup, make_policy().as_mut(), Seed(0));
    let point = |point: &TracePoint| ExpectedPoint {
        at_s: point.at.as_secs_f64(),
        remaining_bytes: point.remaining.as_f64(),
        cpu_share: point.share.get(),
    };
    Some(ExpectedCourse {
        forecast: expected.forecast,
        points: run.trace.iter().map(point).collect(),
    })
}
