//! A QMP client that stamps every answer and event with the time of its arrival.
//!
//! Not landfall's own: what is measured here must not pass through the program under test. And not
//! the harness's `RawQmp`, which passes over events and waits for each answer.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;

/// Limit for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection to one monitor.
pub struct Monitor {
    stream: UnixStream,
    inbox: Arc<Inbox>,
    version: String,
    next_id: u64,
}

/// An event, with its arrival.
#[derive(Clone)]
pub struct Event {
    pub at: Instant,
    pub name: String,
    pub data: Value,
}

/// An answer, with when it was asked for and when it came.
pub struct Answer {
    pub asked: Instant,
    pub at: Instant,
    pub value: Value,
}

impl Answer {
    /// From the question to the answer.
    pub fn took(&self) -> Duration {
        self.at - self.asked
    }
}

/// A command sent, by its number.
#[derive(Clone, Copy)]
pub struct Ticket {
    id: u64,
    pub asked: Instant,
}

#[derive(Default)]
struct Inbox {
    mail: Mutex<Mail>,
    came: Condvar,
}

#[derive(Default)]
struct Mail {
    answers: HashMap<u64, (Instant, Value)>,
    events: Vec<Event>,
    closed: bool,
}

impl Monitor {
    /// Connects; with `oob` also for commands out of band.
    pub fn connect(socket: &Path, oob: bool) -> Outcome<Monitor> {
        let stream = UnixStream::connect(socket)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let greeting: Value = serde_json::from_str(&line)?;
        let qemu = &greeting["QMP"]["version"]["qemu"];
        let version = format!("{}.{}.{}", qemu["major"], qemu["minor"], qemu["micro"]);
        let inbox = Arc::new(Inbox::default());
        let its_inbox = inbox.clone();
        thread::spawn(move || its_inbox.fill(reader));
        let mut monitor = Monitor { stream, inbox, version, next_id: 0 };
        let enable = if oob { json!({ "enable": ["oob"] }) } else { json!({}) };
        monitor.ask_with("qmp_capabilities", enable)?;
        Ok(monitor)
    }

    /// QEMU's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Sends a command without waiting for its answer.
    pub fn send(&mut self, command: &str, arguments: Value) -> Outcome<Ticket> {
        self.send_as("execute", command, arguments)
    }

    /// Sends a command that QEMU is to answer out of band.
    pub fn send_oob(&mut self, command: &str, arguments: Value) -> Outcome<Ticket> {
        self.send_as("exec-oob", command, arguments)
    }

    fn send_as(&mut self, how: &str, command: &str, arguments: Value) -> Outcome<Ticket> {
        self.next_id += 1;
        let id = self.next_id;
        let line = json!({ how: command, "arguments": arguments, "id": id }).to_string() + "\n";
        let asked = Instant::now();
        self.stream.write_all(line.as_bytes())?;
        Ok(Ticket { id, asked })
    }

    /// Waits for an answer; `None` if there is none in time. It may be waited for again.
    pub fn answer(&self, ticket: Ticket, limit: Duration) -> Outcome<Option<Answer>> {
        let found = self.wait(limit, |mail| mail.answers.remove(&ticket.id))?;
        let Some((at, mut message)) = found else { return Ok(None) };
        if let Some(error) = message.get("error") {
            return Err(format!("QEMU refuses: {}", error["desc"]).into());
        }
        Ok(Some(Answer { asked: ticket.asked, at, value: message["return"].take() }))
    }

    /// Runs a command.
    pub fn ask_with(&mut self, command: &str, arguments: Value) -> Outcome<Answer> {
        let ticket = self.send(command, arguments)?;
        let answer = self.answer(ticket, PATIENCE)?;
        answer.ok_or_else(|| format!("{command} is not answered").into())
    }

    /// Runs a command without arguments.
    pub fn ask(&mut self, command: &str) -> Outcome<Answer> {
        self.ask_with(command, json!({}))
    }

    /// The first event at or after a moment that fits, if there is one by now.
    pub fn seen(&self, since: Instant, fits: impl Fn(&Event) -> bool) -> Option<Event> {
        self.inbox.lock().events.iter().find(|event| event.at >= since && fits(event)).cloned()
    }

    /// Waits for an event at or after a moment; `None` if there is none in time.
    pub fn event_within(
        &self,
        limit: Duration,
        since: Instant,
        fits: impl Fn(&Event) -> bool,
    ) -> Outcome<Option<Event>> {
        let found = |mail: &mut Mail| {
            mail.events.iter().find(|event| event.at >= since && fits(event)).cloned()
        };
        self.wait(limit, found)
    }

    /// Waits for an event of a name at or after a moment and says when it came.
    pub fn event(&self, name: &str, since: Instant) -> Outcome<Instant> {
        let event = self.event_within(PATIENCE, since, |event| event.name == name)?;
        Ok(event.ok_or_else(|| format!("no event {name}"))?.at)
    }

    /// Waits until the migration has a status, and says since when.
    pub fn status(&self, status: &str, since: Instant) -> Outcome<Instant> {
        let event = self.event_within(PATIENCE, since, |event| is_status(event, status))?;
        Ok(event.ok_or_else(|| format!("not {status}; {}", self.history()))?.at)
    }

    /// What has happened, for an error.
    fn history(&self) -> String {
        let mail = self.inbox.lock();
        let last = mail.events.last().map(|event| event.at);
        let tell = |event: &Event| {
            let before = last.map_or(0, |last| (last - event.at).as_millis());
            format!("-{before} ms {} {}", event.name, event.data)
        };
        mail.events.iter().rev().take(12).map(tell).collect::<Vec<_>>().join("; ")
    }

    fn wait<T>(
        &self,
        limit: Duration,
        mut look: impl FnMut(&mut Mail) -> Option<T>,
    ) -> Outcome<Option<T>> {
        let until = Instant::now() + limit;
        let mut mail = self.inbox.lock();
        loop {
            if let Some(found) = look(&mut mail) {
                return Ok(Some(found));
            }
            if mail.closed {
                return Err("QEMU closed its monitor".into());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let woken = self.inbox.came.wait_timeout(mail, left);
            mail = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // Ends the reader; an error means that QEMU has closed it already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }
}

/// Whether an event tells of a migration's status.
pub fn is_status(event: &Event, status: &str) -> bool {
    event.name == "MIGRATION" && event.data["status"] == status
}

impl Inbox {
    fn fill(&self, reader: BufReader<UnixStream>) {
        for line in reader.lines() {
            let at = Instant::now();
            let Ok(line) = line else { break };
            let Ok(mut message) = serde_json::from_str::<Value>(&line) else { break };
            let mut mail = self.lock();
            if let Some(id) = message["id"].as_u64() {
                mail.answers.insert(id, (at, message));
            } else if let Some(name) = message["event"].as_str().map(str::to_owned) {
                mail.events.push(Event { at, name, data: message["data"].take() });
            }
            drop(mail);
            self.came.notify_all();
        }
        self.lock().closed = true;
        self.came.notify_all();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Mail> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
