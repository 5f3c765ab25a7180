//! What was to be expected of a migration when it began: its figures with their range, and its course.

use landfall_core::model::{CpuTime, Estimator};
use landfall_core::recording::RecordingHeader;
use landfall_core::report::Forecast;
use landfall_core::units::{ByteRate, Bytes};
use landfall_sim::{Guest, Link, Qemu, Question, Seed, Setup, forecast, run_traced};

use landfall_migration::policy_registry::{NamedPolicy, report_first_failure};

/// What was to be expected.
#[derive(Debug, Clone)]
pub struct Foreseen {
    /// The figures, where it was likely to land.
    pub forecast: Option<Forecast>,
    /// Seconds, bytes left, share of the CPU: one likely course.
    pub course: Vec<(f64, f64, f64)>,
}

/// The same that was forecast at the start, for it follows from what was known then; `None` where that
/// was too little. Takes a good part of a second.
pub fn foreseen(head: &RecordingHeader) -> Option<Foreseen> {
    let law = NamedPolicy::of_recording(head)?;
    let tell = report_first_failure("in the forecast");
    let make = || law.create(&tell);
    let vcpus = u32::try_from(head.vcpus).ok()?;
    let question = Question {
        prior: head.prior.clone(),
        requirements: head.requirements.clone(),
        aggression: head.aggression,
        levers: head.levers,
        vcpus,
    };
    let expected = forecast(&question, &make)?;
    let run = run_traced(&setup(head, vcpus)?, make().as_mut(), Seed(0));
    let point = |point: &landfall_sim::TracePoint| {
        (point.at.as_secs_f64(), point.remaining.as_f64(), point.share.get())
    };
    Some(Foreseen { forecast: expected.forecast, course: run.trace.iter().map(point).collect() })
}

/// The likeliest guest and link.
fn setup(head: &RecordingHeader, vcpus: u32) -> Option<Setup> {
    let prior = &head.prior;
    let (contents, link): (Bytes, ByteRate) = (prior.contents?, prior.link?);
    let memory = prior.memory.unwrap_or(contents).max(contents);
    let curve = Estimator::new(prior).estimate()?.curve;
    let guest =
        Guest { contents, vcpus, pace: CpuTime(prior.pace?.0), ..Guest::with_curve(memory, curve) };
    Some(Setup {
        requirements: landfall_core::requirements::Requirements {
            max_bandwidth: head.requirements.max_bandwidth.or(prior.link),
            ..head.requirements.clone()
        },
        aggression: head.aggression,
        prior: prior.clone(),
        levers: head.levers,
        qemu: Qemu::of(prior),
        ..Setup::new(guest, Link::steady(link))
    })
}
