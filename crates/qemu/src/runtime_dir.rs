//! The directory of files that live only as long as landfall runs: locks and control sockets.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::procfs::Process;

/// Why the runtime directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeDirError {
    /// The directory cannot be made, looked at, or closed to other users.
    #[error("cannot make {path}: {source}; run landfall as root, or set XDG_RUNTIME_DIR", path = path.display())]
    Create {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// Something is there already that is not a directory of landfall's user, for example a symbolic
    /// link that another user made.
    #[error("{path} belongs to another user, or is not a directory; remove it", path = path.display())]
    Foreign {
        /// The path.
        path: PathBuf,
    },
}

/// Returns the path of the runtime directory: `/run/landfall`, or `landfall` in `XDG_RUNTIME_DIR` for
/// a user who is not root. Both are emptied at every boot.
pub fn path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !rustix::process::geteuid().is_root() => {
            Path::new(&runtime).join("landfall")
        }
        _ => PathBuf::from("/run/landfall"),
    }
}

/// Returns the path of a file in the runtime directory that belongs to the guest of a QEMU process.
pub fn guest_file(process: Process, extension: &str) -> PathBuf {
    let Process { pid, start_time_ticks } = process;
    path().join(format!("{pid}-{start_time_ticks}.{extension}"))
}

/// Returns the QEMU process to whose guest a file in the runtime directory belongs; `None` for another
/// file.
pub fn process_of_file(path: &Path) -> Option<Process> {
    let (pid, started) = path.file_stem()?.to_str()?.split_once('-')?;
    Some(Process { pid: pid.parse().ok()?, start_time_ticks: started.parse().ok()? })
}

/// Returns the QEMU processes of whose guests there is a file with this extension, in ascending order.
pub fn list_processes(extension: &str) -> Vec<Process> {
    let entries = fs::read_dir(path()).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut found: Vec<Process> = paths
        .filter(|path| path.extension().is_some_and(|it| it == extension))
        .filter_map(|path| process_of_file(&path))
        .collect();
    found.sort_by_key(|process| (process.pid, process.start_time_ticks));
    found
}

/// Makes the runtime directory if it is not there, accessible to landfall's user alone, and returns
/// its path.
///
/// # Errors
/// [`RuntimeDirError`].
pub fn create() -> Result<PathBuf, RuntimeDirError> {
    let path = path();
    create_private(&path)?;
    Ok(path)
}

fn create_private(path: &Path) -> Result<(), RuntimeDirError> {
    let failed = |source| RuntimeDirError::Create { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let found = fs::symlink_metadata(path).map_err(failed)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(RuntimeDirError::Foreign { path: path.to_owned() });
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_closed_to_others_even_if_it_was_open() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("new/landfall");
        create_private(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        create_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_symbolic_link_in_its_place_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (elsewhere, path) = (place.path().join("elsewhere"), place.path().join("landfall"));
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(matches!(create_private(&path), Err(RuntimeDirError::Foreign { .. })));
    }
}
