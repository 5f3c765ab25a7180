//! Turns of whatever uses a real QEMU: two of them and landfall fill two cores.

use std::env;
use std::fs::File;
use std::io;

use rustix::fs::{FlockOperation, flock};

/// Waits until nothing else on this machine, in whichever process, has its turn. The turn lasts until the
/// file is dropped.
///
/// # Errors
/// The lock, a file in the temporary directory, cannot be created or taken.
pub fn take_turn() -> io::Result<File> {
    let path = env::temp_dir().join("landfall-tests.lock");
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}
