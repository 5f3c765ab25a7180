//! Reads a recording while it is being written: what was added since the last time.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use landfall_core::recording::{RecordingHeader, RecordingLine};

use super::read::{ReadError, read_head};

/// Most that is read at a time.
const PIECE: usize = 4 << 20;

/// A recording being followed.
#[derive(Debug)]
pub struct Following {
    path: PathBuf,
    /// Up to where it was read.
    position: u64,
    /// A line of which the end is not there yet.
    rest: Vec<u8>,
    /// Lines so far, the head included.
    lines: usize,
    /// What it was begun with, once that is written.
    pub head: Option<RecordingHeader>,
}

/// Why it cannot be followed.
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
    /// What is in it.
    #[error("{path}: {source}", path = path.display())]
    Contents {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ReadError,
    },
}

impl Following {
    /// From the beginning.
    pub fn new(path: &Path) -> Following {
        Following { path: path.to_owned(), position: 0, rest: Vec::new(), lines: 0, head: None }
    }

    /// How many lines were read so far.
    pub fn lines(&self) -> usize {
        self.lines
    }

    /// The lines that were added since the last time; none where there is no file yet, or no more.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn more(&mut self) -> Result<Vec<RecordingLine>, FollowError> {
        let mut lines = Vec::new();
        while self.read()? {
            self.take(&mut lines).map_err(|source| {
                let path = self.path.clone();
                FollowError::Contents { path, source }
            })?;
        }
        Ok(lines)
    }

    /// Reads on; whether there was more.
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
            if self.head.is_none() {
                self.head = Some(read_head(line)?);
                continue;
            }
            let number = self.lines;
            let line = serde_json::from_slice(line);
            lines.push(line.map_err(|problem| ReadError::Line { number, problem })?);
        }
        Ok(())
    }
}
