//! A thin client of QMP, QEMU's monitor protocol: lines of JSON over a socket.
//!
//! Every wait has a limit. Fields and events it does not know are let through. One task reads the
//! socket and stamps each event with the time of its arrival, so that how long a caller takes to
//! look does not matter to a measurement.

mod address;
mod error;
mod message;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::mutex::lock;

pub use address::{Address, BadAddress};
pub use error::QmpError;
pub use message::{Event, Greeting, Message, MessageError};

/// Limit for connecting, and for the greeting after it.
const CONNECT: Duration = Duration::from_secs(5);

/// Limit for an answer. A monitor is answered by QEMU's main loop, which a busy host or a held vCPU
/// that owns the big lock can keep waiting for a second or two (`docs/measurements/`).
pub const ANSWER: Duration = Duration::from_secs(5);

/// Longest line taken: `query-qmp-schema`, the longest answer known, is a few hundred kB.
const LONGEST_LINE: u64 = 16 << 20;

/// An answer that is awaited, or the error QEMU gave.
type Answer = Result<Value, message::Refusal>;

/// Commands sent and not yet answered; `None` once the connection is closed.
type Waiting = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A connection to one monitor, with its capabilities negotiated.
#[derive(Debug)]
pub struct Qmp {
    address: Address,
    peer: Option<i32>,
    out_of_band: bool,
    lines: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Waiting,
    next_id: u64,
    tasks: [tokio::task::AbortHandle; 2],
}

/// Events as they come in. Closed when the connection is.
pub type Events = mpsc::UnboundedReceiver<Event>;

impl Qmp {
    /// Connects, reads the greeting and negotiates, out-of-band commands included where offered.
    ///
    /// # Errors
    /// Nobody listens, nobody greets (another client may hold the monitor), or it is not QMP.
    pub async fn connect(address: &Address) -> Result<(Qmp, Events), QmpError> {
        let failed = |source| QmpError::Connect { address: address.clone(), source };
        let late = |_| failed(std::io::ErrorKind::TimedOut.into());
        match address {
            Address::Unix(path) => {
                let stream = timeout(CONNECT, UnixStream::connect(path)).await.map_err(late)?;
                let stream = stream.map_err(failed)?;
                let peer = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let (read, write) = stream.into_split();
                let (mut qmp, events) = Self::negotiate(address, read, write).await?;
                qmp.peer = peer;
                Ok((qmp, events))
            }
            Address::Tcp(host_port) => {
                let stream = timeout(CONNECT, TcpStream::connect(host_port.as_str()));
                let (read, write) = stream.await.map_err(late)?.map_err(failed)?.into_split();
                Self::negotiate(address, read, write).await
            }
        }
    }

    /// Where the monitor is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The process that made the socket, where the kernel tells: QEMU, or who started it.
    pub fn peer(&self) -> Option<i32> {
        self.peer
    }

    /// Runs a command and waits for its answer for [`ANSWER`].
    ///
    /// # Errors
    /// [`QmpError::Refused`] with QEMU's words, [`QmpError::Silent`], [`QmpError::Closed`].
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.start(command, arguments)?.within(ANSWER).await
    }

    /// Sends a command; its answer can be awaited later.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub fn start(&mut self, command: &str, arguments: Value) -> Result<Pending, QmpError> {
        self.send("execute", command, arguments)
    }

    /// Runs a command that QEMU answers even while its main loop is blocked, as it is for the whole
    /// final copy of a migration.
    ///
    /// # Errors
    /// As for [`Qmp::execute`]; [`QmpError::NoOutOfBand`] where QEMU does not offer it.
    pub async fn execute_out_of_band(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<Value, QmpError> {
        if !self.out_of_band {
            return Err(QmpError::NoOutOfBand { address: self.address.clone() });
        }
        self.send("exec-oob", command, arguments)?.within(ANSWER).await
    }

    fn send(&mut self, how: &str, command: &str, arguments: Value) -> Result<Pending, QmpError> {
        self.next_id += 1;
        let mut request = json!({ how: command, "id": self.next_id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let mut line = request.to_string().into_bytes();
        line.push(b'\n');
        let (answer, answered) = oneshot::channel();
        let closed =
            || QmpError::Closed { address: self.address.clone(), command: command.to_owned() };
        lock(&self.waiting).as_mut().ok_or_else(closed)?.insert(self.next_id, answer);
        self.lines.send(line).map_err(|_| closed())?;
        Ok(Pending {
            address: self.address.clone(),
            command: command.to_owned(),
            since: Instant::now(),
            answered,
        })
    }

    async fn negotiate(
        address: &Address,
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(Qmp, Events), QmpError> {
        let mut read = BufReader::new(read);
        let silent = |_| QmpError::NoGreeting { address: address.clone(), waited: CONNECT };
        let not_qmp = |got: String| QmpError::NotQmp { address: address.clone(), got };
        let line = timeout(CONNECT, read_line(&mut read)).await.map_err(silent)?;
        let line = line.map_err(|error| not_qmp(error.to_string()))?;
        let line = line.ok_or_else(|| not_qmp("end of stream".to_owned()))?;
        let greeting = match Message::parse(&line) {
            Ok(Message::Greeting(greeting)) => greeting,
            _ => return Err(not_qmp(excerpt(&line))),
        };
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let (event, events) = mpsc::unbounded_channel();
        let (lines, to_write) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read_all(read, Arc::clone(&waiting), event)).abort_handle();
        let writer = tokio::spawn(write_all(write, to_write)).abort_handle();
        let out_of_band = greeting.offers("oob");
        let mut qmp = Qmp {
            address: address.clone(),
            peer: None,
            out_of_band,
            lines,
            waiting,
            next_id: 0,
            tasks: [reader, writer],
        };
        let enable = if out_of_band { json!({ "enable": ["oob"] }) } else { Value::Null };
        qmp.execute("qmp_capabilities", enable).await?;
        Ok((qmp, events))
    }
}

impl Drop for Qmp {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// A command that was sent.
#[derive(Debug)]
pub struct Pending {
    address: Address,
    command: String,
    since: Instant,
    answered: oneshot::Receiver<Answer>,
}

impl Pending {
    /// How long ago it was sent.
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Waits for the answer; may be called again after [`QmpError::Silent`], for the answer may
    /// still come.
    ///
    /// # Errors
    /// As for [`Qmp::execute`].
    pub async fn within(&mut self, limit: Duration) -> Result<Value, QmpError> {
        let (address, command) = (self.address.clone(), self.command.clone());
        match timeout(limit, &mut self.answered).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(message::Refusal { class, desc }))) => {
                Err(QmpError::Refused { command, class, desc })
            }
            Ok(Err(_)) => Err(QmpError::Closed { address, command }),
            Err(_) => Err(QmpError::Silent { address, command, waited: self.age() }),
        }
    }
}

/// Hands answers to those who wait for them and events to the channel, until the connection ends.
async fn read_all(
    mut read: BufReader<impl AsyncRead + Unpin>,
    waiting: Waiting,
    events: mpsc::UnboundedSender<Event>,
) {
    // A line that is not QMP leaves nothing to rely on in what follows: the connection is over.
    while let Ok(Some(line)) = read_line(&mut read).await {
        match Message::parse(&line) {
            Ok(Message::Event(event)) => {
                // Nobody has to listen to events.
                let _ = events.send(event);
            }
            Ok(Message::Answer { id, answer }) => {
                let waiter = lock(&waiting).as_mut().and_then(|waiting| waiting.remove(&id));
                if let Some(waiter) = waiter {
                    // Who gave up waiting does not want a late answer.
                    let _ = waiter.send(answer);
                }
            }
            Ok(Message::Greeting(_) | Message::Other) => {}
            Err(_) => break,
        }
    }
    // Dropping the senders tells all who wait.
    lock(&waiting).take();
}

async fn write_all(
    mut write: impl AsyncWrite + Unpin,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(line) = lines.recv().await {
        if write.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn read_line(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    read.take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 == LONGEST_LINE => {
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "a line without an end"))
        }
        _ => Ok(None),
    }
}

fn excerpt(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.trim_end().chars().take(80).collect()
}
