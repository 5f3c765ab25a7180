//! A file of the kernel's that is read many times a second.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Longer than any file that is kept: `cpu.stat` of cgroup v2 has about 300 bytes.
const LONGEST: usize = 4096;

/// A file that stays open from one read to the next: to open and close one takes four times as long as
/// to read it.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    file: RefCell<Option<File>>,
}

impl Kept {
    /// Opens nothing yet.
    pub(super) fn new(path: PathBuf) -> Kept {
        Kept { path, file: RefCell::new(None) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it now.
    ///
    /// # Errors
    /// Those of opening and of reading; of a file whose subject is gone, also if another has its name.
    pub(super) fn read(&self) -> io::Result<String> {
        let mut kept = self.file.borrow_mut();
        match kept.as_ref() {
            Some(file) => all_of(file),
            None => all_of(kept.insert(File::open(&self.path)?)),
        }
    }

    /// Closes it; the next read opens what has its name by then.
    pub(super) fn close(&self) {
        self.file.take();
    }
}

/// The kernel makes such a file anew whenever it is read from its begin.
fn all_of(file: &File) -> io::Result<String> {
    let mut bytes = [0; LONGEST];
    let length = file.read_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_always_what_there_is_now() {
        let tid = rustix::thread::gettid().as_raw_nonzero();
        let schedstat = Kept::new(format!("/proc/self/task/{tid}/schedstat").into());
        let ran = || schedstat.read().unwrap().split(' ').next().unwrap().parse::<u64>().unwrap();
        let before = ran();
        while ran() == before {}
        assert!(ran() > before);
    }

    #[test]
    fn one_whose_subject_is_gone_is_not_taken_for_the_next_of_its_name_until_it_is_closed() {
        let schedstat = Kept::new("/proc/thread-self/schedstat".into());
        let read_there = move || schedstat.read().map(|_| schedstat);
        let schedstat = std::thread::spawn(read_there).join().unwrap().unwrap();
        // A thread can be joined a moment before the kernel has forgotten it.
        while schedstat.read().is_ok() {
            std::thread::yield_now();
        }
        schedstat.close();
        assert!(schedstat.read().is_ok(), "that thread has ended, this one has not");
        assert!(Kept::new("/proc/self/no-such-file".into()).read().is_err());
    }
}
