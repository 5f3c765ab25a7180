//! A running migration as server-sent events. Each event has all parts of the page that change, so a
//! browser that misses one loses nothing. Its id is the number of lines read of the recording: a browser
//! that reconnects sends the last id it saw, and gets an event only if there is more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use maud::Markup;
use tokio::time::sleep;

use super::WebState;
use super::charts::PageWidth;
use super::migrations::RecordedMigration;
use super::page_error::PageError;
use super::pages::layout::sentence;
use super::pages::migration_page::{self, MigrationPageData};
use super::timelines::{MigrationTimelines, SharedMigration, ShownMigration};

/// How often the recording is read: about as often as a person can read the figures.
const READ_INTERVAL: Duration = Duration::from_millis(400);

/// How long a browser waits before it reconnects.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The source of the events for one browser.
struct EventSource {
    state: Arc<WebState>,
    migration: Arc<RecordedMigration>,
    /// Held, so that the recording stays in memory while it is followed.
    shown: Option<SharedMigration>,
    /// The id of the last event that the browser saw.
    last_id: Option<usize>,
    width: PageWidth,
    is_over: bool,
}

/// Returns the events of a migration for a browser that saw the event `last_id`.
pub fn follow_migration(
    state: Arc<WebState>,
    migration: RecordedMigration,
    width: PageWidth,
    last_id: Option<usize>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let migration = Arc::new(migration);
    let source = EventSource { state, migration, shown: None, last_id, width, is_over: false };
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
            let (id, parts) = match self.read_parts().await {
                Ok(read) => read,
                Err(error) => {
                    self.is_over = true;
                    let event = Event::default().event("trouble");
                    return Some(event.data(sentence(&error.to_string())));
                }
            };
            if !is_running {
                self.is_over = true;
                return Some(Event::default().event("over").id(id.to_string()).data("over"));
            }
            if let Some(parts) = parts {
                self.last_id = Some(id);
                let event = Event::default().event("parts").id(id.to_string());
                return Some(event.retry(RECONNECT_DELAY).data(parts.into_string()));
            }
            sleep(READ_INTERVAL).await;
        }
    }

    /// Reads what is new. Returns its id, and the parts of the page that change if the browser has not seen
    /// that one.
    async fn read_parts(&mut self) -> Result<(usize, Option<Markup>), PageError> {
        let shown = self.state.timelines.read(&self.migration.file).await?;
        let (migration, width, last_id) = (Arc::clone(&self.migration), self.width, self.last_id);
        let drawn = MigrationTimelines::draw(&shown, move |shown| {
            let id = shown.timeline.lines_read();
            let is_new = last_id != Some(id);
            (id, is_new.then(|| changing_parts(&migration, shown, width)))
        });
        let drawn = drawn.await;
        self.shown = Some(shown);
        drawn
    }
}

/// Renders the parts of the page that change.
fn changing_parts(
    migration: &RecordedMigration,
    shown: &ShownMigration,
    width: PageWidth,
) -> Markup {
    let data = MigrationPageData {
        migration,
        timeline: &shown.timeline,
        expected: shown.expected.as_ref(),
        report: None,
        is_running: true,
    };
    maud::html! {
        div id="state" { (migration_page::state_badge(&data)) }
        (migration_page::current_figures(&data))
        (migration_page::chart_card(&data, width))
    }
}
