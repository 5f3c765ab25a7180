//! Writes a recording while the migration runs. Append-only: lines once written stay as they are, and a
//! crash costs at most the last one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use landfall_core::model::prior::Prior;
use landfall_core::recording::{KIND, RecordedSample, RecordingHeader, RecordingLine, VERSION};
use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::{Aggression, Requirements, Settings};
use landfall_qemu::driver;
use landfall_qemu::stdio::eprint_line;
use serde::Serialize;

/// What a migration starts with, as far as it is known before the first look at the hypervisor.
#[derive(Debug, Clone)]
pub struct RecordingStart {
    /// Name of the policy.
    pub policy: String,
    /// Text of the policy's script, if it is one.
    pub script: Option<String>,
    /// The aggression asked for.
    pub aggression: Aggression,
    /// The requirements asked for.
    pub requirements: Requirements,
    /// What is known of guest and link.
    pub prior: Prior,
}

/// The file of a recording cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("--record {path}: {source}; {remedy}", path = path.display(), remedy = remedy(source))]
pub struct CreateError {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    pub source: io::Error,
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AlreadyExists => "name a file that is not there yet",
        io::ErrorKind::NotFound => "make its folder first",
        _ => "name a file that can be written",
    }
}

/// A recording being written.
pub struct Recorder {
    path: PathBuf,
    file: File,
    /// Still to be written, at the first look: only then it is known which levers there are.
    start: Option<RecordingStart>,
    /// Writing has failed. That is reported once, and the migration goes on.
    failed: bool,
}

impl Recorder {
    /// Creates the file of a recording.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create(path: &Path, start: RecordingStart) -> Result<Recorder, CreateError> {
        let file = File::create_new(path)
            .map_err(|source| CreateError { path: path.to_owned(), source })?;
        Ok(Recorder { path: path.to_owned(), file, start: Some(start), failed: false })
    }

    /// Sets what the probe found out before the start.
    pub fn set_prior(&mut self, prior: &Prior) {
        if let Some(start) = &mut self.start {
            start.prior = prior.clone();
        }
    }

    /// Writes a tick. An error, such as a full disk, does not stop the migration.
    pub fn write_tick(&mut self, tick: &driver::Tick) {
        if let Some(start) = self.start.take() {
            self.write_line(&start.head(tick));
        }
        if let Some(changed) = tick.changed {
            let Settings { requirements, aggression } = changed.clone();
            self.write_line(&RecordingLine::Requirements {
                requirements,
                aggression: Some(aggression),
            });
        }
        let decided = tick.decided.as_ref();
        self.write_line(&RecordingLine::Look(Box::new(RecordedSample {
            sample: tick.sample.clone(),
            holds: decided.map(|decided| decided.holds.to_vec()),
            decision: decided.map(|decided| decided.observation.decision.clone()),
        })));
    }

    /// Writes the report and ends the recording. The file of a refused migration holds nothing else and is
    /// removed, so that its name is free for the next attempt.
    pub fn finish(mut self, report: &Report) {
        if report.outcome == Outcome::Refused {
            // A file that stays behind does no harm.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.write_line(&RecordingLine::Report { report: Box::new(report.clone()) });
    }

    fn write_line(&mut self, line: &impl Serialize) {
        if self.failed {
            return;
        }
        // Written at once and whole: what the kernel has survives the end of this process.
        let text = serde_json::to_vec(line).map_err(io::Error::from);
        let written = text.and_then(|mut text| {
            text.push(b'\n');
            self.file.write_all(&text)
        });
        if let Err(error) = written {
            self.failed = true;
            eprint_line(&format!("landfall: the recording stops here: {error}"));
        }
    }
}

impl RecordingStart {
    fn head(self, tick: &driver::Tick) -> RecordingHeader {
        RecordingHeader {
            kind: KIND.to_owned(),
            version: VERSION,
            landfall: env!("CARGO_PKG_VERSION").to_owned(),
            policy: self.policy,
            script: self.script,
            aggression: self.aggression,
            requirements: self.requirements,
            levers: tick.levers,
            vcpus: tick.sample.vcpus.len(),
            prior: self.prior,
        }
    }
}
