//! A relay in front of a QEMU's monitor: a monitor that is slow, silent, closed, flooded, or that lies.
//!
//! It passes QMP line by line and serves one client at a time, as QEMU does, with a connection of its own to
//! QEMU for each. A line that is held back holds up what comes behind it, as a busy main loop does, unless
//! it is told to let others overtake it; out-of-band commands overtake always.
//!
//! What a client has sent is delivered even when the client is gone by then, and QEMU's answer is waited for
//! before the next client is served: the worst that a slow network or a busy QEMU can do.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{Shutdown, shutdown};
use serde_json::{Value, json};

use crate::endpoint::{Endpoint, EndpointListener, EndpointStream};

const BUFFER: usize = 64 * 1024;
/// After a connection that could not be taken.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
/// Lines of a flood are written in bundles as often as this.
const FLOOD_INTERVAL: Duration = Duration::from_millis(2);
/// The most lines of a flood in one bundle: a client that does not read is owed no more.
const FLOOD_BUNDLE: u64 = 10_000;

/// A relay in threads of its own. Ends, with its connections, when it is dropped.
#[derive(Debug)]
pub struct QmpRelay {
    at: Endpoint,
    shared: Arc<Shared>,
    listener: Arc<EndpointListener>,
    acceptor: Option<JoinHandle<()>>,
}

/// What a relay keeps back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBack {
    /// The command itself: QEMU does not get it yet.
    Command,
    /// QEMU's answer to it.
    Answer,
}

/// How a relay keeps a line back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldRule {
    /// For how long after its arrival; `None` until [`QmpRelay::release`].
    pub lasts: Option<Duration>,
    /// How many lines; `None` for all until [`QmpRelay::release`].
    pub lines: Option<u32>,
    /// Whether what comes behind may overtake it.
    pub overtaken: bool,
}

impl HoldRule {
    /// Keeps one line back for a while, and what comes behind it.
    pub fn once_for(lasts: Duration) -> HoldRule {
        HoldRule { lasts: Some(lasts), lines: Some(1), overtaken: false }
    }

    /// Keeps all back until told otherwise, and what comes behind.
    pub fn until_released() -> HoldRule {
        HoldRule { lasts: None, lines: None, overtaken: false }
    }

    /// Lets what comes behind overtake.
    pub fn overtaken(self) -> HoldRule {
        HoldRule { overtaken: true, ..self }
    }
}

/// What became of a command, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayStep {
    /// The client sent it.
    Sent,
    /// QEMU got it.
    Delivered,
    /// QEMU answered it.
    Answered,
    /// The client got the answer.
    Returned,
}

/// One step of one command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayedCommand {
    /// When.
    pub at: Instant,
    /// Its name.
    pub command: String,
    /// What became of it.
    pub step: RelayStep,
}

impl QmpRelay {
    /// Listens at `front` (port 0 for a free one) in place of the monitor at a Unix socket.
    ///
    /// # Errors
    /// `front` cannot be listened on.
    pub fn start(front: Endpoint, qemu: impl Into<PathBuf>) -> io::Result<QmpRelay> {
        let listener = Arc::new(EndpointListener::bind(&front)?);
        let at = listener.at(front)?;
        let shared = Arc::new(Shared::default());
        let qemu = Endpoint::Unix(qemu.into());
        let work = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            move || serve_all(&listener, &qemu, &shared)
        };
        let acceptor = thread::Builder::new().name("qmp-relay".to_owned()).spawn(work)?;
        Ok(QmpRelay { at, shared, listener, acceptor: Some(acceptor) })
    }

    /// Where it listens; as text, the address of a monitor.
    pub fn endpoint(&self) -> &Endpoint {
        &self.at
    }

    /// Keeps a command, or QEMU's answer to it, back from now on.
    pub fn hold(&self, what: HeldBack, command: &str, rule: HoldRule) {
        self.shared.change(|state| {
            state.last_rule += 1;
            let (id, command) = (state.last_rule, command.to_owned());
            state.rules.push(Rule { id, what, command, lasts: rule.lasts, rule });
        });
    }

    /// Lets go what was kept back of a command, and keeps nothing of it back any more.
    pub fn release(&self, command: &str) {
        self.shared.change(|state| state.rules.retain(|rule| rule.command != command));
    }

    /// Drops every answer to a command from now on.
    pub fn drop_answers(&self, command: &str) {
        self.shared.change(|state| _ = state.lies.insert(command.to_owned(), None));
    }

    /// Has every answer to a command return this from now on: a liar.
    pub fn replace_answers(&self, command: &str, value: Value) {
        self.shared.change(|state| _ = state.lies.insert(command.to_owned(), Some(value)));
    }

    /// Delays every line, both ways.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.change(|state| state.delay = delay);
    }

    /// Passes nothing at all, both ways, connections left open; or goes on.
    pub fn set_silent(&self, silent: bool) {
        self.shared.change(|state| state.silent = silent);
    }

    /// Takes no more clients, or does again. One that connects meanwhile is closed at once.
    pub fn set_refusing(&self, refusing: bool) {
        self.shared.change(|state| state.refusing = refusing);
    }

    /// Closes the connection there is. What was under way is lost.
    pub fn disconnect(&self) {
        self.shared.change(State::break_connection);
    }

    /// Sends a line to the client, whatever is in it.
    pub fn inject(&self, line: &str) {
        let line = format!("{line}\n").into_bytes();
        self.shared.change(|state| state.injected.push_back(line));
    }

    /// Sends a line to the client so many times a second; 0 ends it.
    pub fn flood(&self, line: &str, per_second: u64) {
        let line = format!("{line}\n").into_bytes();
        let flood = (per_second > 0).then(|| Flood { line, per_second, sent_to: Instant::now() });
        self.shared.change(|state| state.flood = flood);
    }

    /// Takes all of that back: passes lines as they come, to whichever client connects.
    pub fn heal(&self) {
        self.shared.change(|state| {
            state.rules.clear();
            state.lies.clear();
            state.injected.clear();
            (state.silent, state.refusing, state.flood) = (false, false, None);
            state.delay = Duration::ZERO;
        });
    }

    /// Returns what passed so far, in order.
    pub fn log(&self) -> Vec<RelayedCommand> {
        self.shared.lock().log.clone()
    }

    /// Waits for a step of a command at or after a moment, and returns when it was; `None` if it is not
    /// made in time.
    pub fn wait_for(
        &self,
        command: &str,
        step: RelayStep,
        since: Instant,
        limit: Duration,
    ) -> Option<Instant> {
        let until = Instant::now() + limit;
        let fits =
            |it: &&RelayedCommand| it.at >= since && it.step == step && it.command == command;
        let mut state = self.shared.lock();
        loop {
            if let Some(found) = state.log.iter().find(fits) {
                return Some(found.at);
            }
            let left = until.checked_duration_since(Instant::now())?;
            let woken = self.shared.changed.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for QmpRelay {
    fn drop(&mut self) {
        self.shared.change(|state| {
            state.ended = true;
            state.break_connection();
        });
        // Wakes the acceptor, which then finds its listener shut.
        let _ = shutdown(self.listener.as_fd(), Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        if let Endpoint::Unix(path) = &self.at {
            let _ = std::fs::remove_file(path);
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    last_rule: u64,
    /// What is returned instead of the answer to a command; `None` for no answer.
    lies: HashMap<String, Option<Value>>,
    delay: Duration,
    silent: bool,
    refusing: bool,
    ended: bool,
    injected: VecDeque<Vec<u8>>,
    flood: Option<Flood>,
    log: Vec<RelayedCommand>,
    /// The connection being served.
    open: Option<Connection>,
}

#[derive(Debug)]
struct Connection {
    client: Arc<EndpointStream>,
    qemu: Arc<EndpointStream>,
    to_qemu: VecDeque<Line>,
    to_client: VecDeque<Line>,
    /// Commands that QEMU has and has not answered: their ids and names.
    unanswered: Vec<(Value, String)>,
    client_gone: bool,
    qemu_gone: bool,
    broken: bool,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    what: HeldBack,
    command: String,
    lasts: Option<Duration>,
    rule: HoldRule,
}

#[derive(Debug)]
struct Flood {
    line: Vec<u8>,
    per_second: u64,
    sent_to: Instant,
}

#[derive(Debug)]
struct Line {
    arrived: Instant,
    text: Vec<u8>,
    /// The command that it is, or answers.
    command: Option<String>,
    id: Value,
    out_of_band: bool,
    /// The rule that holds it, for as long as there is that rule.
    held_by: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    ToQemu,
    ToClient,
}

/// What a writing thread is to do next.
enum Next {
    Write(Vec<u8>),
    End,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Waits for what is to be written next.
    fn next(&self, way: Way) -> Next {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if let Some(next) = state.next(way, now) {
                drop(state);
                self.changed.notify_all();
                return next;
            }
            let wait = state.wait(way, now);
            let woken = self.changed.wait_timeout(state, wait);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn break_connection(&mut self) {
        if let Some(open) = &mut self.open {
            open.broken = true;
            open.to_qemu.clear();
            open.to_client.clear();
            let _ = shutdown(open.client.as_fd(), Shutdown::Both);
            let _ = shutdown(open.qemu.as_fd(), Shutdown::Both);
        }
    }

    fn note(&mut self, at: Instant, command: &str, step: RelayStep) {
        self.log.push(RelayedCommand { at, command: command.to_owned(), step });
    }

    /// Returns the rule that holds a line that has just come, and counts the line.
    fn find_rule(&mut self, what: HeldBack, command: Option<&str>) -> Option<u64> {
        let fits = |rule: &&mut Rule| {
            rule.what == what
                && Some(rule.command.as_str()) == command
                && rule.rule.lines != Some(0)
        };
        let rule = self.rules.iter_mut().find(fits)?;
        rule.rule.lines = rule.rule.lines.map(|lines| lines - 1);
        Some(rule.id)
    }

    /// Takes in a line of the client.
    fn take_command(&mut self, text: Vec<u8>, at: Instant) {
        let parsed: Value = serde_json::from_slice(&text).unwrap_or_default();
        let out_of_band = parsed["exec-oob"].is_string();
        let name = if out_of_band { &parsed["exec-oob"] } else { &parsed["execute"] };
        let command = name.as_str().map(str::to_owned);
        let id = parsed["id"].clone();
        if let Some(command) = &command {
            self.note(at, command, RelayStep::Sent);
        }
        let held_by = self.find_rule(HeldBack::Command, command.as_deref());
        let line = Line { arrived: at, text, command, id, out_of_band, held_by };
        if let Some(open) = &mut self.open {
            open.to_qemu.push_back(line);
        }
    }

    /// Takes in a line of QEMU: a greeting, an event, or an answer.
    fn take_answer(&mut self, mut text: Vec<u8>, at: Instant) {
        let parsed: Value = serde_json::from_slice(&text).unwrap_or_default();
        let is_answer = parsed.get("return").is_some() || parsed.get("error").is_some();
        let Some(open) = &mut self.open else { return };
        let asked = open.unanswered.iter().position(|(id, _)| is_answer && *id == parsed["id"]);
        let command = asked.map(|asked| open.unanswered.remove(asked).1);
        if let Some(command) = &command {
            self.note(at, command, RelayStep::Answered);
            match self.lies.get(command) {
                Some(None) => return,
                Some(Some(value)) => {
                    let lie = json!({ "return": value, "id": parsed["id"] });
                    text = format!("{lie}\n").into_bytes();
                }
                None => {}
            }
        }
        let held_by = self.find_rule(HeldBack::Answer, command.as_deref());
        let id = parsed["id"].clone();
        let line = Line { arrived: at, text, command, id, out_of_band: false, held_by };
        if let Some(open) = &mut self.open {
            open.to_client.push_back(line);
        }
    }

    fn next(&mut self, way: Way, now: Instant) -> Option<Next> {
        let open = self.open.as_ref()?;
        if open.broken {
            return Some(Next::End);
        }
        if way == Way::ToClient && !self.silent {
            if let Some(line) = self.injected.pop_front() {
                return Some(Next::Write(line));
            }
            if let Some(bundle) = self.flood.as_mut().and_then(|flood| flood.bundle(now)) {
                return Some(Next::Write(bundle));
            }
        }
        if let Some(line) = self.take_due(way, now) {
            return Some(Next::Write(line.text));
        }
        let open = self.open.as_ref()?;
        let is_over = match way {
            Way::ToQemu => {
                let is_done = open.to_qemu.is_empty() && open.unanswered.is_empty();
                open.qemu_gone || open.client_gone && is_done
            }
            Way::ToClient => open.qemu_gone && open.to_client.is_empty(),
        };
        is_over.then_some(Next::End)
    }

    /// Takes the first line that may pass out of its queue.
    fn take_due(&mut self, way: Way, now: Instant) -> Option<Line> {
        let State { rules, open, silent, delay, .. } = self;
        if *silent {
            return None;
        }
        let open = open.as_mut()?;
        let queue = match way {
            Way::ToQemu => &mut open.to_qemu,
            Way::ToClient => &mut open.to_client,
        };
        let mut may_overtake = true;
        let mut due = None;
        for (at, line) in queue.iter().enumerate() {
            let rule = line.held_by.and_then(|id| rules.iter().find(|rule| rule.id == id));
            let is_held =
                rule.is_some_and(|rule| rule.lasts.is_none_or(|lasts| line.arrived + lasts > now));
            let may_pass = may_overtake || line.out_of_band;
            if may_pass && !is_held && line.arrived + *delay <= now {
                due = Some(at);
                break;
            }
            may_overtake &= rule.is_some_and(|rule| rule.rule.overtaken);
        }
        let line = queue.remove(due?)?;
        if let Some(command) = &line.command {
            let step = match way {
                Way::ToQemu => {
                    open.unanswered.push((line.id.clone(), command.clone()));
                    RelayStep::Delivered
                }
                Way::ToClient => RelayStep::Returned,
            };
            self.note(now, command, step);
        }
        Some(line)
    }

    /// How long a writing thread may sleep if nothing changes.
    fn wait(&self, way: Way, now: Instant) -> Duration {
        let Some(open) = &self.open else { return FLOOD_INTERVAL };
        if self.flood.is_some() && way == Way::ToClient {
            return FLOOD_INTERVAL;
        }
        let queue = if way == Way::ToQemu { &open.to_qemu } else { &open.to_client };
        let due = |line: &Line| {
            let rule = line.held_by.and_then(|id| self.rules.iter().find(|rule| rule.id == id));
            let held = match rule {
                Some(rule) => rule.lasts?,
                None => Duration::ZERO,
            };
            Some(line.arrived + held.max(self.delay))
        };
        let next = queue.iter().filter_map(due).filter(|due| *due > now).min();
        // Whatever else is changed wakes it.
        next.map_or(Duration::from_secs(3600), |next| next - now)
    }
}

impl Flood {
    fn bundle(&mut self, now: Instant) -> Option<Vec<u8>> {
        let elapsed = now.saturating_duration_since(self.sent_to);
        let lines = (elapsed.as_secs_f64() * self.per_second as f64) as u64;
        if elapsed < FLOOD_INTERVAL || lines == 0 {
            return None;
        }
        self.sent_to = now;
        Some(self.line.repeat(usize::try_from(lines.min(FLOOD_BUNDLE)).unwrap_or_default()))
    }
}

fn serve_all(listener: &EndpointListener, qemu: &Endpoint, shared: &Shared) {
    while !shared.lock().ended {
        let Ok(client) = listener.accept() else {
            thread::sleep(ACCEPT_RETRY);
            continue;
        };
        if shared.lock().refusing {
            continue;
        }
        // A QEMU that is gone: the client is closed, as by a QEMU that is gone.
        let Ok(qemu) = EndpointStream::connect(qemu) else { continue };
        serve(Arc::new(client), Arc::new(qemu), shared);
    }
}

/// Serves one client until it is gone and what it sent is answered, or QEMU is gone.
fn serve(client: Arc<EndpointStream>, qemu: Arc<EndpointStream>, shared: &Shared) {
    shared.change(|state| {
        state.open = Some(Connection {
            client: Arc::clone(&client),
            qemu: Arc::clone(&qemu),
            to_qemu: VecDeque::new(),
            to_client: VecDeque::new(),
            unanswered: Vec::new(),
            client_gone: false,
            qemu_gone: false,
            broken: state.ended,
        });
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            read_lines(&client, |line, at| shared.change(|state| state.take_command(line, at)));
            shared.change(|state| _ = state.open.as_mut().map(|open| open.client_gone = true));
        });
        scope.spawn(|| {
            read_lines(&qemu, |line, at| shared.change(|state| state.take_answer(line, at)));
            shared.change(|state| _ = state.open.as_mut().map(|open| open.qemu_gone = true));
        });
        scope.spawn(|| {
            // A client that is gone loses what is for it.
            write_lines(&client, Way::ToClient, shared);
            let _ = shutdown(client.as_fd(), Shutdown::Both);
        });
        write_lines(&qemu, Way::ToQemu, shared);
        let _ = shutdown(qemu.as_fd(), Shutdown::Both);
    });
    shared.change(|state| state.open = None);
}

fn write_lines(to: &EndpointStream, way: Way, shared: &Shared) {
    while let Next::Write(text) = shared.next(way) {
        let _ = to.write_all(&text);
    }
}

/// Reads lines, with their line feeds, until the connection ends.
fn read_lines(from: &EndpointStream, mut take: impl FnMut(Vec<u8>, Instant)) {
    let mut buffer = vec![0; BUFFER];
    let mut line = Vec::new();
    loop {
        let got = match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        let at = Instant::now();
        for part in buffer[..got].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(part);
            if line.ends_with(b"\n") {
                take(std::mem::take(&mut line), at);
            }
        }
    }
}

#[cfg(test)]
mod tests;
