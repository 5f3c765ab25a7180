//! Writes a recording while the migration goes on. Append-only: what is there stays as it is, and a
//! crash costs at most the last line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use landfall_core::model::prior::Prior;
use landfall_core::recording::{KIND, RecordedSample, RecordingHeader, RecordingLine, VERSION};
use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::settings::Demands;
use landfall_core::requirements::{Aggression, Requirements};
use landfall_qemu::driver;
use landfall_qemu::stdio::eprint_line;
use serde::Serialize;

/// What a migration is begun with, as far as it is known before anything was looked at.
#[derive(Debug, Clone)]
pub struct Begun {
    pub policy: String,
    pub script: Option<String>,
    pub aggression: Aggression,
    pub requirements: Requirements,
    pub prior: Prior,
}

/// A recording being written.
pub struct Recorder {
    path: PathBuf,
    file: File,
    /// Not written yet: which levers there are shows at the first look.
    begun: Option<Begun>,
    /// Writing has failed; said once, and the migration goes on.
    failed: bool,
}

impl Recorder {
    /// Makes the file of a recording.
    ///
    /// # Errors
    /// In words: the file cannot be made.
    pub fn create(path: &Path, begun: Begun) -> Result<Recorder, String> {
        let file = File::create_new(path).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::AlreadyExists => "name a file that is not there yet",
                io::ErrorKind::NotFound => "make its folder first",
                _ => "name a file that can be written",
            };
            format!("--record {}: {error}; {remedy}", path.display())
        })?;
        Ok(Recorder { path: path.to_owned(), file, begun: Some(begun), failed: false })
    }

    /// Says what was found out before the start.
    pub fn knows(&mut self, prior: &Prior) {
        if let Some(begun) = &mut self.begun {
            begun.prior = prior.clone();
        }
    }

    /// Writes a look. A disk that is full does not stop a migration.
    pub fn look(&mut self, look: &driver::Look) {
        if let Some(begun) = self.begun.take() {
            self.line(&begun.head(look));
        }
        if let Some(changed) = look.changed {
            let Demands { requirements, aggression } = changed.clone();
            self.line(&RecordingLine::Requirements { requirements, aggression: Some(aggression) });
        }
        let decided = look.decided.as_ref();
        self.line(&RecordingLine::Look(Box::new(RecordedSample {
            sample: look.sample.clone(),
            holds: decided.map(|decided| decided.holds.to_vec()),
            decision: decided.map(|decided| decided.decision.clone()),
        })));
    }

    /// Writes the report and ends the recording. One of nothing is not kept, so that the next try
    /// finds its name free.
    pub fn report(mut self, report: &Report) {
        if report.outcome == Outcome::Refused {
            // Left behind it does no harm.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.line(&RecordingLine::Report { report: Box::new(report.clone()) });
    }

    fn line(&mut self, line: &impl Serialize) {
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

impl Begun {
    fn head(self, look: &driver::Look) -> RecordingHeader {
        RecordingHeader {
            kind: KIND.to_owned(),
            version: VERSION,
            landfall: env!("CARGO_PKG_VERSION").to_owned(),
            policy: self.policy,
            script: self.script,
            aggression: self.aggression,
            requirements: self.requirements,
            levers: look.levers,
            vcpus: look.sample.vcpus.len(),
            prior: self.prior,
        }
    }
}
