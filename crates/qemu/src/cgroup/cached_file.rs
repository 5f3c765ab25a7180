//! A file of the kernel that is read many times a second.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// More than any such file has, in bytes: `cpu.stat` of cgroup v2 has about 300.
const MAX_FILE_BYTES: usize = 4096;

/// A file that stays open from one read to the next: opening and closing one takes four times as long as
/// reading it.
#[derive(Debug)]
pub(super) struct CachedFile {
    path: PathBuf,
    file: RefCell<Option<File>>,
}

impl CachedFile {
    /// Makes one for a path. The file is opened at the first read.
    pub(super) fn new(path: PathBuf) -> CachedFile {
        CachedFile { path, file: RefCell::new(None) }
    }

    /// Returns the path of the file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what is in the file now.
    ///
    /// # Errors
    /// Those of opening and reading. A file that was opened for a thread or group which is gone gives
    /// an error even if another thread or group has its path by now.
    pub(super) fn read(&self) -> io::Result<String> {
        let mut open = self.file.borrow_mut();
        match open.as_ref() {
            Some(file) => read_from_start(file),
            None => read_from_start(open.insert(File::open(&self.path)?)),
        }
    }

    /// Closes the file. The next read opens whatever has its path by then.
    pub(super) fn close(&self) {
        self.file.take();
    }
}

/// Reads the whole file. The kernel generates its contents at each read from offset 0.
fn read_from_start(file: &File) -> io::Result<String> {
    let mut bytes = [0; MAX_FILE_BYTES];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_read_gives_the_present_contents() {
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let schedstat = CachedFile::new(format!("/proc/self/task/{tid}/schedstat").into());
        let ran = || schedstat.read().unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
        let before = ran();
        while ran() == before {}
        assert!(ran() > before);
    }

    #[test]
    fn a_file_of_an_ended_thread_gives_an_error_until_it_is_closed() {
        let schedstat = CachedFile::new("/proc/thread-self/schedstat".into());
        let read_there = move || schedstat.read().map(|_| schedstat);
        let schedstat = std::thread::spawn(read_there).join().unwrap().unwrap();
        // A thread can be joined a moment before the kernel has removed it.
        while schedstat.read().is_ok() {
            std::thread::yield_now();
        }
        schedstat.close();
        assert!(schedstat.read().is_ok(), "that thread has ended, this one has not");
        assert!(CachedFile::new("/proc/self/no-such-file".into()).read().is_err());
    }
}
