//! Reads the first and the last line of a recording without what is between.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use landfall_core::recording::{RecordingHeader, RecordingLine};

use super::read::read_head;

/// The longest first or last line that is read: a report and a head have a few kilobytes.
const LONGEST: u64 = 256 * 1024;

/// Returns the first and the last line, each as far as it is there and can be read.
pub fn first_and_last_line(path: &Path) -> (Option<RecordingHeader>, Option<RecordingLine>) {
    let Ok(mut file) = File::open(path) else { return (None, None) };
    let mut first = Vec::new();
    let read = BufReader::new((&file).take(LONGEST)).read_until(b'\n', &mut first);
    let head = read.ok().and_then(|_| read_head(first.trim_ascii_end()).ok());
    let size = file.metadata().map_or(0, |meta| meta.len());
    let mut end = Vec::new();
    let from = SeekFrom::Start(size.saturating_sub(LONGEST));
    let read = file.seek(from).and_then(|_| file.take(LONGEST).read_to_end(&mut end));
    let last = read.ok().and_then(|_| end.trim_ascii_end().rsplit(|byte| *byte == b'\n').next());
    (head, last.and_then(|line| serde_json::from_slice(line).ok()))
}
