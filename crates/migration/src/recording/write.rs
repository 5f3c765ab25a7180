//! Writes a recording while the migration runs. Append-only: lines once written stay as they are, and a
//! crash costs at most the last one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

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

/// Lines that wait for the disk.
const QUEUE: usize = 512;

/// How long to wait at the end for a disk that is behind.
const LAST_LINES: Duration = Duration::from_secs(5);

/// A recording being written: by a thread of its own, for a disk may hang while a guest is steered. Lines for
/// which the queue has no room are left out, and a line says how many.
pub struct Recorder {
    path: PathBuf,
    lines: SyncSender<Vec<u8>>,
    /// Closed once the thread has ended.
    written: Receiver<()>,
    lost: u64,
    /// Still to be written, at the first look: only then it is known which levers there are.
    start: Option<RecordingStart>,
}

impl Recorder {
    /// Creates the file of a recording.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create(path: &Path, start: RecordingStart) -> Result<Recorder, CreateError> {
        let file = File::create_new(path)
            .map_err(|source| CreateError { path: path.to_owned(), source })?;
        let (lines, to_write) = sync_channel(QUEUE);
        let (ending, written) = sync_channel(0);
        thread::spawn(move || {
            write_lines(file, &to_write);
            drop(ending);
        });
        Ok(Recorder { path: path.to_owned(), lines, written, lost: 0, start: Some(start) })
    }

    /// Sets what the probe found out before the start.
    pub fn set_prior(&mut self, prior: &Prior) {
        if let Some(start) = &mut self.start {
            start.prior = prior.clone();
        }
    }

    /// Writes a tick, without waiting for the disk.
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
        // The guest is looked after by now, so that there is time to wait.
        let deadline = Instant::now() + LAST_LINES;
        let report = RecordingLine::Report { report: Box::new(report.clone()) };
        while !self.try_write_line(&report) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let Recorder { path, lines, written, .. } = self;
        drop(lines);
        let left = deadline.saturating_duration_since(Instant::now());
        if written.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
            let path = path.display();
            eprint_line(&format!(
                "landfall: the disk does not take the end of the recording {path}"
            ));
        }
    }

    fn write_line(&mut self, line: &impl Serialize) {
        if !self.try_write_line(line) {
            self.lost += 1;
        }
    }

    /// Hands a line over to the thread, after one for those that were lost before. Returns whether there
    /// was room.
    fn try_write_line(&mut self, line: &impl Serialize) -> bool {
        if self.lost > 0 {
            if !self.send(&RecordingLine::Lost { lines: self.lost }) {
                return false;
            }
            self.lost = 0;
        }
        self.send(line)
    }

    fn send(&self, line: &impl Serialize) -> bool {
        // Values of these types can always be written.
        let Ok(mut text) = serde_json::to_vec(line) else { return true };
        text.push(b'\n');
        // A thread that has ended has said why.
        !matches!(self.lines.try_send(text), Err(TrySendError::Full(_)))
    }
}

/// Writes each line at once and whole: what the kernel has survives the end of this process. An error, such
/// as a full disk, ends the recording and not the migration.
fn write_lines(mut file: File, lines: &Receiver<Vec<u8>>) {
    while let Ok(line) = lines.recv() {
        if let Err(error) = file.write_all(&line) {
            eprint_line(&format!("landfall: the recording stops here: {error}"));
            return;
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
