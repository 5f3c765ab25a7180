//! The rollback of a guest as a file, for the case that landfall and its guardian die together.
//!
//! It lies in the runtime directory beside the guest's lock, is there for as long as something may have
//! to be undone, and is read by `landfall release`.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Rollback;
use crate::procfs::Process;
use crate::runtime_dir::{self, RuntimeDirError};

/// The extension of these files.
const EXTENSION: &str = "rollback";

/// The form of the files that are written. A reader refuses a newer one.
const VERSION: u32 = 1;

/// No rollback is longer: one of 1,000 vCPUs has some 500 kB.
const MAX_BYTES: u64 = 8 << 20;

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The directory for it cannot be used.
    #[error(transparent)]
    Directory(#[from] RuntimeDirError),
    /// The file cannot be written, read or removed.
    #[error("cannot keep what has to be undone in {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The file is not one of landfall's, or one of another version.
    #[error("{path} cannot be used: {problem}; undo it with the landfall that wrote it", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: RecordProblem,
    },
}

/// What is wrong with the text of a record.
#[derive(Debug, thiserror::Error)]
pub enum RecordProblem {
    /// It is a directory, a symbolic link or the like.
    #[error("it is not a regular file")]
    NotAFile,
    /// It is longer than any record.
    #[error("it has {0} bytes")]
    TooLong(u64),
    /// It is no record.
    #[error("it is not a record ({0})")]
    NotARecord(#[from] serde_json::Error),
    /// It has a form that this landfall does not know.
    #[error("it has form {form}, written by landfall {landfall}; this one reads form {VERSION}")]
    OtherForm {
        /// The form.
        form: u32,
        /// The version that wrote it.
        landfall: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct RecordLine {
    version: u32,
    /// The version of landfall, for people.
    landfall: String,
    rollback: Rollback,
}

/// The record of one guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackRecord {
    process: Process,
    path: PathBuf,
}

impl RollbackRecord {
    /// The record of the guest of a QEMU process.
    pub fn of(process: Process) -> RollbackRecord {
        RollbackRecord { process, path: runtime_dir::guest_file(process, EXTENSION) }
    }

    /// Returns the records that exist, whether or not a landfall is still at work on them.
    pub fn list() -> Vec<RollbackRecord> {
        runtime_dir::list_processes(EXTENSION).into_iter().map(RollbackRecord::of).collect()
    }

    /// Returns the QEMU process of the guest.
    pub fn process(&self) -> Process {
        self.process
    }

    /// Writes a rollback, whole or not at all: a reader sees the one before or this one.
    ///
    /// # Errors
    /// [`RecordError::Directory`], [`RecordError::File`]: the one before is still there.
    pub fn write(&self, rollback: &Rollback) -> Result<(), RecordError> {
        runtime_dir::create()?;
        let failed = |source| RecordError::File { path: self.path.clone(), source };
        let line = RecordLine {
            version: VERSION,
            landfall: env!("CARGO_PKG_VERSION").to_owned(),
            rollback: rollback.clone(),
        };
        let text = serde_json::to_vec(&line).map_err(|error| failed(error.into()))?;
        let new = self.path.with_extension("rollback-new");
        let write = || {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&new)?.write_all(&text)?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| {
            // What was written of it is of no use.
            let _ = fs::remove_file(&new);
            failed(error)
        })
    }

    /// Reads the rollback; `None` if there is no such file, or none any more.
    ///
    /// # Errors
    /// [`RecordError::File`], [`RecordError::Unreadable`].
    pub fn read(&self) -> Result<Option<Rollback>, RecordError> {
        let failed = |source| RecordError::File { path: self.path.clone(), source };
        let unreadable = |problem| RecordError::Unreadable { path: self.path.clone(), problem };
        match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.is_file() => {
                return Err(unreadable(RecordProblem::NotAFile));
            }
            Ok(found) if found.len() > MAX_BYTES => {
                return Err(unreadable(RecordProblem::TooLong(found.len())));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        }
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(failed)?,
        };
        parse_record(&text).map(Some).map_err(unreadable)
    }

    /// Removes the file, and that of the limits: nothing has to be undone any more.
    ///
    /// # Errors
    /// [`RecordError::File`]; a file that is not there is no error.
    pub fn remove(&self) -> Result<(), RecordError> {
        let _ = fs::remove_file(limits_file(self.process));
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RecordError::File { path: self.path.clone(), source: error })
            }
            _ => Ok(()),
        }
    }
}

/// Returns the file of what was set in groups that are used in place.
pub fn limits_file(process: Process) -> PathBuf {
    runtime_dir::guest_file(process, "limits")
}

/// Reads the text of a record.
///
/// # Errors
/// [`RecordProblem`].
pub fn parse_record(text: &[u8]) -> Result<Rollback, RecordProblem> {
    let RecordLine { version, landfall, rollback } = serde_json::from_slice(text)?;
    match version {
        VERSION => Ok(rollback),
        form => Err(RecordProblem::OtherForm { form, landfall }),
    }
}
