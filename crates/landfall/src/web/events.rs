//! A running migration as server-sent events. Each event has all parts of the page that change, so a
//! browser that misses one loses nothing. Its id is the number of lines read of the recording: a browser
//! that reconnects sends the last id it saw, and gets an event only if there is more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use maud::Markup;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::charts::PageWidth;
use super::expected_course::{ExpectedCourse, find_expected_course};
use super::migrations::RecordedMigration;
use super::pages::layout::sentence;
use super::pages::migration_page::{self, MigrationPageData};
use super::timeline::MigrationTimeline;

/// How often the recording is read: about as often as a person can read the figures.
const READ_INTERVAL: Duration = Duration::from_millis(400);

/// How long a browser waits before it reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The source of the events for one browser.
struct EventSource {
    migration: RecordedMigration,
    /// `None` only while it is being read on another thread.
    timeline: Option<MigrationTimeline>,
    expected: Option<Arc<ExpectedCourse>>,
    tried_expected: bool,
    /// The id of the last event that the browser saw.
    last_id: Option<usize>,
    width: PageWidth,
    is_over: bool,
}

/// Returns the events of a migration for a browser that saw the event `last_id`.
pub fn follow_migration(
    migration: RecordedMigration,
    width: PageWidth,
    last_id: Option<usize>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let timeline = Some(MigrationTimeline::new(&migration.file));
    let source = EventSource {
        migration,
        timeline,
        expected: None,
        tried_expected: false,
        last_id,
        width,
        is_over: false,
    };
    let events = stream::unfold(source, |mut source| async move {
        let event = source.next_event().await?;
        Some((Ok(event), source))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

impl EventSource {
    /// Waits for the next event; `None` after the last one.
    async fn next_event(&mut self) -> Option<Event> {
        loop {
            if self.is_over {
                return None;
            }
            // Checked before the recording is read, so that the last lines of a landfall that ends in
            // between are read as well.
            let is_running = self.migration.is_running();
            let mut timeline = self.timeline.take()?;
            let (timeline, read) = spawn_blocking(move || {
                let read = timeline.read_new_lines();
                (timeline, read)
            })
            .await
            .ok()?;
            if let Err(error) = read {
                self.is_over = true;
                self.timeline = Some(timeline);
                return Some(Event::default().event("trouble").data(sentence(&error.to_string())));
            }
            let id = timeline.lines_read();
            self.timeline = Some(timeline);
            self.find_expected_course_once().await;
            if !is_running {
                self.is_over = true;
                return Some(Event::default().event("over").id(id.to_string()).data("over"));
            }
            if self.last_id != Some(id) {
                self.last_id = Some(id);
                let data = self.changing_parts()?.into_string();
                let event = Event::default().event("parts").id(id.to_string());
                return Some(event.retry(RECONNECT_DELAY).data(data));
            }
            sleep(READ_INTERVAL).await;
        }
    }

    async fn find_expected_course_once(&mut self) {
        let head = self.timeline.as_ref().and_then(|timeline| timeline.head().cloned());
        if let Some(head) = head.filter(|_| !self.tried_expected) {
            self.tried_expected = true;
            let found = spawn_blocking(move || find_expected_course(&head)).await;
            self.expected = found.ok().flatten().map(Arc::new);
        }
    }

    /// Renders the parts of the page that change.
    fn changing_parts(&self) -> Option<Markup> {
        let data = MigrationPageData {
            migration: &self.migration,
            timeline: self.timeline.as_ref()?,
            expected: self.expected.as_deref(),
            report: None,
            is_running: true,
        };
        Some(maud::html! {
            div id="state" { (migration_page::state_badge(&data)) }
            (migration_page::current_figures(&data))
            (migration_page::chart_card(&data, self.width))
        })
    }
}
