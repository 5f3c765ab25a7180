//! A migration as it goes, as events that a browser follows: each one the whole of what it replaces, so
//! that one that was missed costs nothing. Its number is how far the recording was read; a browser that
//! comes back says the last one it saw and is told only if there is more.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::{Stream, stream};
use maud::Markup;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::foreseen::{Foreseen, foreseen};
use super::migration_page::{self, Shown};
use super::migrations::Migration;
use super::pictures::Room;
use super::track::Track;

/// How often the recording is looked at: as often as somebody can read.
const EVERY: Duration = Duration::from_millis(400);

/// After how long a browser tries again.
const RETRY: Duration = Duration::from_secs(1);

/// A browser that follows.
struct Follower {
    migration: Migration,
    track: Option<Track>,
    foreseen: Option<Arc<Foreseen>>,
    foreseeing: bool,
    /// What the browser has seen.
    seen: Option<usize>,
    room: Room,
    over: bool,
}

/// What a browser follows that has seen the event of number `last`.
pub fn follow(
    migration: Migration,
    room: Room,
    last: Option<usize>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let track = Some(Track::new(&migration.file));
    let follower = Follower {
        migration,
        track,
        foreseen: None,
        foreseeing: false,
        seen: last,
        room,
        over: false,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok(event), follower))
    });
    Sse::new(events).keep_alive(KeepAlive::default())
}

impl Follower {
    /// The next event; `None` once it is over.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if self.over {
                return None;
            }
            // Asked before the recording is read: what a landfall writes before its end is then seen.
            let under_way = self.migration.is_under_way();
            let mut track = self.track.take()?;
            let (track, read) = spawn_blocking(move || {
                let read = track.read_on();
                (track, read)
            })
            .await
            .ok()?;
            if let Err(error) = read {
                self.over = true;
                self.track = Some(track);
                return Some(Event::default().event("trouble").data(error.to_string()));
            }
            let number = track.number();
            self.track = Some(track);
            self.foresee().await;
            if !under_way {
                self.over = true;
                return Some(Event::default().event("over").id(number.to_string()).data("over"));
            }
            if self.seen != Some(number) {
                self.seen = Some(number);
                let data = self.parts()?.into_string();
                let event = Event::default().event("parts").id(number.to_string());
                return Some(event.retry(RETRY).data(data));
            }
            sleep(EVERY).await;
        }
    }

    /// Finds out, once, what was to be expected.
    async fn foresee(&mut self) {
        let head = self.track.as_ref().and_then(|track| track.head().cloned());
        if let Some(head) = head.filter(|_| !self.foreseeing) {
            self.foreseeing = true;
            let found = spawn_blocking(move || foreseen(&head)).await;
            self.foreseen = found.ok().flatten().map(Arc::new);
        }
    }

    /// The parts of the page that change.
    fn parts(&self) -> Option<Markup> {
        let track = self.track.as_ref()?;
        let shown = Shown {
            migration: &self.migration,
            track,
            foreseen: self.foreseen.as_deref(),
            report: None,
            under_way: true,
        };
        Some(maud::html! {
            div id="state" { (migration_page::state(&shown)) }
            (migration_page::now(&shown))
            (migration_page::picture(&shown, self.room))
        })
    }
}
