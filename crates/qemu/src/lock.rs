//! One landfall for each guest: an advisory lock, named after the guest's QEMU process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::procfs::Process;
use crate::runtime_dir::{self, RuntimeDirError};

/// The lock of one guest. It is held until it is dropped, and until the guardian that inherited it
/// has ended.
#[derive(Debug)]
pub struct GuestLock {
    file: File,
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
        let name = format!("{}-{}.lock", process.pid, process.start_time_ticks);
        let path = runtime_dir::create()?.join(name);
        let failed = |source| LockError::File { path: path.clone(), source };
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut holder = String::new();
            // Only for the message, which says less without it.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
            return Err(LockError::AlreadySteered { holder, pid: process.pid });
        }
        fcntl_setfd(&file, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        // The file is never removed: another process may be about to lock it. /run is emptied at
        // every boot.
        Ok(GuestLock { file })
    }

    /// Keeps child processes that start from now on from inheriting the lock. Called once the guardian
    /// has it: any other child would hold the guest for as long as that child runs.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn close_on_exec(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::CLOEXEC)?)
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
    }
}
