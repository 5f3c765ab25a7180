//! What landfall has set in groups with limits of their own, in a file that outlives it.
//!
//! A group that is used in place belongs to another program, libvirt for example, and that may change the
//! limit while landfall holds the vCPU. What it has set stays: only values that landfall has set are put
//! back. So the last two of these are kept, two because the last may not have been written yet.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::group::BandwidthLimit;
use super::hierarchy::CgroupVersion;

/// The length of an entry in the file.
const ENTRY_BYTES: usize = 512;

/// What is known of the limit of one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitEntry {
    /// The limit to go back to: the one found, or the one that another program has set since then.
    pub(super) found: BandwidthLimit,
    /// What landfall has set: the time before, and last.
    pub(super) set: [Option<BandwidthLimit>; 2],
}

/// Where the entry of a group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPlace {
    /// The file.
    pub path: PathBuf,
    /// Which entry of it.
    pub index: usize,
}

/// The file with the entries of one guest's groups.
#[derive(Debug)]
pub(super) struct LimitJournal {
    file: File,
    pub(super) path: PathBuf,
}

impl LimitEntry {
    /// An entry of a group that has this limit, and in which nothing was set yet.
    pub(super) fn new(found: BandwidthLimit) -> LimitEntry {
        LimitEntry { found, set: [None; 2] }
    }

    /// Notes that this limit will be set.
    pub(super) fn note_set(&mut self, limit: BandwidthLimit) {
        self.set = [self.set[1], Some(limit)];
    }

    /// Takes over what another program has set since landfall's last change.
    pub(super) fn adopt(&mut self, now: BandwidthLimit, version: CgroupVersion) {
        self.found = self.target(now, version);
    }

    /// Returns the limit to go back to: of what is in force now, all that landfall has set is what it was
    /// before. v1 has quota and period in files of their own, each of which may have been set by itself.
    pub(super) fn target(&self, now: BandwidthLimit, version: CgroupVersion) -> BandwidthLimit {
        let set = || self.set.iter().flatten();
        let burst = match set().any(|set| set.burst == now.burst) {
            true => self.found.burst,
            false => now.burst,
        };
        let quota_is_ours = set().any(|set| set.quota == now.quota);
        let period_is_ours = set().any(|set| set.period == now.period);
        let (quota_is_ours, period_is_ours) = match version {
            CgroupVersion::V1 => (quota_is_ours, period_is_ours),
            CgroupVersion::V2 => [quota_is_ours && period_is_ours; 2].into(),
        };
        BandwidthLimit {
            quota: if quota_is_ours { self.found.quota } else { now.quota },
            period: if period_is_ours { self.found.period } else { now.period },
            burst,
        }
    }
}

impl LimitJournal {
    /// Makes the file, for so many groups.
    ///
    /// # Errors
    /// Those of making and writing it.
    pub(super) fn create(path: &Path, groups: usize) -> io::Result<LimitJournal> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(path)?;
        // Room for all entries now: the disk may be full later.
        file.write_all_at(&vec![b' '; ENTRY_BYTES * groups], 0)?;
        Ok(LimitJournal { file, path: path.to_owned() })
    }

    /// Writes the entry of a group.
    ///
    /// # Errors
    /// Those of writing.
    pub(super) fn write(&self, index: usize, entry: &LimitEntry) -> io::Result<()> {
        let mut text = serde_json::to_vec(entry)?;
        text.resize(ENTRY_BYTES, b' ');
        self.file.write_all_at(&text, (index * ENTRY_BYTES) as u64)
    }
}

/// What the file says of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum JournalAnswer {
    /// Nothing was ever set.
    Untouched,
    /// This was set.
    Entry(LimitEntry),
    /// The file cannot be read.
    Unreadable,
}

impl JournalPlace {
    pub(super) fn read(&self) -> JournalAnswer {
        let mut text = [0; ENTRY_BYTES];
        let read = File::open(&self.path)
            .and_then(|file| file.read_exact_at(&mut text, (self.index * ENTRY_BYTES) as u64));
        if read.is_err() {
            return JournalAnswer::Unreadable;
        }
        if text.iter().all(|byte| *byte == b' ') {
            return JournalAnswer::Untouched;
        }
        match serde_json::from_slice(text.trim_ascii()) {
            Ok(entry) => JournalAnswer::Entry(entry),
            Err(_) => JournalAnswer::Unreadable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(quota: u64, period: u64) -> BandwidthLimit {
        BandwidthLimit { quota: Some(quota), period, burst: 0 }
    }

    #[test]
    fn what_another_program_has_set_stays_and_the_rest_goes_back() {
        let mut entry = LimitEntry::new(limit(80_000, 100_000));
        entry.note_set(limit(2_000, 20_000));
        entry.note_set(limit(1_000, 20_000));
        let target = |now| entry.target(now, CgroupVersion::V1);
        assert_eq!(target(limit(1_000, 20_000)), limit(80_000, 100_000));
        assert_eq!(
            target(limit(2_000, 20_000)),
            limit(80_000, 100_000),
            "the last was not written"
        );
        assert_eq!(
            target(limit(70_000, 20_000)),
            limit(70_000, 100_000),
            "the quota alone is theirs"
        );
        assert_eq!(target(limit(70_000, 50_000)), limit(70_000, 50_000));
        // v2 has both in one file.
        assert_eq!(entry.target(limit(70_000, 20_000), CgroupVersion::V2), limit(70_000, 20_000));
    }

    #[test]
    fn an_entry_is_read_back_and_a_group_that_was_never_touched_is_known_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits");
        let journal = LimitJournal::create(&path, 3).unwrap();
        let mut entry = LimitEntry::new(limit(u64::MAX, u64::MAX));
        entry.note_set(limit(u64::MAX, u64::MAX));
        entry.note_set(limit(u64::MAX, u64::MAX));
        journal.write(1, &entry).unwrap();
        let read = |index| JournalPlace { path: path.clone(), index }.read();
        assert_eq!(read(0), JournalAnswer::Untouched);
        assert_eq!(read(1), JournalAnswer::Entry(entry));
        assert_eq!(read(7), JournalAnswer::Unreadable);
    }
}
