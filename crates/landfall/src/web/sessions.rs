//! The browsers that are logged in.
//!
//! A browser gets a random number of its own as its cookie, not the token: what leaks from a browser ends
//! with its session, by a logout, by age, or with `landfall serve`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use landfall_qemu::mutex::lock_unpoisoned;

use super::token::{LoginToken, TokenError};

/// The most browsers that are logged in at a time; another one replaces the oldest. More than the
/// operators of one host have.
const MAX_SESSIONS: usize = 64;

/// How long a login lasts: a working day.
const MAX_AGE: Duration = Duration::from_secs(12 * 3600);

/// All sessions, oldest first.
#[derive(Default)]
pub struct LoginSessions(Mutex<VecDeque<LoginSession>>);

struct LoginSession {
    id: LoginToken,
    opened_at: Instant,
}

impl LoginSessions {
    /// Opens a session and returns its id.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn open(&self, now: Instant) -> Result<String, TokenError> {
        let id = LoginToken::generate()?;
        let text = id.as_str().to_owned();
        let mut sessions = lock_unpoisoned(&self.0);
        while sessions.len() >= MAX_SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(LoginSession { id, opened_at: now });
        Ok(text)
    }

    /// Returns whether a text is the id of a session that is not too old.
    pub fn contains(&self, text: &str, now: Instant) -> bool {
        let mut sessions = lock_unpoisoned(&self.0);
        sessions.retain(|session| now.saturating_duration_since(session.opened_at) < MAX_AGE);
        sessions.iter().any(|session| session.id.matches(text))
    }

    /// Ends the session of an id.
    pub fn close(&self, text: &str) {
        lock_unpoisoned(&self.0).retain(|session| !session.id.matches(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_by_logout_by_age_and_when_there_are_too_many() {
        let (sessions, start) = (LoginSessions::default(), Instant::now());
        let [closed, old] = [(), ()].map(|()| sessions.open(start).unwrap());
        assert!(sessions.contains(&closed, start) && !sessions.contains("", start));
        sessions.close(&closed);
        assert!(!sessions.contains(&closed, start) && sessions.contains(&old, start));
        assert!(!sessions.contains(&old, start + MAX_AGE));
        let first = sessions.open(start).unwrap();
        let last = (0..MAX_SESSIONS).map(|_| sessions.open(start).unwrap()).last().unwrap();
        assert!(!sessions.contains(&first, start) && sessions.contains(&last, start));
    }
}
