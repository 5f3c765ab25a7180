//! The QMP client of tests and experiments: blocking, and independent of landfall's own.
//!
//! What a test asserts or an experiment measures must not pass through the program under test. So this
//! client shares nothing with that of `landfall-qemu`, and QEMU gives it a socket of its own. A thread stamps
//! every answer and every event with the time of its arrival.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A connection to a QMP socket, past the greeting.
#[derive(Debug)]
pub struct RawQmp {
    stream: UnixStream,
    inbox: Arc<Inbox>,
    version: String,
    timeout: Duration,
    last_id: u64,
}

/// Why QEMU did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum RawQmpError {
    /// The socket failed, or nothing came in time.
    #[error("QMP socket")]
    Socket(#[from] io::Error),
    /// QEMU closed the connection.
    #[error("QEMU closed its QMP socket")]
    Closed,
    /// What came was not JSON.
    #[error("QEMU sent what is not JSON")]
    Json(#[from] serde_json::Error),
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's own words.
        description: String,
    },
    /// Something that was waited for did not come.
    #[error("no {what} from QEMU within {after:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        after: Duration,
    },
}

/// An event of QEMU.
#[derive(Debug, Clone)]
pub struct RawEvent {
    /// When it arrived.
    pub at: Instant,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

impl RawEvent {
    /// Returns whether it reports this status of a migration.
    pub fn is_migration_status(&self, status: &str) -> bool {
        self.name == "MIGRATION" && self.data["status"] == status
    }
}

/// An answer of QEMU.
#[derive(Debug, Clone)]
pub struct QmpAnswer {
    /// When the command was sent.
    pub asked: Instant,
    /// When the answer arrived.
    pub at: Instant,
    /// What the command returned.
    pub value: Value,
}

impl QmpAnswer {
    /// Returns the time from the command to the answer.
    pub fn took(&self) -> Duration {
        self.at - self.asked
    }
}

/// A command that was sent and whose answer can be waited for.
#[derive(Debug, Clone)]
pub struct SentCommand {
    id: u64,
    command: String,
    /// When it was sent.
    pub asked: Instant,
}

#[derive(Debug, Default)]
struct Inbox {
    received: Mutex<Received>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Received {
    answers: HashMap<u64, (Instant, Value)>,
    events: Vec<RawEvent>,
    /// Why nothing more comes.
    end: Option<RawQmpError>,
}

impl RawQmp {
    /// Connects and gets past the greeting. Each answer is waited for up to `timeout`.
    ///
    /// # Errors
    /// [`RawQmpError`] if nothing listens there, or it does not speak QMP.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<RawQmp, RawQmpError> {
        Self::connect_with(socket, timeout, json!({}))
    }

    /// Connects with the capability to send commands out of band ([`RawQmp::send_oob`]).
    ///
    /// # Errors
    /// As [`RawQmp::connect`].
    pub fn connect_oob(socket: &Path, timeout: Duration) -> Result<RawQmp, RawQmpError> {
        Self::connect_with(socket, timeout, json!({ "enable": ["oob"] }))
    }

    fn connect_with(
        socket: &Path,
        timeout: Duration,
        capabilities: Value,
    ) -> Result<RawQmp, RawQmpError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(timeout))?;
        stream.set_read_timeout(Some(timeout))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(RawQmpError::Closed);
        }
        let greeting: Value = serde_json::from_str(&line)?;
        // From here on a thread reads, and it waits for as long as the connection lasts.
        stream.set_read_timeout(None)?;
        let qemu = &greeting["QMP"]["version"]["qemu"];
        let version = format!("{}.{}.{}", qemu["major"], qemu["minor"], qemu["micro"]);
        let inbox = Arc::new(Inbox::default());
        let filled = Arc::clone(&inbox);
        // Made first: where it is dropped early the thread ends with the connection.
        let mut qmp = RawQmp { stream, inbox, version, timeout, last_id: 0 };
        thread::Builder::new().name("raw-qmp".to_owned()).spawn(move || filled.fill(reader))?;
        qmp.run_with("qmp_capabilities", capabilities)?;
        Ok(qmp)
    }

    /// Returns QEMU's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a command without arguments and returns what it returns.
    ///
    /// # Errors
    /// [`RawQmpError`]; QEMU's own refusal is one.
    pub fn run(&mut self, command: &str) -> Result<Value, RawQmpError> {
        self.run_with(command, json!({}))
    }

    /// Runs a command and returns what it returns.
    ///
    /// # Errors
    /// As [`RawQmp::run`].
    pub fn run_with(&mut self, command: &str, arguments: Value) -> Result<Value, RawQmpError> {
        Ok(self.ask(command, arguments)?.value)
    }

    /// Runs a command and returns the answer with its times.
    ///
    /// # Errors
    /// As [`RawQmp::run`].
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<QmpAnswer, RawQmpError> {
        let sent = self.send(command, arguments)?;
        let after = self.timeout;
        let what = || format!("answer to {command}");
        self.answer(&sent, after)?.ok_or_else(|| RawQmpError::Timeout { what: what(), after })
    }

    /// Sends a command without waiting for its answer.
    ///
    /// # Errors
    /// [`RawQmpError::Socket`].
    pub fn send(&mut self, command: &str, arguments: Value) -> Result<SentCommand, RawQmpError> {
        self.send_as("execute", command, arguments)
    }

    /// Sends a command that QEMU answers out of band.
    ///
    /// # Errors
    /// [`RawQmpError::Socket`].
    pub fn send_oob(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<SentCommand, RawQmpError> {
        self.send_as("exec-oob", command, arguments)
    }

    fn send_as(
        &mut self,
        key: &str,
        command: &str,
        arguments: Value,
    ) -> Result<SentCommand, RawQmpError> {
        self.last_id += 1;
        let id = self.last_id;
        let line = json!({ key: command, "arguments": arguments, "id": id }).to_string() + "\n";
        let asked = Instant::now();
        self.stream.write_all(line.as_bytes())?;
        Ok(SentCommand { id, command: command.to_owned(), asked })
    }

    /// Waits for an answer; `None` if there is none in time. It may be waited for again.
    ///
    /// # Errors
    /// [`RawQmpError`]; QEMU's own refusal is one.
    pub fn answer(
        &self,
        sent: &SentCommand,
        limit: Duration,
    ) -> Result<Option<QmpAnswer>, RawQmpError> {
        let found = self.wait(limit, |received| received.answers.remove(&sent.id))?;
        let Some((at, mut message)) = found else { return Ok(None) };
        if let Some(error) = message.get("error") {
            let description = error["desc"].as_str().unwrap_or("no reason given").to_owned();
            return Err(RawQmpError::Refused { command: sent.command.clone(), description });
        }
        Ok(Some(QmpAnswer { asked: sent.asked, at, value: message["return"].take() }))
    }

    /// Returns the first event so far, at or after a moment, that fits.
    pub fn find_event(&self, since: Instant, fits: impl Fn(&RawEvent) -> bool) -> Option<RawEvent> {
        let received = self.inbox.lock();
        received.events.iter().find(|event| event.at >= since && fits(event)).cloned()
    }

    /// Waits for an event at or after a moment that fits; `None` if there is none in time.
    ///
    /// # Errors
    /// [`RawQmpError`]: the connection has ended.
    pub fn event_within(
        &self,
        limit: Duration,
        since: Instant,
        fits: impl Fn(&RawEvent) -> bool,
    ) -> Result<Option<RawEvent>, RawQmpError> {
        let find = |received: &mut Received| {
            received.events.iter().find(|event| event.at >= since && fits(event)).cloned()
        };
        self.wait(limit, find)
    }

    /// Waits for an event of a name at or after a moment, and returns when it came.
    ///
    /// # Errors
    /// [`RawQmpError`]; [`RawQmpError::Timeout`] is one.
    pub fn wait_for_event(&self, name: &str, since: Instant) -> Result<Instant, RawQmpError> {
        let event = self.event_within(self.timeout, since, |event| event.name == name)?;
        event.map(|event| event.at).ok_or_else(|| self.timed_out(format!("event {name}")))
    }

    /// Waits until the migration has a status at or after a moment, and returns when it had.
    ///
    /// # Errors
    /// [`RawQmpError`]; [`RawQmpError::Timeout`] is one.
    pub fn wait_for_status(&self, status: &str, since: Instant) -> Result<Instant, RawQmpError> {
        let fits = |event: &RawEvent| event.is_migration_status(status);
        let event = self.event_within(self.timeout, since, fits)?;
        let what = || format!("migration status {status} (the last events: {})", self.history());
        event.map(|event| event.at).ok_or_else(|| self.timed_out(what()))
    }

    fn timed_out(&self, what: String) -> RawQmpError {
        RawQmpError::Timeout { what, after: self.timeout }
    }

    /// Returns the last events, the newest first.
    fn history(&self) -> String {
        let received = self.inbox.lock();
        let last = received.events.last().map(|event| event.at);
        let tell = |event: &RawEvent| {
            let before = last.map_or(0, |last| (last - event.at).as_millis());
            format!("-{before} ms {} {}", event.name, event.data)
        };
        received.events.iter().rev().take(12).map(tell).collect::<Vec<_>>().join("; ")
    }

    fn wait<T>(
        &self,
        limit: Duration,
        mut find: impl FnMut(&mut Received) -> Option<T>,
    ) -> Result<Option<T>, RawQmpError> {
        let until = Instant::now() + limit;
        let mut received = self.inbox.lock();
        loop {
            if let Some(found) = find(&mut received) {
                return Ok(Some(found));
            }
            if let Some(end) = &mut received.end {
                // The cause is told once; after that the connection is just closed.
                return Err(std::mem::replace(end, RawQmpError::Closed));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let woken = self.inbox.arrived.wait_timeout(received, left);
            received = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for RawQmp {
    fn drop(&mut self) {
        // Ends the reading thread, and lets QEMU serve the next client. An error means that QEMU has closed
        // the connection already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Inbox {
    /// Reads until the connection ends.
    fn fill(&self, reader: BufReader<UnixStream>) {
        let mut end = RawQmpError::Closed;
        for line in reader.lines() {
            let at = Instant::now();
            match line.map_err(RawQmpError::from).and_then(|line| Ok(serde_json::from_str(&line)?))
            {
                Ok(message) => self.lock().take(at, message),
                Err(error) => {
                    end = error;
                    break;
                }
            }
            self.arrived.notify_all();
        }
        self.lock().end = Some(end);
        self.arrived.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Received {
    fn take(&mut self, at: Instant, mut message: Value) {
        if let Some(id) = message["id"].as_u64() {
            self.answers.insert(id, (at, message));
        } else if let Some(name) = message["event"].as_str().map(str::to_owned) {
            self.events.push(RawEvent { at, name, data: message["data"].take() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A QMP server that greets, accepts the capabilities, and answers each further command with one line
    /// of the script, in which ID stands for the command's id. Then it closes.
    fn serve(script: &'static [&'static str]) -> (tempfile::TempDir, RawQmp) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let greeting = r#"{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":2}}}}"#;
            writeln!(stream, "{greeting}").unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            for answer in [&[r#"{"return":{},"id":ID}"#], script].concat() {
                let Some(Ok(command)) = lines.next() else { return };
                let command: Value = serde_json::from_str(&command).unwrap();
                writeln!(stream, "{}", answer.replace("ID", &command["id"].to_string())).unwrap();
            }
        });
        let qmp = RawQmp::connect(&socket, LIMIT).unwrap();
        (folder, qmp)
    }

    #[test]
    fn answers_and_events_are_told_apart() {
        let began = Instant::now();
        let (_folder, mut qmp) = serve(&[
            "{\"event\":\"MIGRATION\",\"data\":{\"status\":\"active\"}}\n{\"return\":7,\"id\":ID}",
        ]);
        assert_eq!(qmp.version(), "10.0.2");
        assert_eq!(qmp.run("query-something").unwrap(), 7);
        assert!(qmp.wait_for_status("active", began).unwrap() >= began);
        assert!(qmp.find_event(Instant::now(), |_| true).is_none());
    }

    #[test]
    fn a_refusal_a_broken_line_and_the_end_are_errors() {
        let (_folder, mut qmp) =
            serve(&[r#"{"error":{"desc":"not now"},"id":ID}"#, "{ \"return\": "]);
        let refused = qmp.run("stop").unwrap_err().to_string();
        assert_eq!(refused, "QEMU refused stop: not now");
        assert!(matches!(qmp.run("stop").unwrap_err(), RawQmpError::Json(_)));
        assert!(qmp.run("stop").is_err());
    }
}
