//! A small process that outlives landfall and goes the way back if landfall cannot.
//!
//! It is landfall's own program, started before anything is changed, in a session of its own so
//! that a Ctrl-C or a killed process group does not reach it. It holds one end of a pipe. Whatever
//! landfall is about to change, it first writes the way back into the pipe; the last line counts.
//! At its normal end landfall writes that all is done. If the pipe ends without that, landfall has
//! died, in whatever way, and the guardian goes the way back: first it lets the vCPUs run (well
//! under a millisecond), then it tells QEMU to cancel the migration that nobody steers any more,
//! puts its settings back, and makes sure that the guest runs.

use std::io::{self, BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use landfall_core::sample::Status;
use serde::{Deserialize, Serialize};

use crate::cgroup::UndoStep;
use crate::machine::{Machine, RunState, Settings};
use crate::qmp::{Address, QmpError};

/// The hidden subcommand of the program that makes it a guardian.
pub const SUBCOMMAND: &str = "guardian";

/// For how long the guardian tries to reach a monitor: QEMU may hang for a while, and has to notice
/// that landfall's own connection is closed before it serves another.
const REACH: Duration = Duration::from_secs(120);

/// For how long a cancelled migration may take to be over.
const CANCEL: Duration = Duration::from_secs(30);

/// Everything that has to be undone, whether or not it has been done yet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct WayBack {
    /// What lets the vCPU threads go, in order.
    pub cgroup: Vec<UndoStep>,
    /// The QEMU the guest was to leave. The guest ran there before.
    pub source: Option<Address>,
    /// Its settings as they were found.
    pub settings: Settings,
    /// The destination's monitor, where landfall was told it.
    pub destination: Option<Address>,
    /// The guest was stopped by landfall, so that it arrives stopped and has to be continued there.
    pub arrives_stopped: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Line {
    WayBack(WayBack),
    Done,
}

/// The guardian of one migration, as landfall sees it.
#[derive(Debug)]
pub struct Guardian {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    /// Starts a guardian: `program` with [`SUBCOMMAND`].
    ///
    /// # Errors
    /// It cannot be started; nothing should be changed without one.
    pub fn start(program: &Path) -> io::Result<Guardian> {
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
        let mut child = command.spawn()?;
        let pipe = child.stdin.take();
        Ok(Guardian { child, pipe })
    }

    /// Hands it the way back, which replaces the one before. Once this returns the kernel has it,
    /// and landfall may die.
    ///
    /// # Errors
    /// The guardian is gone.
    pub fn entrust(&mut self, way_back: &WayBack) -> io::Result<()> {
        self.tell(&Line::WayBack(way_back.clone()))
    }

    /// Whether it is still there.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it home: nothing is left to undo.
    pub fn dismiss(mut self) {
        // If it is gone already there is nobody to tell.
        let _ = self.tell(&Line::Done);
        self.pipe = None;
        let _ = self.child.wait();
    }

    fn tell(&mut self, line: &Line) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        let pipe = self.pipe.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.write_all(&text).and_then(|()| pipe.flush())
    }
}

/// The guardian's whole life: reads its pipe to the end and goes the way back unless told that all
/// is done. Says what it does on standard error.
///
/// Call it first thing in the process, with SIGINT, SIGTERM and SIGHUP made harmless.
pub async fn watch(pipe: impl BufRead) {
    // Fails only in a process that leads its group already, which is as good.
    let _ = rustix::process::setsid();
    let mut last = None;
    for line in pipe.lines() {
        let Ok(line) = line else { break };
        match serde_json::from_str(&line) {
            Ok(Line::WayBack(way_back)) => last = Some(way_back),
            Ok(Line::Done) => return,
            // A line cut short by landfall's death: the one before it is the way back, for what
            // this one was to undo had not been begun.
            Err(_) => break,
        }
    }
    if let Some(way_back) = last {
        way_back.go().await;
    }
}

impl WayBack {
    /// Goes the way back, saying on standard error what could not be done.
    pub async fn go(&self) {
        for step in &self.cgroup {
            if let Err(error) = step.run() {
                say(&format!("could not undo {step:?}: {error}"));
            }
        }
        say("landfall has died; the guest's vCPUs run free again");
        if let Some(source) = &self.source {
            match self.settle(source).await {
                Ok(ending) => say(&ending),
                Err(error) => say(&format!("the migration could not be ended: {error}")),
            }
        }
    }

    /// Ends the migration, puts the settings back, makes sure that the guest runs.
    async fn settle(&self, source: &Address) -> Result<String, QmpError> {
        let mut machine = reach(source).await?;
        let mut status = machine.migration().await?.status;
        if matches!(status, Status::Setup | Status::Active | Status::SwitchOver) {
            machine.cancel().await?;
        }
        let deadline = Instant::now() + CANCEL;
        while !status.is_over() && !is_postcopy(status) && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(50)).await;
            status = machine.migration().await?.status;
        }
        if is_postcopy(status) {
            return Ok("post-copy is under way and was left to end".to_owned());
        }
        machine.apply(&self.settings).await?;
        if status == Status::Completed {
            if let Some(destination) = self.destination.as_ref().filter(|_| self.arrives_stopped) {
                reach(destination).await?.go_on().await?;
            }
            return Ok("the migration had completed: the guest is at the destination".to_owned());
        }
        if let RunState::Stopped(_) = machine.run_state().await? {
            machine.go_on().await?;
        }
        Ok("the migration was cancelled, QEMU's settings are as they were".to_owned())
    }
}

fn is_postcopy(status: Status) -> bool {
    matches!(status, Status::PostCopy | Status::PostCopyPaused)
}

/// Connects to a monitor that may still be busy noticing that landfall is gone.
async fn reach(address: &Address) -> Result<Machine, QmpError> {
    let deadline = Instant::now() + REACH;
    loop {
        match Machine::connect(address).await {
            Ok((machine, _)) => return Ok(machine),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn say(what: &str) {
    // Standard error may be gone with the terminal.
    let _ = writeln!(io::stderr(), "landfall guardian: {what}");
}
