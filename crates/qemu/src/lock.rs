//! One landfall for each guest: an advisory lock, named after the guest's QEMU process.
//!
//! The lock file is removed by the process that holds the lock last. One that opens the file just before
//! that locks a file without a name, notices, and opens again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, FdFlags, fcntl_setfd};

use crate::procfs::Process;
use crate::runtime_dir::{self, RuntimeDirError};

/// The lock of one guest. It is held until it is dropped, and until the guardian that inherited it
/// has ended.
#[derive(Debug)]
pub struct GuestLock {
    file: File,
    path: PathBuf,
    /// The guardian holds the lock as well: the file is then its to remove.
    is_shared: bool,
}

/// Why a guest cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another landfall steers the guest, or its guardian has not finished yet.
    #[error(
        "another landfall (pid {holder}, or its guardian) is already steering the guest of QEMU \
         process {pid}; wait for it, or end it (the guest is let go when it ends)"
    )]
    AlreadySteered {
        /// The process id of the other landfall as the lock file has it, or `unknown`.
        holder: String,
        /// The guest's QEMU process.
        pid: i32,
    },
    /// The lock file cannot be made, locked or written.
    #[error("cannot lock the guest with {path}: {source}; run landfall as root, or set XDG_RUNTIME_DIR", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The directory for lock files cannot be used.
    #[error("cannot lock the guest: {0}")]
    Directory(#[from] RuntimeDirError),
}

impl GuestLock {
    /// Takes the lock of a guest. Child processes inherit it: the guardian holds it as well, so that
    /// no other landfall starts on this guest before everything is put back.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn acquire(process: Process) -> Result<GuestLock, LockError> {
        runtime_dir::create()?;
        let path = runtime_dir::guest_file(process, "lock");
        let failed = |source| LockError::File { path: path.clone(), source };
        loop {
            let mut file = open_file(&path).map_err(failed)?;
            if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
                if error != Errno::WOULDBLOCK {
                    return Err(failed(error.into()));
                }
                let mut holder = String::new();
                // Only for the message, which says less without it.
                let _ = file.read_to_string(&mut holder);
                let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
                return Err(LockError::AlreadySteered { holder, pid: process.pid });
            }
            if !is_file_at(&file, &path).map_err(failed)? {
                continue;
            }
            fcntl_setfd(&file, FdFlags::empty()).map_err(|error| failed(error.into()))?;
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            write!(file, "{}", std::process::id()).map_err(failed)?;
            return Ok(GuestLock { file, path, is_shared: false });
        }
    }

    /// Keeps child processes that start from now on from inheriting the lock. Called once the guardian
    /// has it: any other child would hold the guest for as long as that child runs.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn close_on_exec(&mut self) -> io::Result<()> {
        self.is_shared = true;
        Ok(fcntl_setfd(&self.file, FdFlags::CLOEXEC)?)
    }

    /// The guardian has ended: this process alone holds the lock again.
    pub fn take_back(&mut self) {
        self.is_shared = false;
    }
}

impl Drop for GuestLock {
    fn drop(&mut self) {
        if !self.is_shared {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the lock file of a guest, for a process that holds the lock by inheritance.
pub(crate) fn remove_file(process: Process) {
    let _ = fs::remove_file(runtime_dir::guest_file(process, "lock"));
}

fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path)
}

/// Returns whether a path still leads to an open file.
fn is_file_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (opened.dev(), opened.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_locked_once_and_free_again_after() {
        let process = Process { pid: i32::MAX, start_time_ticks: u64::from(std::process::id()) };
        let first = GuestLock::acquire(process).unwrap();
        let error = GuestLock::acquire(process).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        assert!(GuestLock::acquire(process).is_ok());
        assert!(!runtime_dir::guest_file(process, "lock").exists(), "nothing is left behind");
    }
}
