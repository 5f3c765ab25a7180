//! A small process that outlives landfall and puts everything back if landfall cannot.
//!
//! The guardian is landfall's own program, started before anything is changed, in a session of its
//! own so that a Ctrl-C or a killed process group does not reach it. It reads lines of JSON from a
//! pipe:
//!
//! - `rollback`: what has to be undone ([`Rollback`]). landfall writes it before it changes anything;
//!   the last one counts.
//! - `heartbeat`: landfall is alive. Written every second.
//! - `done`: everything is put back; the guardian ends.
//!
//! If the pipe ends without `done`, landfall has died. If no heartbeat arrives for five seconds, it is
//! stopped or blocked, which is as bad for the guest. In both cases the guardian runs the rollback:
//! first it lets the vCPUs run (well under a millisecond), then it tells QEMU to cancel the migration
//! and restores its settings.
//!
//! A landfall that was only stopped still holds QEMU's monitor, which serves one client at a time, so
//! neither process may wait for the other. The guardian writes `rolling back` to its standard output
//! when it starts. A landfall that runs again sees that before it holds anything, ends the migration
//! itself and still writes `done`; the guardian reads its pipe until it has the monitor.
//!
//! The guardian acts on the one QEMU process that it was told of, whichever process listens on that
//! monitor socket by then. It cancels only a migration that landfall started, and continues only a
//! guest that landfall stopped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::mutex::lock_unpoisoned;
use crate::rollback::{Rollback, RollbackCause};

/// The hidden subcommand of the program that makes it a guardian.
pub const SUBCOMMAND: &str = "guardian";

/// The time between two heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// After this long without a heartbeat landfall counts as stopped or blocked.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a guardian writes once it is ready.
const READY: &[u8] = b"ready\n";

/// What it writes once it starts to put things back, whether or not landfall still reads it.
const ROLLING_BACK: &[u8] = b"rolling back\n";

/// One line from landfall to the guardian.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum GuardianMessage {
    /// Replaces what has to be undone.
    Rollback(Box<Rollback>),
    /// landfall is alive.
    Heartbeat,
    /// Nothing has to be undone any more.
    Done,
}

/// Why there is no guardian.
#[derive(Debug, thiserror::Error)]
pub enum GuardianError {
    /// The program cannot be started.
    #[error("cannot start the guardian ({program}): {source}", program = program.display())]
    Spawn {
        /// The program.
        program: std::path::PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The program was started but did not say that it is ready, as another program does, or another
    /// build of landfall.
    #[error("cannot start the guardian ({program}): it does not get ready; is that landfall?", program = program.display())]
    NotReady {
        /// The program.
        program: std::path::PathBuf,
    },
    /// The guardian has ended, so that it cannot be told what to undo.
    #[error("the guardian is gone: {0}")]
    Gone(io::Error),
}

/// The guardian of one migration, as landfall sees it.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    pipe: Arc<Mutex<Option<ChildStdin>>>,
    /// The guardian's standard output: silent while it watches.
    output: ChildStdout,
    heartbeats: tokio::task::AbortHandle,
}

impl Guardian {
    /// Starts a guardian, `program` with [`SUBCOMMAND`], and waits until it is ready.
    ///
    /// A task of the current tokio runtime sends the heartbeats: a blocked runtime sends none.
    ///
    /// # Errors
    /// [`GuardianError::Spawn`], [`GuardianError::NotReady`]. Nothing should be changed without a
    /// guardian.
    pub fn spawn(program: &Path) -> Result<Guardian, GuardianError> {
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let spawn = command.spawn();
        let failed = |source| GuardianError::Spawn { program: program.to_owned(), source };
        let mut child = spawn.map_err(failed)?;
        let not_ready = || GuardianError::NotReady { program: program.to_owned() };
        let mut output = child.stdout.take().ok_or_else(not_ready)?;
        let mut ready = [0; READY.len()];
        if output.read_exact(&mut ready).is_err() || ready != READY {
            return Err(not_ready());
        }
        let pipe = Arc::new(Mutex::new(child.stdin.take()));
        let heartbeats = tokio::spawn(send_heartbeats(Arc::clone(&pipe))).abort_handle();
        Ok(Guardian { child, pipe, output, heartbeats })
    }

    /// Replaces what the guardian has to undo. Once this returns the kernel has it, and landfall may
    /// die.
    ///
    /// # Errors
    /// [`GuardianError::Gone`].
    pub fn update(&mut self, rollback: &Rollback) -> Result<(), GuardianError> {
        let message = GuardianMessage::Rollback(Box::new(rollback.clone()));
        send_message(&self.pipe, &message).map_err(GuardianError::Gone)
    }

    /// Returns whether the guardian would still undo what is changed from now on. One that has started
    /// its rollback does not, though its process may run for a while.
    pub fn is_watching(&self) -> bool {
        // Nothing is there to be read, nor has the other end been closed.
        let mut output = [PollFd::new(&self.output, PollFlags::IN)];
        matches!(retry_on_intr(|| poll(&mut output, Some(&Timespec::default()))), Ok(0))
    }

    /// Ends the guardian: nothing is left to undo.
    pub fn disarm(mut self) {
        // Fails if the guardian is gone already, which is just as well.
        let _ = send_message(&self.pipe, &GuardianMessage::Done);
        *lock_unpoisoned(&self.pipe) = None;
        let _ = self.child.wait();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.heartbeats.abort();
        // Not disarmed: at the end of the pipe it runs the rollback.
        *lock_unpoisoned(&self.pipe) = None;
    }
}

async fn send_heartbeats(pipe: Arc<Mutex<Option<ChildStdin>>>) {
    while send_message(&pipe, &GuardianMessage::Heartbeat).is_ok() {
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

fn send_message(pipe: &Mutex<Option<ChildStdin>>, message: &GuardianMessage) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    let mut pipe = lock_unpoisoned(pipe);
    let pipe = pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe.write_all(&text).and_then(|()| pipe.flush())
}

/// Runs the guardian's side: reads its pipe to the end, and runs the last rollback unless told that
/// everything is done. Reports what it does on standard error.
///
/// To be called first thing in the process, with SIGINT, SIGTERM and SIGHUP ignored.
pub async fn run_guardian() {
    // Fails only for the leader of a process group, as which landfall does not start it.
    let _ = rustix::process::setsid();
    write_signal(READY);
    let mut messages = read_messages();
    let mut rollback = None;
    let cause = loop {
        match timeout(HEARTBEAT_TIMEOUT, messages.recv()).await {
            Ok(Some(GuardianMessage::Rollback(newer))) => rollback = Some(newer),
            Ok(Some(GuardianMessage::Heartbeat)) => {}
            Ok(Some(GuardianMessage::Done)) => return,
            Err(_) if rollback.is_some() => break RollbackCause::NoHeartbeat,
            Err(_) => {}
            Ok(None) => break RollbackCause::EndedEarly,
        }
    };
    if let Some(rollback) = rollback {
        write_signal(ROLLING_BACK);
        rollback.run(cause, wait_for_done(messages)).await;
    }
}

/// Writes to landfall, which may be gone; the end of the pipe from landfall tells that as well.
fn write_signal(signal: &[u8]) {
    let _ = io::stdout().write_all(signal).and_then(|()| io::stdout().flush());
}

/// Returns the messages that landfall writes; the channel is closed when landfall is gone.
fn read_messages() -> mpsc::UnboundedReceiver<GuardianMessage> {
    let (sender, messages) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in BufReader::new(io::stdin().lock()).lines() {
            // A line cut short by landfall's death: what it was to undo had not been started, so the
            // rollback before it is complete.
            let line = line.ok().and_then(|line| serde_json::from_str(&line).ok());
            let Some(message) = line else { break };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    messages
}

/// Returns when landfall, which runs again, reports that it has ended the migration itself; never if it
/// does not.
async fn wait_for_done(mut messages: mpsc::UnboundedReceiver<GuardianMessage>) {
    while let Some(message) = messages.recv().await {
        if matches!(message, GuardianMessage::Done) {
            return;
        }
    }
    std::future::pending().await
}
