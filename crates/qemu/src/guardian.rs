//! A small process that outlives landfall and goes the way back if landfall cannot.
//!
//! It is landfall's own program, started before anything is changed, in a session of its own so
//! that a Ctrl-C or a killed process group does not reach it. It holds one end of a pipe. Whatever
//! landfall is about to change, it first writes the way back into the pipe; the last line counts.
//! Every second landfall gives a sign of life, and at its normal end it writes that all is done. If
//! the pipe ends without that, landfall has died, in whatever way; if no sign of life comes, it is
//! stopped or blocked, and for the guest that is the same. Then the guardian goes the way back:
//! first it lets the vCPUs run (well under a millisecond), then it tells QEMU to cancel the
//! migration that nobody steers any more and puts its settings back.
//!
//! A landfall that was only stopped still has QEMU's monitor, which serves one client at a time, so
//! neither of the two may wait for the other. The guardian says on its standard output that it has
//! set out; a landfall that moves again sees that before it holds anything, ends the migration
//! itself, and still sends the guardian home, which listens for that until it has the monitor.
//!
//! It acts on the one QEMU process it was told of and on no other, whoever listens at that socket
//! by then; it cancels only a migration that landfall began; it continues only a guest that
//! landfall stopped.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::retry_on_intr;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cgroup::UndoStep;
use crate::monitor::{Machine, Settings};
use crate::mutex::lock;
use crate::procfs::Process;
use crate::qmp::{Address, QmpError};
use crate::say::say;
use crate::settle;
use crate::vcpus::are_threads_of;

/// The hidden subcommand of the program that makes it a guardian.
pub const SUBCOMMAND: &str = "guardian";

/// How often landfall gives a sign of life.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// Without one for so long, landfall is stopped or blocked.
const SILENCE: Duration = Duration::from_secs(5);

/// For how long the guardian tries to reach a monitor: QEMU may hang for a while, and has to notice
/// that landfall's own connection is closed before it serves another.
const REACH: Duration = Duration::from_secs(120);

/// What a guardian says once it is ready.
const READY: &[u8] = b"ready\n";

/// What it says once it goes the way back, whether or not anybody is left to hear it.
const SET_OUT: &[u8] = b"set out\n";

/// Everything that has to be undone, whether or not it has been done yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WayBack {
    /// What lets the vCPU threads go, in order.
    pub cgroup: Vec<UndoStep>,
    /// The QEMU process the guest was to leave.
    pub process: Process,
    /// Its monitor.
    pub source: Address,
    /// Its settings as they were found.
    pub settings: Settings,
    /// The destination's monitor, where landfall was told it.
    pub destination: Option<Address>,
    /// The migration under way is landfall's.
    pub begun: bool,
    /// landfall stopped the guest: it has to be continued, wherever it is.
    pub stopped: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    WayBack(Box<WayBack>),
    Alive,
    Done,
}

/// The guardian of one migration, as landfall sees it.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    pipe: Arc<Mutex<Option<ChildStdin>>>,
    /// Silent while it watches.
    says: ChildStdout,
    signs: tokio::task::AbortHandle,
}

impl Guardian {
    /// Starts a guardian, `program` with [`SUBCOMMAND`], and waits until it is ready.
    ///
    /// The signs of life are given by a task of this runtime: a runtime that is blocked gives none.
    ///
    /// # Errors
    /// It cannot be started; nothing should be changed without one.
    pub fn start(program: &Path) -> io::Result<Guardian> {
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let not_ready = || io::Error::other("it does not get ready");
        let mut says = child.stdout.take().ok_or_else(not_ready)?;
        let mut ready = [0; READY.len()];
        if says.read_exact(&mut ready).is_err() || ready != READY {
            return Err(not_ready());
        }
        let pipe = Arc::new(Mutex::new(child.stdin.take()));
        let signs = tokio::spawn(give_signs_of_life(Arc::clone(&pipe))).abort_handle();
        Ok(Guardian { child, pipe, says, signs })
    }

    /// Hands it the way back, which replaces the one before. Once this returns the kernel has it,
    /// and landfall may die.
    ///
    /// # Errors
    /// The guardian is gone.
    pub fn entrust(&mut self, way_back: &WayBack) -> io::Result<()> {
        tell(&self.pipe, &Line::WayBack(Box::new(way_back.clone())))
    }

    /// Whether it is there and would still undo what is done from now on. One that has set out on
    /// the way back does not, though its process may go on for a while.
    pub fn watches(&self) -> bool {
        // Nothing is there to be read, nor has the other end been closed.
        let mut says = [PollFd::new(&self.says, PollFlags::IN)];
        matches!(retry_on_intr(|| poll(&mut says, Some(&Timespec::default()))), Ok(0))
    }

    /// Sends it home: nothing is left to undo.
    pub fn dismiss(mut self) {
        // If it is gone already there is nobody to tell.
        let _ = tell(&self.pipe, &Line::Done);
        *lock(&self.pipe) = None;
        let _ = self.child.wait();
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.signs.abort();
        // Not dismissed: at the end of the pipe it goes the way back.
        *lock(&self.pipe) = None;
    }
}

async fn give_signs_of_life(pipe: Arc<Mutex<Option<ChildStdin>>>) {
    while tell(&pipe, &Line::Alive).is_ok() {
        tokio::time::sleep(SIGN_OF_LIFE).await;
    }
}

fn tell(pipe: &Mutex<Option<ChildStdin>>, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    let mut pipe = lock(pipe);
    let pipe = pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
    pipe.write_all(&text).and_then(|()| pipe.flush())
}

/// The guardian's whole life: reads its pipe to the end and goes the way back unless told that all
/// is done. Says what it does on standard error.
///
/// Call it first thing in the process, with SIGINT, SIGTERM and SIGHUP made harmless.
pub async fn watch() {
    // Fails only for the leader of a process group, as which landfall does not start it.
    let _ = rustix::process::setsid();
    announce(READY);
    let mut lines = listen();
    let mut way_back = None;
    let what = loop {
        match timeout(SILENCE, lines.recv()).await {
            Ok(Some(Line::WayBack(newer))) => way_back = Some(newer),
            Ok(Some(Line::Alive)) => {}
            Ok(Some(Line::Done)) => return,
            Err(_) if way_back.is_some() => break "does not move any more",
            Err(_) => {}
            Ok(None) => break "has ended early",
        }
    };
    if let Some(way_back) = way_back {
        announce(SET_OUT);
        way_back.go(what, lines).await;
    }
}

/// Says something to landfall. If nobody is left to read it, the pipe from landfall says so too.
fn announce(word: &[u8]) {
    let _ = io::stdout().write_all(word).and_then(|()| io::stdout().flush());
}

/// The lines that landfall writes; closed when it is gone.
fn listen() -> mpsc::UnboundedReceiver<Line> {
    let (sender, lines) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in BufReader::new(io::stdin().lock()).lines() {
            // A line cut short by landfall's death: the one before it is the way back, for what
            // this one was to undo had not been begun.
            let line = line.ok().and_then(|line| serde_json::from_str::<Line>(&line).ok());
            let Some(line) = line else { break };
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

/// Returns when landfall, which moves again, says that it has ended the migration itself.
async fn sent_home(mut lines: mpsc::UnboundedReceiver<Line>) {
    while let Some(line) = lines.recv().await {
        if matches!(line, Line::Done) {
            return;
        }
    }
    std::future::pending().await
}

impl WayBack {
    /// Goes the way back, saying on standard error what is done and what could not be.
    async fn go(&self, what: &str, lines: mpsc::UnboundedReceiver<Line>) {
        let mut released = true;
        for step in &self.cgroup {
            if let Err(error) = step.run() {
                released = false;
                say(&format!("landfall guardian: could not undo {step:?}: {error}"));
            }
        }
        if released {
            say(&format!("landfall guardian: landfall {what}; the guest's vCPUs run free"));
        }
        // To be sent home is heard only before anything is done to QEMU, which is then done whole.
        let reached = tokio::select! {
            reached = self.reach_source() => reached,
            () = sent_home(lines) => {
                say("landfall guardian: landfall moves again and has ended the migration itself");
                return;
            }
        };
        let ending = match reached {
            Ok(Some(source)) => self.settle(source).await,
            Ok(None) => Ok(format!("QEMU process {} has ended", self.process.pid)),
            Err(error) => Err(error),
        };
        match ending {
            Ok(ending) => say(&format!("landfall guardian: {ending}")),
            Err(error) => {
                say(&format!("landfall guardian: the migration could not be ended: {error}"));
            }
        }
    }

    /// Ends the migration, sees to the guest, puts the settings back; each even if another fails.
    async fn settle(&self, mut source: Machine) -> Result<String, QmpError> {
        let mut destination = match &self.destination {
            Some(address) => Machine::connect(address).await.ok().map(|(machine, _)| machine),
            None => None,
        };
        let ending = if self.begun {
            settle::end_migration(&mut source, destination.as_mut(), self.stopped).await
        } else {
            Ok("no migration of landfall's is under way".to_owned())
        };
        // Refused while somebody else's migration runs, which then has settings of its own.
        let settings = source.apply_settings(&self.settings).await;
        let ending = ending?;
        Ok(match settings {
            Ok(()) => format!("{ending}; QEMU's settings are as they were"),
            Err(error) => format!("{ending}; QEMU's settings could not be put back: {error}"),
        })
    }

    /// Connects to the source's monitor, which may still be busy noticing that landfall is gone.
    /// `None` once the process has ended: whoever listens there then is somebody else.
    async fn reach_source(&self) -> Result<Option<Machine>, QmpError> {
        let deadline = Instant::now() + REACH;
        while self.process.is_alive() {
            match Machine::connect(&self.source).await {
                Ok((mut machine, _)) => {
                    let threads = machine.vcpu_threads().await?;
                    return Ok(are_threads_of(self.process, &threads).then_some(machine));
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(None)
    }
}
