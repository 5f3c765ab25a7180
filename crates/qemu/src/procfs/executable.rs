//! Whether a process runs a QEMU's program file, and not just calls itself a QEMU.
//!
//! A process chooses its command line freely. It cannot choose its program file: this must be named like a
//! QEMU's, belong to root or to landfall's own user, and be writable by its owner alone.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::{ProcError, is_qemu, process_file, read_error};

/// Returns the path of a program file without what the kernel adds where it has been replaced, as an upgrade
/// does.
pub(super) fn without_deleted(path: &str) -> &str {
    path.strip_suffix(" (deleted)").unwrap_or(path)
}

/// The program file of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFile {
    /// Its path, in the mount namespace of the process.
    pub path: PathBuf,
    /// The user it belongs to.
    pub owner_uid: u32,
    /// Its permissions.
    pub mode: u32,
}

impl ProgramFile {
    /// Looks at the program file of a process, also one that has been replaced or that is in another
    /// mount namespace.
    ///
    /// # Errors
    /// [`ProcError::Ended`], also for a kernel thread; [`ProcError::Read`]: only root and the process's
    /// own user may know.
    pub fn of_process(pid: i32) -> Result<ProgramFile, ProcError> {
        let link = process_file(pid, "exe");
        let failed = |source: io::Error| read_error(&link, source);
        let path = fs::read_link(&link).map_err(failed)?;
        // Follows the link to the file itself, whatever is at the path by now.
        let file = fs::metadata(&link).map_err(failed)?;
        Ok(ProgramFile { path, owner_uid: file.uid(), mode: file.mode() })
    }

    /// Returns whether this is a QEMU that only root or the user `own_uid` can have put there.
    pub fn is_trusted_qemu(&self, own_uid: u32) -> bool {
        let owned = self.owner_uid == 0 || self.owner_uid == own_uid;
        let path = self.path.to_string_lossy();
        owned && self.mode & 0o022 == 0 && is_qemu(without_deleted(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &str, owner_uid: u32, mode: u32) -> ProgramFile {
        ProgramFile { path: path.into(), owner_uid, mode }
    }

    #[test]
    fn only_a_qemu_of_root_or_of_ones_own_that_others_cannot_write_is_trusted() {
        for (path, owner, mode, trusted) in [
            ("/usr/bin/qemu-system-x86_64", 0, 0o100_755, true),
            ("/usr/bin/qemu-system-x86_64 (deleted)", 0, 0o100_755, true),
            ("/nix/store/x/bin/.qemu-system-x86_64-wrapped", 0, 0o100_555, true),
            ("/usr/libexec/qemu-kvm", 0, 0o100_755, true),
            ("/home/me/qemu-system-x86_64", 1000, 0o100_755, true),
            ("/home/other/qemu-system-x86_64", 1001, 0o100_755, false),
            ("/usr/bin/qemu-system-x86_64", 0, 0o100_775, false),
            ("/usr/bin/qemu-system-x86_64", 0, 0o100_757, false),
            ("/usr/bin/python3.11", 0, 0o100_755, false),
            ("/usr/bin/qemu-img", 0, 0o100_755, false),
        ] {
            let found = program(path, owner, mode).is_trusted_qemu(1000);
            assert_eq!(found, trusted, "{path} of {owner}, {mode:o}");
        }
    }

    #[test]
    fn the_program_of_this_test_is_found_and_one_that_has_ended_is_not() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let own = ProgramFile::of_process(pid).unwrap();
        assert_eq!(own.path, std::env::current_exe().unwrap());
        assert!(matches!(ProgramFile::of_process(i32::MAX), Err(ProcError::Ended { .. })));
    }
}
