//! The recording: every sample and every decision, a line of JSON each, after a line that says what
//! it is. Append-only; a reader skips lines whose kind it does not know.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use landfall_core::report::Report;
use landfall_qemu::steer::Look;
use serde_json::{Value, json};

/// Version of the form; raised when the meaning of a line changes.
const VERSION: u32 = 1;

/// A recording being written.
pub struct Recorder {
    file: BufWriter<File>,
    /// Writing has failed; said once, and the migration goes on.
    failed: bool,
}

impl Recorder {
    /// Starts a recording.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: &Path, order: Value) -> io::Result<Recorder> {
        let mut recorder =
            Recorder { file: BufWriter::new(File::create_new(path)?), failed: false };
        recorder
            .line(&json!({ "kind": "landfall-recording", "version": VERSION, "order": order }))?;
        Ok(recorder)
    }

    /// Writes a look. A disk that is full does not stop a migration.
    pub fn look(&mut self, look: &Look) {
        let mut line = json!({ "kind": "look", "sample": look.sample });
        if let Some(decided) = &look.decided {
            line["decision"] = json!(decided.decision);
        }
        self.line_or_complain(&line);
    }

    /// Writes the report and ends the recording.
    pub fn report(mut self, report: &Report) {
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
        eprintln!("landfall: the recording stops here: {error}");
    }
}
