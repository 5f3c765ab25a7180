//! One landfall for a guest: an advisory lock, named by the QEMU process.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::procfs::Process;
use crate::runtime_dir;

/// Held as long as it lives, and by the guardian as long as that does.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// Why a guest could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error(
        "another landfall (pid {holder}, or its guardian) is already steering the guest of QEMU \
         process {pid}; wait for it, or end it (the guest is let go when it ends)"
    )]
    Taken {
        /// Who, as written in the lock.
        holder: String,
        /// The guest's process.
        pid: i32,
    },
    /// The lock file cannot be made.
    #[error("cannot lock the guest with {path}: {source}; run landfall as root, or set XDG_RUNTIME_DIR", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Lock {
    /// Takes the lock of a guest. The file is left to the guardian as well (it is inherited by
    /// child processes), so that nobody else starts before the way back has been gone.
    ///
    /// # Errors
    /// [`LockError`].
    pub fn take(process: Process) -> Result<Lock, LockError> {
        let name = format!("{}-{}.lock", process.pid, process.start_time_ticks);
        let path = runtime_dir::path().join(name);
        let failed = |source| LockError::File { path: path.clone(), source };
        runtime_dir::make().map_err(failed)?;
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = open.map_err(failed)?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK {
                return Err(failed(error.into()));
            }
            let mut holder = String::new();
            // The pid is for the message; without it the message says less.
            let _ = file.read_to_string(&mut holder);
            let holder = if holder.is_empty() { "unknown".to_owned() } else { holder };
            return Err(LockError::Taken { holder, pid: process.pid });
        }
        fcntl_setfd(&file, FdFlags::empty()).map_err(|error| failed(error.into()))?;
        file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
        write!(file, "{}", std::process::id()).map_err(failed)?;
        // The file stays, for somebody may be waiting to lock it; /run is emptied at every boot.
        Ok(Lock { file })
    }

    /// Keeps the lock from child processes started from now on: whoever inherits it holds the guest.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn bequeathed(&self) -> io::Result<()> {
        Ok(fcntl_setfd(&self.file, FdFlags::CLOEXEC)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_is_locked_once_and_free_again_after() {
        let process = Process { pid: i32::MAX, start_time_ticks: u64::from(std::process::id()) };
        let first = Lock::take(process).unwrap();
        let error = Lock::take(process).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        assert!(Lock::take(process).is_ok());
    }
}
