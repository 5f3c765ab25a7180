//! The report of one migration: the fixed JSON object that other tools read, and the exit status.
//!
//! Every figure in it was measured; what could not be is `null`.

pub mod losses;
pub mod peak_rate;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::losses::Losses;
use crate::requirements::{Requirement, Requirements, SettingChange};
use crate::units::{ByteRate, Bytes};

/// How a migration ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest runs at the destination.
    Landed,
    /// Nothing was started; the guest is as it was.
    Refused,
    /// Cancelled, by landfall or by another program; the guest runs at the source.
    Cancelled,
    /// It failed; the guest runs at the source.
    Failed,
    /// Where and whether the guest runs is not known.
    Unknown,
}

/// Whether the guest lands by itself: the classes of the 2015 thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Lands without help.
    Unaided,
    /// The nebulous middle: lands when it is throttled.
    Middle,
    /// Lands only by a pause.
    Pathological,
    /// Not known.
    Unknown,
}

/// One requirement, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequirementVerdict {
    /// Which.
    pub name: Requirement,
    /// What was asked: seconds, a share of a CPU, or bytes per second.
    pub asked: f64,
    /// What was measured, in the same unit; `null` where it could not be.
    pub got: Option<f64>,
    /// Whether it was kept; `null` where that is not known.
    pub kept: Option<bool>,
}

/// A figure with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ForecastRange {
    /// Rather more than this.
    pub low: f64,
    /// About this.
    pub mid: f64,
    /// Rather less than this.
    pub high: f64,
}

/// What was expected before the start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Whole migration, seconds.
    pub total_s: ForecastRange,
    /// Longest stall, seconds.
    pub longest_stall_s: ForecastRange,
    /// vCPU time lost, seconds.
    pub guest_cpu_lost_s: ForecastRange,
    /// Lowest share that a vCPU gets of the CPU it wants, 0 to 1.
    pub min_cpu_share: ForecastRange,
    /// Bytes on the wire.
    pub transferred_bytes: ForecastRange,
}

/// The report. Field names and meanings are fixed by `DESIGN.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// The policy that steered.
    pub policy: String,
    /// Why it ended so; `None` where the outcome says all.
    pub reason: Option<String>,
    /// From the start of the migration to the guest running at its end, seconds.
    pub total_s: Option<f64>,
    /// The final downtime as the hypervisor reports it, seconds.
    pub downtime_s: Option<f64>,
    /// Longest time that the guest stood still for any reason, seconds.
    pub longest_stall_s: Option<f64>,
    /// vCPU seconds taken from the guest while it wanted to run.
    pub guest_cpu_lost_s: Option<f64>,
    /// Seconds for which the guest was held.
    pub throttled_s: Option<f64>,
    /// Bytes on the wire.
    pub transferred_bytes: Option<u64>,
    /// Syncs of the dirty bitmap: one for each pass, and the forced ones between.
    pub passes: Option<u64>,
    /// Lowest share that a vCPU got of the CPU it wanted, 0 to 1.
    pub min_cpu_share: Option<f64>,
    /// The guest's class.
    pub class: Class,
    /// What was expected.
    pub forecast: Option<Forecast>,
    /// Whether each requirement was kept, by its last value.
    pub requirements: Vec<RequirementVerdict>,
    /// What the operator changed on the way; not in the JSON where that is nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<SettingChange>,
}

/// What a migration was measured to be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measurements {
    /// From the start to the end.
    pub total: Duration,
    /// The downtime that the hypervisor reports.
    pub downtime: Option<Duration>,
    /// What was taken from the guest.
    pub losses: Losses,
    /// The part that requirements are judged by: without what was measured before they were tightened.
    pub judged: Losses,
    /// Whether the length of every stall is known.
    pub stalls_known: bool,
    /// Bytes on the wire.
    pub transferred: Option<Bytes>,
    /// Syncs of the dirty bitmap.
    pub passes: Option<u64>,
    /// Highest rate on the wire in pre-copy, since the limit for it was last tightened.
    pub peak_rate: Option<PeakRate>,
}

/// A rate, and the time it was measured over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PeakRate {
    /// The rate.
    pub rate: ByteRate,
    /// The time.
    pub over: Duration,
}

impl PeakRate {
    /// The rate without the one window of 100 ms that a span may hold too many: the hypervisor
    /// sends what a window allows at its start.
    fn at_least(self) -> f64 {
        let over = self.over.as_secs_f64();
        self.rate.0 * over / (over + 0.1)
    }
}

impl Report {
    /// A report of a migration that was never started.
    pub fn refused(policy: &str, reason: impl Into<String>) -> Self {
        Report {
            outcome: Outcome::Refused,
            policy: policy.to_owned(),
            reason: Some(reason.into()),
            total_s: None,
            downtime_s: None,
            longest_stall_s: None,
            guest_cpu_lost_s: None,
            throttled_s: None,
            transferred_bytes: None,
            passes: None,
            min_cpu_share: None,
            class: Class::Unknown,
            forecast: None,
            requirements: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// A report of a migration that ran.
    pub fn of(
        outcome: Outcome,
        policy: &str,
        reason: Option<String>,
        asked: &Requirements,
        measured: &Measurements,
    ) -> Self {
        let Measurements { losses, .. } = measured;
        let stall = measured.stalls_known.then_some(losses.longest_stall.as_secs_f64());
        let requirements = match outcome {
            Outcome::Landed => verdicts(asked, measured),
            _ => Vec::new(),
        };
        Report {
            outcome,
            reason,
            total_s: Some(measured.total.as_secs_f64()),
            downtime_s: measured.downtime.map(|time| time.as_secs_f64()),
            longest_stall_s: stall,
            guest_cpu_lost_s: losses.guest_cpu.map(|time| time.as_secs_f64()),
            throttled_s: Some(losses.throttled.as_secs_f64()),
            transferred_bytes: measured.transferred.map(|bytes| bytes.0),
            passes: measured.passes,
            min_cpu_share: losses.guest_cpu.map(|_| losses.min_share.get()),
            requirements,
            ..Report::refused(policy, "")
        }
    }

    /// Exit status of `landfall migrate`, fixed by `DESIGN.md`. A requirement that is not known to
    /// have been kept is not called kept.
    pub fn exit_status(&self) -> u8 {
        match self.outcome {
            Outcome::Landed if self.requirements.iter().any(|v| v.kept != Some(true)) => 3,
            Outcome::Landed => 0,
            Outcome::Refused => 4,
            Outcome::Cancelled | Outcome::Failed => 5,
            Outcome::Unknown => 6,
        }
    }
}

/// Measurement noise that does not make a requirement broken: the share of a CPU comes out within
/// a point or two of a quota, a rate within a few percent of a limit (`docs/measurements/`).
pub(crate) const SHARE_NOISE: f64 = 0.02;
const RATE_NOISE: f64 = 1.03;

fn verdicts(asked: &Requirements, measured: &Measurements) -> Vec<RequirementVerdict> {
    let losses = &measured.judged;
    let mut verdicts = Vec::new();
    let mut add = |name, asked: f64, got: Option<f64>, kept: fn(f64, f64) -> bool| {
        verdicts.push(RequirementVerdict {
            name,
            asked,
            got,
            kept: got.map(|got| kept(asked, got)),
        });
    };
    if let Some(rate) = asked.max_bandwidth {
        let got = measured.peak_rate.map(PeakRate::at_least);
        add(Requirement::MaxBandwidth, rate.0, got, |asked, got| got <= asked * RATE_NOISE);
    }
    if asked.min_cpu > crate::units::Share::NONE {
        let got = losses.guest_cpu.map(|_| losses.min_share.get());
        add(Requirement::MinCpu, asked.min_cpu.get(), got, |asked, got| got >= asked - SHARE_NOISE);
    }
    let stall = measured.stalls_known.then_some(losses.longest_stall.as_secs_f64());
    add(Requirement::MaxStall, asked.max_stall.as_secs_f64(), stall, |asked, got| got <= asked);
    if let Some(time) = asked.max_time {
        let got = Some(measured.total.as_secs_f64());
        add(Requirement::MaxTime, time.as_secs_f64(), got, |asked, got| got <= asked);
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Share;

    fn measured(stall_ms: u64) -> Measurements {
        let losses = Losses {
            guest_cpu: Some(Duration::from_secs(1)),
            longest_stall: Duration::from_millis(stall_ms),
            throttled: Duration::from_secs(1),
            min_share: Share::clamped(0.25),
        };
        Measurements {
            total: Duration::from_secs(2),
            downtime: Some(Duration::from_millis(90)),
            losses,
            judged: losses,
            stalls_known: true,
            transferred: Some(Bytes(1)),
            passes: Some(2),
            peak_rate: Some(PeakRate { rate: ByteRate::mb(100), over: Duration::from_secs(2) }),
        }
    }

    fn status(outcome: Outcome, stall_ms: u64) -> u8 {
        let asked = Requirements::default();
        Report::of(outcome, "plain", None, &asked, &measured(stall_ms)).exit_status()
    }

    #[test]
    fn exit_status_tells_kept_broken_and_lost_apart() {
        assert_eq!(status(Outcome::Landed, 250), 0);
        assert_eq!(status(Outcome::Landed, 350), 3);
        assert_eq!(status(Outcome::Cancelled, 0), 5);
        assert_eq!(status(Outcome::Failed, 0), 5);
        assert_eq!(status(Outcome::Unknown, 0), 6);
        assert_eq!(Report::refused("plain", "no").exit_status(), 4);
    }

    #[test]
    fn the_json_has_the_fields_of_the_contract_and_null_for_what_is_unknown() {
        let mut unknown = measured(100);
        (unknown.stalls_known, unknown.losses.guest_cpu) = (false, None);
        unknown.judged = unknown.losses;
        let asked = Requirements { min_cpu: Share::clamped(0.2), ..Requirements::default() };
        let report = Report::of(Outcome::Landed, "plain", None, &asked, &unknown);
        insta::assert_json_snapshot!(report);
    }
}
