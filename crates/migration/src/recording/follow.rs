//! Reads a recording while it is being written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use landfall_core::recording::{RecordingHeader, RecordingLine};

use super::read::{ReadError, read_head, read_line};

/// Most that is read at a time.
const PIECE: usize = 4 << 20;

/// A recording that is read while it is written.
#[derive(Debug)]
pub struct RecordingFollower {
    path: PathBuf,
    /// Offset up to which it was read.
    position: u64,
    /// The beginning of a line whose end is not written yet.
    rest: Vec<u8>,
    /// Lines so far, the head included.
    lines: usize,
    /// The first line, once it is written.
    pub head: Option<RecordingHeader>,
}

/// Why a recording cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The file cannot be read.
    #[error("{path}: {source}; the recording cannot be read", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something in the file is not as it should be.
    #[error("{path}: {source}", path = path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ReadError,
    },
}

impl RecordingFollower {
    /// Starts at the beginning of the file, which need not exist yet.
    pub fn new(path: &Path) -> RecordingFollower {
        RecordingFollower {
            path: path.to_owned(),
            position: 0,
            rest: Vec::new(),
            lines: 0,
            head: None,
        }
    }

    /// Returns the number of lines read so far, the head included.
    pub fn lines_read(&self) -> usize {
        self.lines
    }

    /// Returns the next lines, those of a few megabytes at most; `None` if the file does not exist yet or
    /// has not grown.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn read_next_lines(&mut self) -> Result<Option<Vec<RecordingLine>>, FollowError> {
        if !self.read()? {
            return Ok(None);
        }
        let mut lines = Vec::new();
        self.take(&mut lines).map_err(|source| {
            let path = self.path.clone();
            FollowError::Contents { path, source }
        })?;
        Ok(Some(lines))
    }

    /// Reads the next piece of the file; returns whether there was one.
    fn read(&mut self) -> Result<bool, FollowError> {
        let failed = |source| FollowError::File { path: self.path.clone(), source };
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(failed(error)),
        };
        file.seek(SeekFrom::Start(self.position)).map_err(failed)?;
        let read = file.take(PIECE as u64).read_to_end(&mut self.rest).map_err(failed)?;
        self.position += read as u64;
        Ok(read > 0)
    }

    fn take(&mut self, lines: &mut Vec<RecordingLine>) -> Result<(), ReadError> {
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else { return Ok(()) };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        for line in whole[..end].split(|byte| *byte == b'\n') {
            self.lines += 1;
            match &self.head {
                None => self.head = Some(read_head(line)?),
                Some(head) => lines.push(read_line(head, self.lines, line)?),
            }
        }
        Ok(())
    }
}
