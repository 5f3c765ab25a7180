//! The lines of a recording of a migration, and how views are made of them again.
//!
//! A recording is a [`RecordingHeader`] and then [`RecordingLine`]s in order of time, each a line of JSON, only ever
//! appended to. It holds what came from outside, the samples and the holds in force at each, and
//! the decisions on them; views are not in it, for an observer makes
//! the same ones again. That the decisions come out the same, byte for byte, is then a test of all
//! that lies between a sample and a decision.
//!
//! Reading and writing files and JSON is not done here; the shape of a recording is.

use serde::{Deserialize, Serialize};

use crate::decision::{Decision, Hold};
use crate::model::prior::Prior;
use crate::policy::Policy;
use crate::report::Report;
use crate::requirements::{Aggression, Requirements, Settings};
use crate::session::{Observation, Session, SessionConfig, SettingsProposal, preflight};
use crate::telemetry::sample::Sample;
use crate::telemetry::view::Levers;
use crate::units::Moment;

/// What the first line of a recording calls it.
pub const KIND: &str = "landfall-recording";

/// Version of the form. It is raised when a line changes its meaning or a field its name; a new kind of
/// line, which an earlier reader skips, does not raise it.
///
/// 4 has lists for each vCPU in a short form ([`crate::vcpu_lists`]).
/// 3 has the kernel's names of a vCPU's counters (`run_delay`, `throttled`, `nr_throttled`),
/// `cpu_demand` and `reason`; 2 had names of its own, which are read as aliases.
pub const VERSION: u32 = 4;

/// The oldest version of the form that can be replayed.
pub const OLDEST_VERSION: u32 = 2;

/// The first line: what a migration starts with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordingHeader {
    /// [`KIND`].
    pub kind: String,
    /// [`VERSION`].
    pub version: u32,
    /// Version of the program that wrote it: another one may decide differently.
    pub landfall: String,
    /// The policy that decided, by name.
    pub policy: String,
    /// The text of that policy where it is a script: what the file holds may change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script: Option<String>,
    /// The aggression.
    pub aggression: Aggression,
    /// The requirements.
    pub requirements: Requirements,
    /// The levers there were.
    pub levers: Levers,
    /// How many vCPUs were held and counted; several that share a thread are one.
    pub vcpus: usize,
    /// What was known before the start.
    pub prior: Prior,
}

/// Any line after the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum RecordingLine {
    /// A sample.
    Look(Box<RecordedSample>),
    /// The operator changed the settings from here on.
    Requirements {
        /// All requirements from here on.
        requirements: Requirements,
        /// The second dial; absent where it stays as it was.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        aggression: Option<Aggression>,
    },
    /// Lines are missing here: the disk did not take them in time.
    Lost {
        /// How many.
        lines: u64,
    },
    /// How it ended; the last line.
    Report {
        /// The report.
        report: Box<Report>,
    },
    /// A line of a kind that this version does not know, and can do without.
    #[serde(other)]
    Unknown,
}

/// A sample, and the decision on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedSample {
    /// The raw counters.
    pub sample: Sample,
    /// The holds in force at the sample; absent from a sample of the kernel's counters alone, of which no
    /// view is made.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "crate::vcpu_lists::optional_holds"
    )]
    pub holds: Option<Vec<Hold>>,
    /// The decision; absent from a sample of the kernel's counters alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
}

impl RecordedSample {
    /// A sample of the kernel's counters alone.
    pub fn only(sample: Sample) -> RecordedSample {
        RecordedSample { sample, holds: None, decision: None }
    }
}

/// Drives a [`Session`] by a recording, line by line: its actions have been carried out already.
pub struct Replay<'p>(Session<'p>);

impl<'p> Replay<'p> {
    /// A replay of a recording that begins so, by the policy that decides now. The policy has looked
    /// ahead already ([`look_ahead`]).
    pub fn new(head: &RecordingHeader, policy: Box<dyn Policy + 'p>) -> Replay<'p> {
        let config = SessionConfig {
            settings: head.settings(),
            levers: head.levers,
            prior: &head.prior,
            forecast: None,
            vcpus: head.vcpus,
        };
        Replay(Session::new(config, policy))
    }

    /// What the operator asks for at this point of the recording.
    pub fn settings(&self) -> &Settings {
        self.0.settings()
    }

    /// Takes in a line. Returns the view that was made when it was written, and what is decided on it
    /// now; `None` for a line on which nothing was decided.
    pub fn read_line(&mut self, line: &RecordingLine) -> Option<Observation> {
        match line {
            RecordingLine::Look(recorded) => {
                if let Some(holds) = &recorded.holds {
                    self.0.on_holds(holds);
                }
                let observation = self.0.on_sample(&recorded.sample);
                self.0.discard_actions();
                observation
            }
            RecordingLine::Requirements { requirements, aggression } => {
                let before = self.settings().clone();
                let aggression = aggression.unwrap_or(before.aggression);
                let after = Settings { requirements: requirements.clone(), aggression };
                self.0.accept(&SettingsProposal { before, after }, Moment::START);
                None
            }
            RecordingLine::Lost { .. } | RecordingLine::Report { .. } | RecordingLine::Unknown => {
                None
            }
        }
    }
}

impl RecordingHeader {
    /// What the operator asked for at the start.
    pub fn settings(&self) -> Settings {
        Settings { requirements: self.requirements.clone(), aggression: self.aggression }
    }
}

/// Lets a policy look ahead, as it did before the recorded migration began. That it then had nothing
/// against it is known, for it was begun.
pub fn look_ahead(policy: &mut dyn Policy, head: &RecordingHeader) {
    let _ = preflight::look_ahead(policy, &head.settings(), head.levers, &head.prior, head.vcpus);
}
