//! Reads a recording, whichever version of landfall wrote it and however it ended.
//!
//! A line of an unknown kind is kept as [`RecordingLine::Unknown`], and a last line that was cut short by a crash is
//! dropped. Anything else that is not as it should be is an error with its line number.

use landfall_core::recording::{KIND, OLDEST_VERSION, RecordingHeader, RecordingLine, VERSION};
use landfall_core::vcpu_lists::MOST_VCPUS;
use serde_json::Value;

/// A recording, read whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// What the migration started with.
    pub head: RecordingHeader,
    /// What followed, each with its number in the file.
    pub lines: Vec<(usize, RecordingLine)>,
    /// The last line was cut short, and is not among the lines.
    pub cut: bool,
}

/// Why a file cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is empty.
    #[error(
        "nothing was recorded in it: the migration had not begun when landfall ended; record another"
    )]
    Empty,
    /// The file is something else.
    #[error(
        "it is not a recording of landfall, whose first line has \"kind\":\"{KIND}\"; name a file \
         that landfall migrate --record wrote"
    )]
    NotARecording,
    /// The form is older than this landfall can replay.
    #[error(
        "it has version {0} of the form, which cannot be replayed: what was in force at each look is \
         not in it. Record another with this landfall"
    )]
    TooOld(u64),
    /// The form is newer than this landfall knows.
    #[error(
        "it has version {0} of the form and this landfall knows {VERSION}: replay it with a landfall \
         at least as new as the one that wrote it"
    )]
    TooNew(u64),
    /// More vCPUs than any guest has; each would take memory.
    #[error("line 1: a guest of {0} vCPUs; the recording is damaged there")]
    Vcpus(usize),
    /// A line is not what it should be.
    #[error("line {number}: {problem}; the recording is damaged there")]
    Line {
        /// Which, the first being 1.
        number: usize,
        /// What is wrong with it.
        problem: serde_json::Error,
    },
}

impl Recording {
    /// Reads the contents of a file.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn read(bytes: &[u8]) -> Result<Recording, ReadError> {
        // The last piece is what follows the last line's end: nothing, or what a crash has left.
        let mut pieces: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
        let rest = pieces.pop().filter(|rest| !rest.is_empty());
        let mut whole = pieces.into_iter().enumerate().map(|(index, line)| (index + 1, line));
        let Some((_, first)) = whole.next() else {
            return Err(if bytes.is_empty() { ReadError::Empty } else { ReadError::NotARecording });
        };
        let head = read_head(first)?;
        let mut lines = Vec::new();
        for (number, line) in whole {
            lines.push((number, read_line(&head, number, line)?));
        }
        let number = lines.len() + 2;
        // It may be whole but for its end.
        let last = rest.map(|rest| read_line(&head, number, rest));
        let cut = matches!(last, Some(Err(_)));
        lines.extend(last.and_then(Result::ok).map(|line| (number, line)));
        Ok(Recording { head, lines, cut })
    }
}

/// Reads a line after the first.
pub(super) fn read_line(
    head: &RecordingHeader,
    number: usize,
    line: &[u8],
) -> Result<RecordingLine, ReadError> {
    let line = serde_json::from_slice(line);
    let line = line.map_err(|problem| ReadError::Line { number, problem })?;
    if let RecordingLine::Look(look) = &line {
        let holds = look.holds.as_ref().map_or(0, Vec::len);
        let decided = look.decision.as_ref().map_or(0, |decision| decision.holds.len());
        let vcpus = holds.max(decided).max(look.sample.vcpus.len());
        // Holds of many vCPUs that are held alike take a few bytes in the file, and more in memory.
        if vcpus > head.vcpus {
            let problem = format!("{vcpus} vCPUs, of a guest of {}", head.vcpus);
            let problem = serde::de::Error::custom(problem);
            return Err(ReadError::Line { number, problem });
        }
    }
    Ok(line)
}

/// Reads the first line.
pub(super) fn read_head(line: &[u8]) -> Result<RecordingHeader, ReadError> {
    let head: Value = serde_json::from_slice(line).map_err(|_| ReadError::NotARecording)?;
    if head["kind"] != KIND {
        return Err(ReadError::NotARecording);
    }
    match head["version"].as_u64() {
        Some(version) if version < u64::from(OLDEST_VERSION) => {
            return Err(ReadError::TooOld(version));
        }
        Some(version) if version > u64::from(VERSION) => return Err(ReadError::TooNew(version)),
        // Without a version it is no head, and says so by what is missing.
        _ => {}
    }
    let head: RecordingHeader =
        serde_json::from_value(head).map_err(|problem| ReadError::Line { number: 1, problem })?;
    if head.vcpus > MOST_VCPUS {
        return Err(ReadError::Vcpus(head.vcpus));
    }
    Ok(head)
}
