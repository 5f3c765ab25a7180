//! Undoes what a crash of landfall and its guardian together has left behind on this host.
//!
//! A guest's rollback is in a file for as long as anything may have to be undone
//! ([`RollbackRecord`]). One whose lock is free belongs to no process any more: it is undone here, by the
//! same steps and the same protocol as the guardian's. Only what a record names is touched.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::cgroup::{LeftoverGroup, find_leftover_groups};
use crate::control;
use crate::end_runner::describe_end;
use crate::lock::{GuestLock, LockError};
use crate::procfs::Process;
use crate::rollback::record::RollbackRecord;
use crate::rollback::{ArrivedGuest, Rollback, UndoEnd};
use crate::runtime_dir;

/// For how long each guest is tried: a monitor can be taken or busy for a while.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two tries.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How it stands with one guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleaseOutcome {
    /// Everything is undone.
    Released,
    /// A landfall or a guardian is at work on it: left to that.
    InUse,
    /// Something could not be undone. The record is still there, for another try.
    Incomplete,
    /// It is not known where the guest runs. The record is still there.
    Unknown,
}

/// What was found of one guest, and what became of it.
#[derive(Debug, Clone, Serialize)]
pub struct ReleasedGuest {
    /// The QEMU process.
    pub pid: i32,
    /// How it stands now.
    pub outcome: ReleaseOutcome,
    /// What was done, a sentence each.
    pub done: Vec<String>,
    /// What is left, a sentence each with what to do.
    pub left: Vec<String>,
}

/// Undoes every record that belongs to no process any more. Records of which a landfall or a guardian is in
/// charge are listed and left alone.
pub async fn release_records() -> Vec<ReleasedGuest> {
    let mut found = Vec::new();
    for record in RollbackRecord::list() {
        found.extend(release_record(&record).await);
    }
    found
}

/// Removes the lock files of landfalls that were killed before they had changed anything.
pub fn remove_stale_locks() {
    for process in runtime_dir::list_processes("lock") {
        // A lock that is free goes with the one who takes it.
        drop(GuestLock::acquire(process));
    }
}

/// Frees the threads in groups of landfall that no record names, and removes the groups: those of a
/// landfall whose record was lost. To be called only when the operator asks for it, for a group is known
/// by its name alone.
pub fn release_groups() -> Vec<ReleasedGuest> {
    let mut found: Vec<ReleasedGuest> = Vec::new();
    for LeftoverGroup { pid, path, steps } in find_leftover_groups() {
        let process = Process::from_pid(pid);
        let _lock = match process.map(GuestLock::acquire) {
            Some(Err(LockError::AlreadySteered { .. })) => continue,
            lock => lock,
        };
        let failures: Vec<String> = steps
            .iter()
            .filter_map(|step| Some(format!("{step:?} failed: {}", step.apply().err()?)))
            .collect();
        let guest = ReleasedGuest {
            pid,
            outcome: match failures.is_empty() {
                true => ReleaseOutcome::Released,
                false => ReleaseOutcome::Incomplete,
            },
            done: match failures.is_empty() {
                true => vec![format!("{} held its threads no more and is removed", path.display())],
                false => Vec::new(),
            },
            left: failures,
        };
        found.push(guest);
    }
    found
}

/// Takes a lock. One whose holder is just dying is waited for.
async fn acquire_lock(process: Process) -> Result<GuestLock, LockError> {
    for _ in 0..5 {
        match GuestLock::acquire(process) {
            Err(LockError::AlreadySteered { .. }) => tokio::time::sleep(RETRY_PAUSE).await,
            lock => return lock,
        }
    }
    GuestLock::acquire(process)
}

/// `None` where the record is gone by the time its lock is held: another process has just undone it.
async fn release_record(record: &RollbackRecord) -> Option<ReleasedGuest> {
    let process = record.process();
    let mut guest = ReleasedGuest {
        pid: process.pid,
        outcome: ReleaseOutcome::Released,
        done: Vec::new(),
        left: Vec::new(),
    };
    let _lock = match acquire_lock(process).await {
        Ok(lock) => lock,
        Err(error) => {
            guest.outcome = match error {
                LockError::AlreadySteered { .. } => ReleaseOutcome::InUse,
                _ => ReleaseOutcome::Incomplete,
            };
            guest.left.push(error.to_string());
            return Some(guest);
        }
    };
    match record.read() {
        Ok(Some(mut rollback)) => guest.undo(&mut rollback, record).await,
        Ok(None) => return None,
        Err(error) => {
            guest.outcome = ReleaseOutcome::Incomplete;
            guest.left.push(error.to_string());
            return Some(guest);
        }
    }
    control::remove_socket(process);
    if guest.outcome == ReleaseOutcome::Released
        && let Err(error) = record.remove()
    {
        guest.outcome = ReleaseOutcome::Incomplete;
        guest.left.push(error.to_string());
    }
    Some(guest)
}

impl ReleasedGuest {
    async fn undo(&mut self, rollback: &mut Rollback, record: &RollbackRecord) {
        let problems = rollback.release_vcpus();
        match problems.is_empty() {
            true => self.done.push("its vCPUs run free".to_owned()),
            false => {
                self.left.extend(problems.iter().map(ToString::to_string));
                self.outcome = ReleaseOutcome::Incomplete;
            }
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let problem = match rollback.connect_source().await {
                Ok(None) => return self.settle_without_source(rollback).await,
                Ok(Some((mut source, _))) => {
                    match rollback.undo_on(&mut source, record, Some(deadline)).await {
                        Ok(UndoEnd::Settled(end)) => {
                            self.done.push(describe_end(end).to_owned());
                            self.done.push("QEMU's settings are as they were".to_owned());
                            return;
                        }
                        Ok(UndoEnd::Left(end)) => {
                            self.outcome = ReleaseOutcome::Unknown;
                            self.left.push(describe_end(end).to_owned());
                            return;
                        }
                        Ok(_) => "QEMU's monitor does not answer, or has closed".to_owned(),
                        Err(problem) => problem.to_string(),
                    }
                }
                Err(error) => error.to_string(),
            };
            if Instant::now() >= deadline {
                self.outcome = match rollback.obligations.is_empty() {
                    true => ReleaseOutcome::Incomplete,
                    false => ReleaseOutcome::Unknown,
                };
                self.left.push(format!("{problem}; run landfall release again"));
                return;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn settle_without_source(&mut self, rollback: &Rollback) {
        self.done.push(format!("QEMU process {} has ended", self.pid));
        match rollback.settle_without_source().await {
            ArrivedGuest::Runs => self.done.push("the guest runs at the destination".to_owned()),
            ArrivedGuest::NotOwed => {}
            ArrivedGuest::NothingThere => {
                let gone = "nothing listens at the destination's monitor any more";
                self.done.push(gone.to_owned());
            }
            ArrivedGuest::NotSeen => {
                self.outcome = ReleaseOutcome::Unknown;
                let address = rollback.destination.as_ref().map(ToString::to_string);
                self.left.push(format!(
                    "the guest was not seen to run at the destination ({}): look there with QMP \
                     query-status",
                    address.unwrap_or_default()
                ));
            }
        }
    }
}
