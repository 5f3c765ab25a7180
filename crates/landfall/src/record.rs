//! The recording: every sample and every decision, a line of JSON each, after a line that says what
//! it is. Append-only; a reader skips lines whose kind it does not know.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use landfall_core::report::{Outcome, Report};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_qemu::say::say;
use landfall_qemu::steer::Look;
use serde_json::{Value, json};

/// Version of the form; raised when the meaning of a line changes.
const VERSION: u32 = 1;

/// A recording being written.
pub struct Recorder {
    path: PathBuf,
    file: BufWriter<File>,
    /// Writing has failed; said once, and the migration goes on.
    failed: bool,
}

impl Recorder {
    /// Starts a recording.
    ///
    /// # Errors
    /// In words: the file cannot be made.
    pub fn create(
        path: &Path,
        policy: &str,
        aggression: Aggression,
        asked: &Requirements,
    ) -> Result<Recorder, String> {
        let head = json!({
            "kind": "landfall-recording", "version": VERSION, "policy": policy,
            "aggression": aggression, "requirements": asked,
        });
        let begin = || {
            let file = BufWriter::new(File::create_new(path)?);
            let mut recorder = Recorder { path: path.to_owned(), file, failed: false };
            recorder.line(&head)?;
            Ok(recorder)
        };
        begin().map_err(|error: io::Error| {
            let remedy = match error.kind() {
                io::ErrorKind::AlreadyExists => "name a file that is not there yet",
                io::ErrorKind::NotFound => "make its folder first",
                _ => "name a file that can be written",
            };
            format!("--record {}: {error}; {remedy}", path.display())
        })
    }

    /// Writes a look. A disk that is full does not stop a migration.
    pub fn look(&mut self, look: &Look) {
        let mut line = json!({ "kind": "look", "sample": look.sample });
        if let Some(decided) = &look.decided {
            line["view"] = json!(decided.view);
            line["decision"] = json!(decided.decision);
        }
        self.line_or_complain(&line);
    }

    /// Writes the report and ends the recording. One of nothing is not kept, so that the next try
    /// finds its name free.
    pub fn report(mut self, report: &Report) {
        if report.outcome == Outcome::Refused {
            // Left behind it does no harm.
            let _ = fs::remove_file(&self.path);
            return;
        }
        self.line_or_complain(&json!({ "kind": "report", "report": report }));
        if let Err(error) = self.file.flush() {
            self.complain(&error);
        }
    }

    fn line_or_complain(&mut self, line: &Value) {
        if !self.failed
            && let Err(error) = self.line(line)
        {
            self.complain(&error);
        }
    }

    fn line(&mut self, line: &Value) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.write_all(b"\n")
    }

    fn complain(&mut self, error: &io::Error) {
        self.failed = true;
        say(&format!("landfall: the recording stops here: {error}"));
    }
}
