//! A small process that outlives landfall and puts everything back if landfall cannot.
//!
//! The guardian is landfall's own program, started before anything is changed, in a session of its own so
//! that a Ctrl-C or a killed process group does not reach it, and outside landfall's control groups, so
//! that neither does the end of a service or a container's out-of-memory kill. It reads lines of JSON
//! from a pipe:
//!
//! - `rollback`: what has to be undone ([`Rollback`]). landfall writes it before it changes anything;
//!   the last one counts.
//! - `heartbeat`: landfall is alive. Written every second, and answered.
//! - `done`: everything is put back; the guardian ends.
//!
//! If the pipe ends without `done`, landfall has died. If no heartbeat arrives for five seconds, it is
//! stopped or blocked, which is as bad for the guest. In both cases the guardian undoes the rollback: first
//! it lets the vCPUs run (well under a millisecond), then it has QEMU end the migration and restores its
//! settings. It tries again for as long as the source's QEMU lives, until the guest is seen to run.
//!
//! A landfall that was only stopped still holds QEMU's monitor, which serves one client at a time. The
//! guardian writes `rolling back` to its standard output when it starts. A landfall that runs again sees
//! that before it holds anything, ends the migration itself and still writes `done`. One that still has the
//! monitor ten seconds later is killed.
//!
//! The guardian acts on the one QEMU process that it was told of, whichever process listens on that
//! monitor socket by then. It cancels only a migration that landfall started, and continues only a
//! guest that landfall stopped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use landfall_core::ending::EndState;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::retry_on_intr;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::cgroup::leave_all_groups;
use crate::control;
use crate::end_runner::describe_end;
use crate::lock;
use crate::monitor::QemuMonitor;
use crate::mutex::lock_unpoisoned;
use crate::rollback::record::RollbackRecord;
use crate::rollback::{ArrivedGuest, Rollback, UndoEnd};
use crate::stdio::{eprint_line, flush_stderr};

/// The hidden subcommand of the program that makes it a guardian.
pub const SUBCOMMAND: &str = "guardian";

/// The time between two heartbeats.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// After this long without a heartbeat landfall counts as stopped or blocked, and after this long
/// without an answer to one the guardian does.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait for a guardian that is being started.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A landfall that neither lets go of QEMU's monitor nor writes `done` for this long is killed.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// The pause between two tries to undo something.
const RETRY_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// For how long a guardian that tries again and again keeps landfall's standard error open: another process
/// may be waiting for its end.
const SPEAKS_FOR: Duration = Duration::from_secs(60);

/// What a guardian writes once it is ready.
const READY: &[u8] = b"ready\n";

/// What it answers a heartbeat.
const ALIVE: &[u8] = b".";

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
    /// The guardian's standard output, not waited for.
    output: ChildStdout,
    /// When it last answered a heartbeat, and when this process last looked.
    answered_at: Instant,
    looked_at: Instant,
    has_ended_watch: bool,
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
        if !is_ready(&mut output) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(not_ready());
        }
        set_nonblocking(&output).map_err(failed)?;
        let pipe = Arc::new(Mutex::new(child.stdin.take()));
        let heartbeats = tokio::spawn(send_heartbeats(Arc::clone(&pipe))).abort_handle();
        let now = Instant::now();
        Ok(Guardian {
            child,
            pipe,
            output,
            answered_at: now,
            looked_at: now,
            has_ended_watch: false,
            heartbeats,
        })
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
    /// its rollback does not, though its process may run for a while; nor does one that is stopped.
    pub fn is_watching(&mut self) -> bool {
        let now = Instant::now();
        // Where this process itself was stopped, the answers of that time are read only now.
        if now.duration_since(self.looked_at) > HEARTBEAT_INTERVAL * 2 {
            self.answered_at = now;
        }
        self.looked_at = now;
        let mut buffer = [0; 256];
        loop {
            match self.output.read(&mut buffer) {
                Ok(0) => self.has_ended_watch = true,
                Ok(read) if buffer[..read].iter().all(|byte| ALIVE.contains(byte)) => {
                    self.answered_at = now;
                    continue;
                }
                Ok(_) => self.has_ended_watch = true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.has_ended_watch = true,
            }
            break;
        }
        !self.has_ended_watch && now.duration_since(self.answered_at) <= HEARTBEAT_TIMEOUT
    }

    /// Ends the guardian: nothing is left to undo.
    pub fn disarm(mut self) {
        // Fails if the guardian is gone already, which is just as well.
        let _ = send_message(&self.pipe, &GuardianMessage::Done);
        *lock_unpoisoned(&self.pipe) = None;
        if !self.is_watching() && !self.has_ended_watch {
            // It is stopped, and would never read that all is done.
            let _ = self.child.kill();
        }
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

/// Waits until a guardian says that it is ready.
fn is_ready(output: &mut ChildStdout) -> bool {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut ready = Vec::new();
    while ready.len() < READY.len() {
        let left = deadline.saturating_duration_since(Instant::now());
        let Ok(limit) = Timespec::try_from(left) else { return false };
        let mut readable = [PollFd::new(output, PollFlags::IN)];
        if !matches!(retry_on_intr(|| poll(&mut readable, Some(&limit))), Ok(1)) {
            return false;
        }
        let mut byte = [0];
        match output.read(&mut byte) {
            Ok(1) => ready.push(byte[0]),
            _ => return false,
        }
    }
    ready == READY
}

fn set_nonblocking(file: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&file)?;
    Ok(fcntl_setfl(&file, flags | OFlags::NONBLOCK)?)
}

async fn send_heartbeats(pipe: Arc<Mutex<Option<ChildStdin>>>) {
    while send_message(&pipe, &GuardianMessage::Heartbeat).is_ok() {
        sleep(HEARTBEAT_INTERVAL).await;
    }
}

fn send_message(pipe: &Mutex<Option<ChildStdin>>, message: &GuardianMessage) -> io::Result<()> {
    let mut text = serde_json::to_vec(message)?;
    text.push(b'\n');
    let mut pipe = lock_unpoisoned(pipe);
    let pipe = pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe.write_all(&text).and_then(|()| pipe.flush())
}

// ---- The guardian's side ---------------------------------------------------------------------------

/// Why the guardian puts things back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RollbackCause {
    EndedEarly,
    NoHeartbeat,
}

/// Runs the guardian's side: reads its pipe to the end, and undoes the last rollback unless told that
/// everything is done. Reports what it does on standard error.
///
/// To be called first thing in the process, with SIGINT, SIGTERM and SIGHUP ignored.
pub async fn run_guardian() {
    // Fails only for the leader of a process group, as which landfall does not start it.
    let _ = rustix::process::setsid();
    let landfall = getppid().and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    outlive_landfall();
    // A landfall that does not read must not make the guardian wait.
    let _ = set_nonblocking(io::stdout());
    write_signal(READY);
    let mut messages = read_messages();
    let mut rollback = None;
    let cause = loop {
        match timeout(HEARTBEAT_TIMEOUT, messages.recv()).await {
            Ok(Some(GuardianMessage::Rollback(newer))) => rollback = Some(newer),
            Ok(Some(GuardianMessage::Heartbeat)) => write_signal(ALIVE),
            Ok(Some(GuardianMessage::Done)) => return,
            Err(_) if rollback.is_some() => break RollbackCause::NoHeartbeat,
            Err(_) => {}
            Ok(None) => break RollbackCause::EndedEarly,
        }
    };
    if let Some(rollback) = rollback {
        write_signal(ROLLING_BACK);
        undo(*rollback, cause, landfall, wait_for_done(messages)).await;
    }
}

/// Leaves every control group that this process shares with landfall, asks the kernel to end it last where
/// memory is short, and keeps its memory from being swapped out. Each is refused where landfall does not
/// run as root, or in a container that keeps its processes; the guardian then dies with landfall where
/// all processes of the group are killed, and `landfall release` does the rest.
fn outlive_landfall() {
    leave_all_groups();
    let _ = std::fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);
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

/// Undoes everything, and reports on standard error what was done and what could not be. Leaves QEMU alone
/// if `landfall_is_done` completes before QEMU's monitor is reached.
async fn undo(
    mut rollback: Rollback,
    cause: RollbackCause,
    landfall: Option<OwnedFd>,
    landfall_is_done: impl Future<Output = ()>,
) {
    let mut problems = rollback.release_vcpus();
    say(match (cause, problems.is_empty()) {
        (RollbackCause::EndedEarly, true) => "landfall has ended early; the guest's vCPUs run free",
        (RollbackCause::NoHeartbeat, true) => {
            "landfall does not move any more; the guest's vCPUs run free"
        }
        (RollbackCause::EndedEarly, false) => "landfall has ended early",
        (RollbackCause::NoHeartbeat, false) => "landfall does not move any more",
    });
    problems.iter().for_each(|problem| say(&problem.to_string()));
    let record = RollbackRecord::of(rollback.process);
    let mut landfall_is_done = Box::pin(landfall_is_done);
    let began = Instant::now();
    let mut pause = RETRY_PAUSES.0;
    let mut said_last = String::new();
    let mut is_quiet = false;
    let keep_record = loop {
        if !problems.is_empty() {
            problems = rollback.release_vcpus();
        }
        let reached = tokio::select! {
            reached = rollback.connect_source() => reached,
            () = &mut landfall_is_done => {
                say("landfall moves again and has ended the migration itself");
                return;
            }
        };
        let attempt = match reached {
            Ok(Some((source, _))) => undo_on(&mut rollback, source, &record).await,
            Ok(None) => settle_without_source(&rollback).await,
            Err(error) => {
                if began.elapsed() > KILL_AFTER
                    && let Some(landfall) = &landfall
                {
                    // Fails where it has ended.
                    let _ = pidfd_send_signal(landfall, Signal::KILL);
                }
                Attempt::Again(error.to_string())
            }
        };
        match attempt {
            Attempt::Over { keep_record } if problems.is_empty() => break keep_record,
            Attempt::Again(problem) if problem != said_last => {
                say(&format!("{problem}; trying again"));
                said_last = problem;
            }
            Attempt::Over { .. } | Attempt::Again(_) => {}
        }
        if began.elapsed() > SPEAKS_FOR && !std::mem::replace(&mut is_quiet, true) {
            say("going on without further words");
            flush_stderr(Duration::from_secs(1));
            leave_stderr();
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_PAUSES.1);
    };
    if !keep_record {
        let _ = record.remove();
    }
    control::remove_socket(rollback.process);
    lock::remove_file(rollback.process);
}

/// What a try to undo came to.
enum Attempt {
    /// Nothing more can be done; whether the record is of use to `landfall release`.
    Over { keep_record: bool },
    /// What stands in the way.
    Again(String),
}

async fn undo_on(
    rollback: &mut Rollback,
    mut source: QemuMonitor,
    record: &RollbackRecord,
) -> Attempt {
    match rollback.undo_on(&mut source, record, None).await {
        Ok(UndoEnd::Settled(end)) => {
            say(&format!("{}; QEMU's settings are as they were", describe_end(end)));
            Attempt::Over { keep_record: false }
        }
        // Nothing that the guardian can wait for settles these.
        Ok(UndoEnd::Left(
            end @ (EndState::ArrivedRunningOrPaused
            | EndState::StandsAtDestination(_)
            | EndState::InPostCopy
            | EndState::MigratedByOther),
        )) => {
            say(describe_end(end));
            Attempt::Over { keep_record: true }
        }
        Ok(UndoEnd::Left(end)) => Attempt::Again(describe_end(end).to_owned()),
        Ok(UndoEnd::SourceEnded | UndoEnd::SourceClosed | UndoEnd::OutOfTime) => {
            Attempt::Again("QEMU's monitor has closed".to_owned())
        }
        Err(problem) => Attempt::Again(problem.to_string()),
    }
}

async fn settle_without_source(rollback: &Rollback) -> Attempt {
    let ended = format!("QEMU process {} has ended", rollback.process.pid);
    match rollback.settle_without_source().await {
        ArrivedGuest::Runs => {
            say(&format!("{ended}; the guest runs at the destination"));
            Attempt::Over { keep_record: false }
        }
        ArrivedGuest::NotOwed => {
            say(&ended);
            Attempt::Over { keep_record: false }
        }
        ArrivedGuest::NothingThere => {
            say(&format!("{ended}, and nothing listens at the destination's monitor any more"));
            Attempt::Over { keep_record: false }
        }
        ArrivedGuest::NotSeen => {
            say(&format!("{ended}; the guest was not seen to run at the destination"));
            Attempt::Over { keep_record: true }
        }
    }
}

/// Replaces standard error by nothing.
fn leave_stderr() {
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

fn say(what: &str) {
    eprint_line(&format!("landfall guardian: {what}"));
}
