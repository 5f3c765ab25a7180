//! The folder of what lives only as long as landfall runs: locks, and the sockets it is spoken to by.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Its path: emptied at every boot, and nobody else's.
pub fn path() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(runtime) if !rustix::process::geteuid().is_root() => {
            Path::new(&runtime).join("landfall")
        }
        _ => PathBuf::from("/run/landfall"),
    }
}

/// Makes it where it is not there, for nobody but its owner.
///
/// # Errors
/// It cannot be made, or belongs to somebody else.
pub fn make() -> io::Result<PathBuf> {
    let path = path();
    keep_private(&path)?;
    Ok(path)
}

fn keep_private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        let problem = format!("{} belongs to somebody else; remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, problem));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700))?;
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
        keep_private(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        keep_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_link_that_somebody_laid_there_is_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (elsewhere, path) = (place.path().join("elsewhere"), place.path().join("landfall"));
        fs::create_dir(&elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(keep_private(&path).unwrap_err().to_string().contains("belongs to somebody else"));
    }
}
