//! The migrations that are looked at, each read once for all pages that show it.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use landfall_migration::recording::follow::FollowError;
use landfall_qemu::mutex::lock_unpoisoned;
use tokio::task::spawn_blocking;

use super::expected_course::{ExpectedCourse, find_expected_course};
use super::page_error::PageError;
use super::timeline::MigrationTimeline;

/// Migrations that are remembered after a page has shown them.
const REMEMBERED: usize = 16;

/// A migration as its recording tells it so far, and what was expected of it.
pub struct ShownMigration {
    pub timeline: MigrationTimeline,
    pub expected: Option<ExpectedCourse>,
    tried_expected: bool,
}

/// Locked for as long as one page is drawn or new lines are read.
pub type SharedMigration = Arc<Mutex<ShownMigration>>;

/// What is read of recordings: a page that is opened again, or by many, reads only what is new.
#[derive(Default)]
pub struct MigrationTimelines {
    /// Those looked at last come first.
    remembered: Mutex<VecDeque<(PathBuf, SharedMigration)>>,
}

impl MigrationTimelines {
    /// Returns a migration with all that is written of its recording, read off the threads that answer
    /// requests.
    ///
    /// # Errors
    /// [`PageError::Recording`], [`PageError::Task`].
    pub async fn read(&self, recording: &Path) -> Result<SharedMigration, PageError> {
        let shown = self.get(recording);
        let updating = Arc::clone(&shown);
        let updated = spawn_blocking(move || lock_unpoisoned(&updating).update()).await;
        if !matches!(updated, Ok(Ok(()))) {
            // A second attempt would go on behind the damaged line.
            lock_unpoisoned(&self.remembered).retain(|(path, _)| path != recording);
        }
        updated??;
        Ok(shown)
    }

    /// Draws what is read of a migration, off the threads that answer requests: another page may be reading.
    ///
    /// # Errors
    /// [`PageError::Task`].
    pub async fn draw<T: Send + 'static>(
        shown: &SharedMigration,
        draw: impl FnOnce(&ShownMigration) -> T + Send + 'static,
    ) -> Result<T, PageError> {
        let shown = Arc::clone(shown);
        Ok(spawn_blocking(move || draw(&lock_unpoisoned(&shown))).await?)
    }

    fn get(&self, recording: &Path) -> SharedMigration {
        let mut remembered = lock_unpoisoned(&self.remembered);
        let found = remembered.iter().position(|(path, _)| path == recording);
        let entry = found.and_then(|at| remembered.remove(at)).unwrap_or_else(|| {
            let shown = ShownMigration {
                timeline: MigrationTimeline::new(recording),
                expected: None,
                tried_expected: false,
            };
            (recording.to_owned(), Arc::new(Mutex::new(shown)))
        });
        let shown = Arc::clone(&entry.1);
        remembered.push_front(entry);
        // One that a page follows is kept, so that it is not read again from its beginning.
        let mut kept = 0;
        remembered.retain(|(_, shown)| {
            kept += 1;
            kept <= REMEMBERED || Arc::strong_count(shown) > 1
        });
        shown
    }
}

impl ShownMigration {
    fn update(&mut self) -> Result<(), FollowError> {
        self.timeline.read_new_lines()?;
        if !self.tried_expected
            && let Some(head) = self.timeline.head()
        {
            self.expected = find_expected_course(head);
            self.tried_expected = true;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn a_recording_is_read_once_for_all_pages_and_only_so_many_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let timelines = MigrationTimelines::default();
        let path = |number: usize| folder.path().join(format!("{number}.jsonl"));
        let first = timelines.read(&path(0)).await.unwrap();
        assert!(Arc::ptr_eq(&first, &timelines.read(&path(0)).await.unwrap()));
        let read_others = async || {
            for number in 1..=REMEMBERED {
                timelines.read(&path(number)).await.unwrap();
            }
        };
        read_others().await;
        assert!(Arc::ptr_eq(&first, &timelines.read(&path(0)).await.unwrap()), "it is followed");
        let weak = Arc::downgrade(&first);
        drop(first);
        read_others().await;
        assert!(weak.upgrade().is_none());
    }

    #[tokio::test]
    async fn a_damaged_recording_is_an_error_for_each_page() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"a diary\n").unwrap();
        let timelines = MigrationTimelines::default();
        for _ in 0..2 {
            let read = timelines.read(file.path()).await;
            assert!(matches!(read, Err(PageError::Recording(_))));
        }
    }
}
