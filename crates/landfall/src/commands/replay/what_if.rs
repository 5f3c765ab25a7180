//! The recorded migration under other policies, in the simulator.
//!
//! The recording holds what the simulator needs: the guest's memory, its dirty curve as the syncs have shown
//! it, its CPU demand, and the link's rate over time. The recorded policy is simulated as well: how close that
//! comes to the recorded migration shows how far the other figures can be trusted.

use std::ops::RangeInclusive;
use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::recording::RecordingLine;
use landfall_core::report::Report;
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::{Bytes, CpuDemand, Share, show_duration};
use landfall_migration::policy_registry::{NamedPolicy, report_first_failure};
use landfall_migration::recording::Recording;
use landfall_migration::tables::{Table, borderless_table};
use landfall_migration::text::outcome_name;
use landfall_sim::{Change, Link, Seed, Setup, run};

use super::ReplayStep;

/// A link's rate counts as changed if it differs from the one before by this part.
const RATE_CHANGE: f64 = 0.1;

/// Rates of plausible links, in bytes per second.
const PLAUSIBLE_RATES: RangeInclusive<f64> = 1e3..=1e13;

/// The report of a migration by a policy, recorded or simulated.
pub struct NamedReport {
    /// The policy, and whether it was recorded or simulated.
    pub name: String,
    /// The report.
    pub report: Report,
}

/// A recording from which no guest can be simulated.
#[derive(Debug, thiserror::Error)]
#[error(
    "the recording ends before the guest's dirty curve and the link were known, so no policy can be \
     simulated on it"
)]
pub struct TooLittleRecorded;

/// Simulates the recorded migration by its own policy and by these.
///
/// # Errors
/// [`TooLittleRecorded`].
pub fn simulate(
    recording: &Recording,
    steps: &[ReplayStep],
    policies: &[NamedPolicy],
) -> Result<Vec<NamedReport>, TooLittleRecorded> {
    let setup = setup(recording, steps).ok_or(TooLittleRecorded)?;
    let recorded = NamedPolicy::of_recording(&recording.head);
    let tell = report_first_failure("simulated");
    let simulated = |named: &NamedPolicy| {
        let name = named.name();
        let report =
            run(&setup, &mut *named.create(&tell), Seed(0)).report(name, &setup.requirements);
        NamedReport { name: format!("{name}, simulated"), report }
    };
    Ok(recorded.iter().chain(policies).map(simulated).collect())
}

/// Takes guest and link from the recording; `None` if it does not say enough.
fn setup(recording: &Recording, steps: &[ReplayStep]) -> Option<Setup> {
    let head = &recording.head;
    // At the switch-over the guest stands still; that it dirties nothing then says nothing about it.
    let passes: Vec<&ReplayStep> = steps.iter().filter(|step| is_pass(step)).collect();
    let steps = passes.as_slice();
    let curve = steps.iter().rev().find_map(|step| step.view.estimate())?.curve.clone();
    let totals = steps.iter().map(|step| step.view.total.0);
    let memory = Bytes(totals.max().filter(|total| *total > 0)?);
    let seen = Prior {
        contents: Some(Bytes(contents(recording)?.0.min(memory.0))),
        memory: Some(memory),
        cpu_demand: head.prior.cpu_demand.or_else(|| cpu_demand(steps)),
        ..head.prior.clone()
    };
    let vcpus = u32::try_from(head.vcpus).ok()?;
    Some(Setup {
        requirements: head.requirements.clone(),
        aggression: head.aggression,
        prior: head.prior.clone(),
        levers: head.levers,
        ..Setup::from_prior(&seen, vcpus, curve, link(steps)?)?
    })
}

fn is_pass(step: &ReplayStep) -> bool {
    matches!(step.view.phase, Phase::FirstPass | Phase::Iterating)
}

/// Returns guest memory with contents: what was known before, or what the first pass did not send as zeros.
fn contents(recording: &Recording) -> Option<Bytes> {
    let looked = recording.lines.iter().filter_map(|(_, line)| match line {
        RecordingLine::Look(look) => look.sample.migration.as_ref()?.ram,
        _ => None,
    });
    let first = looked.take_while(|ram| ram.syncs < 2).last();
    let sent = first.map(|ram| ram.total.saturating_sub(ram.duplicate));
    recording.head.prior.contents.or(sent)
}

/// Returns the CPU time that the guest takes per second while it is not throttled: the median of the looks.
fn cpu_demand(steps: &[&ReplayStep]) -> Option<CpuDemand> {
    let unheld = |view: &View| -> Option<f64> {
        view.vcpus.iter().map(|vcpu| vcpu.unthrottled.map(Share::get)).sum()
    };
    let mut known: Vec<f64> = steps.iter().filter_map(|step| unheld(&step.view)).collect();
    known.sort_by(f64::total_cmp);
    known.get(known.len() / 2).map(|demand| CpuDemand(*demand))
}

/// Returns the link, with the changes of its rate.
fn link(steps: &[&ReplayStep]) -> Option<Link> {
    let rate = |step: &&ReplayStep| step.view.link.filter(|rate| PLAUSIBLE_RATES.contains(&rate.0));
    let mut known = steps.iter().filter_map(|step| Some((step.view.now, rate(step)?)));
    let (_, first) = known.next()?;
    let (mut link, mut last) = (Link::steady(first), first);
    for (at, rate) in known {
        if (rate.0 / last.0 - 1.0).abs() > RATE_CHANGE {
            link.changes.push(Change { at, rate });
            last = rate;
        }
    }
    Some(link)
}

/// Returns a table of the reports.
pub fn table(courses: &[NamedReport]) -> Table {
    let header = ["policy", "outcome", "total", "longest stall", "guest CPU lost", "sent"];
    let mut table = borderless_table(header, 2..6);
    let unknown = || "not known".to_owned();
    let time = |seconds: Option<f64>| {
        let known = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        known.map_or_else(unknown, show_duration)
    };
    for NamedReport { name, report } in courses {
        table.add_row([
            name.clone(),
            outcome_name(report.outcome).to_owned(),
            time(report.total_s),
            time(report.longest_stall_s),
            time(report.guest_cpu_lost_s),
            report.transferred_bytes.map_or_else(unknown, |bytes| Bytes(bytes).to_string()),
        ]);
    }
    table
}
