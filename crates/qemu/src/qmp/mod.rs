//! A client of QMP, QEMU's monitor protocol: lines of JSON over a socket.
//!
//! Every wait has a limit. Unknown fields and events are accepted. One task reads the socket and
//! stamps each event with the time of its arrival, so that a measurement does not depend on when the
//! caller looks at the event.
//!
//! The peer may be hostile: lines and queues are limited, and text is made harmless for a terminal where
//! it is read.

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

use crate::clean_text::clean_text;
use crate::mutex::lock_unpoisoned;
use crate::procfs::sockets::LocalSocket;

pub use address::{QmpAddress, QmpAddressError};
pub use error::QmpError;
pub use message::{ErrorResponse, QmpEvent, QmpGreeting, QmpMessage, QmpMessageError};

/// The longest wait for a connection, and for the greeting after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait for a response. QEMU's main loop serves the monitor. A busy host, or a held vCPU
/// that owns the big QEMU lock, can delay it for a second or two (`docs/measurements/`).
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest line that is read, in bytes. Of the responses that landfall asks for the longest, to
/// `query-cpus-fast` with a thousand vCPUs, has some 200 kB.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Events that wait to be taken up. More than a few at a time come from a peer that is not QEMU, and are
/// dropped.
const MAX_WAITING_EVENTS: usize = 64;

/// The events that are passed on: when the guest stops, and runs again.
const EVENTS: [&str; 2] = ["STOP", "RESUME"];

/// After this many messages the reader lets other tasks run, however fast the peer sends.
const MESSAGES_AT_A_TIME: usize = 32;

/// What QEMU returned for a command, or its error.
type CommandResult = Result<Value, ErrorResponse>;

/// Commands that were sent and have no response yet, by their id; `None` once the connection is
/// closed.
type PendingCommands = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<CommandResult>>>>>;

/// A connection to one monitor, with its capabilities negotiated.
#[derive(Debug)]
pub struct QmpClient {
    address: QmpAddress,
    peer_pid: Option<i32>,
    local_socket: Option<LocalSocket>,
    out_of_band: bool,
    lines: mpsc::UnboundedSender<Vec<u8>>,
    pending: PendingCommands,
    next_id: u64,
    tasks: [tokio::task::AbortHandle; 2],
}

/// The events `STOP` and `RESUME` of a connection in the order of their arrival. The channel is closed when
/// the connection is.
pub type QmpEvents = mpsc::Receiver<QmpEvent>;

impl QmpClient {
    /// Connects to a monitor, reads its greeting and negotiates capabilities, with out-of-band commands
    /// if they are offered. Also returns the events that QEMU sends from then on.
    ///
    /// # Errors
    /// [`QmpError::Connect`], [`QmpError::NoGreeting`] (another client may hold the monitor),
    /// [`QmpError::NotQmp`].
    pub async fn connect(address: &QmpAddress) -> Result<(QmpClient, QmpEvents), QmpError> {
        let failed = |source| QmpError::Connect { address: address.clone(), source };
        let late = |_| failed(std::io::ErrorKind::TimedOut.into());
        match address {
            QmpAddress::Unix(path) => {
                let stream =
                    timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await.map_err(late)?;
                let stream = stream.map_err(failed)?;
                let peer_pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let local_socket = LocalSocket::unix(&stream).ok();
                let (read, write) = stream.into_split();
                let (mut qmp, events) = Self::negotiate(address, read, write).await?;
                qmp.peer_pid = peer_pid;
                qmp.local_socket = local_socket;
                Ok((qmp, events))
            }
            QmpAddress::Tcp(host_port) => {
                let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(host_port.as_str()));
                let stream = stream.await.map_err(late)?.map_err(failed)?;
                let addresses = stream.local_addr().and_then(|own| Ok((own, stream.peer_addr()?)));
                let (own, peer) = addresses.map_err(failed)?;
                let local_socket = LocalSocket::tcp(&stream, own, peer).ok();
                let (read, write) = stream.into_split();
                let (mut qmp, events) = Self::negotiate(address, read, write).await?;
                qmp.local_socket = local_socket;
                Ok((qmp, events))
            }
        }
    }

    /// Returns the address of the monitor.
    pub fn address(&self) -> &QmpAddress {
        &self.address
    }

    /// Returns whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        lock_unpoisoned(&self.pending).is_none()
    }

    /// Returns the id of the process that made the monitor's socket: QEMU, or the process that started
    /// it. `None` for a TCP connection.
    pub fn peer_pid(&self) -> Option<i32> {
        self.peer_pid
    }

    /// Returns landfall's end of the connection; `None` where the kernel did not say what it is.
    pub fn local_socket(&self) -> Option<LocalSocket> {
        self.local_socket
    }

    /// Runs a command and returns QEMU's result. Waits for it for at most [`RESPONSE_TIMEOUT`].
    ///
    /// # Errors
    /// [`QmpError::Rejected`], [`QmpError::Timeout`], [`QmpError::Closed`].
    pub async fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.send_command(command, arguments)?.wait(RESPONSE_TIMEOUT).await
    }

    /// Sends a command and does not wait for the response.
    ///
    /// # Errors
    /// [`QmpError::Closed`].
    pub fn send_command(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<PendingResponse, QmpError> {
        self.send_request("execute", command, arguments)
    }

    /// Sends a command out of band and does not wait for the response: QEMU then answers even while its
    /// main loop is blocked, as during the whole final copy of a migration.
    ///
    /// # Errors
    /// [`QmpError::Closed`], [`QmpError::NoOutOfBand`].
    pub fn send_out_of_band(
        &mut self,
        command: &str,
        arguments: Value,
    ) -> Result<PendingResponse, QmpError> {
        if !self.out_of_band {
            return Err(QmpError::NoOutOfBand { address: self.address.clone() });
        }
        self.send_request("exec-oob", command, arguments)
    }

    /// `kind` is the member that names the command: `execute` or `exec-oob`.
    fn send_request(
        &mut self,
        kind: &str,
        command: &str,
        arguments: Value,
    ) -> Result<PendingResponse, QmpError> {
        self.next_id += 1;
        let mut request = json!({ kind: command, "id": self.next_id });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let mut line = request.to_string().into_bytes();
        line.push(b'\n');
        let (sender, response) = oneshot::channel();
        let closed =
            || QmpError::Closed { address: self.address.clone(), command: command.to_owned() };
        let mut pending = lock_unpoisoned(&self.pending);
        pending.as_mut().ok_or_else(closed)?.insert(self.next_id, sender);
        self.lines.send(line).map_err(|_| closed())?;
        Ok(PendingResponse {
            address: self.address.clone(),
            command: command.to_owned(),
            sent_at: Instant::now(),
            response,
        })
    }

    async fn negotiate(
        address: &QmpAddress,
        read: impl AsyncRead + Send + Unpin + 'static,
        write: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Result<(QmpClient, QmpEvents), QmpError> {
        let mut read = BufReader::new(read);
        let no_greeting =
            |_| QmpError::NoGreeting { address: address.clone(), waited: CONNECT_TIMEOUT };
        let not_qmp = |got: String| QmpError::NotQmp { address: address.clone(), got };
        let line = timeout(CONNECT_TIMEOUT, read_line(&mut read)).await.map_err(no_greeting)?;
        let line = line.map_err(|source| match source.kind() {
            std::io::ErrorKind::InvalidData => not_qmp(TOO_LONG.to_owned()),
            _ => QmpError::Connect { address: address.clone(), source },
        })?;
        let line = line.ok_or_else(|| not_qmp("end of stream".to_owned()))?;
        let greeting = match QmpMessage::parse(&line) {
            Ok(QmpMessage::Greeting(greeting)) => greeting,
            _ => return Err(not_qmp(excerpt(&line))),
        };
        let pending: PendingCommands = Arc::new(Mutex::new(Some(HashMap::new())));
        let (event_sender, events) = mpsc::channel(MAX_WAITING_EVENTS);
        let (lines, to_write) = mpsc::unbounded_channel();
        let reader =
            tokio::spawn(read_messages(read, Arc::clone(&pending), event_sender)).abort_handle();
        let writer = tokio::spawn(write_lines(write, to_write)).abort_handle();
        let out_of_band = greeting.offers_capability("oob");
        let mut qmp = QmpClient {
            address: address.clone(),
            peer_pid: None,
            local_socket: None,
            out_of_band,
            lines,
            pending,
            next_id: 0,
            tasks: [reader, writer],
        };
        let enable = if out_of_band { json!({ "enable": ["oob"] }) } else { Value::Null };
        qmp.execute("qmp_capabilities", enable).await?;
        Ok((qmp, events))
    }
}

impl Drop for QmpClient {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// The response to a command that was sent, once it comes.
#[derive(Debug)]
pub struct PendingResponse {
    address: QmpAddress,
    command: String,
    sent_at: Instant,
    response: oneshot::Receiver<CommandResult>,
}

impl PendingResponse {
    /// Returns the time since the command was sent.
    pub fn age(&self) -> Duration {
        self.sent_at.elapsed()
    }

    /// Waits for the response for at most `limit`. May be called again after [`QmpError::Timeout`]: the
    /// response may still come.
    ///
    /// # Errors
    /// Those of [`QmpClient::execute`].
    pub async fn wait(&mut self, limit: Duration) -> Result<Value, QmpError> {
        let (address, command) = (self.address.clone(), self.command.clone());
        match timeout(limit, &mut self.response).await {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(ErrorResponse { class, desc }))) => {
                Err(QmpError::Rejected { command, class, desc })
            }
            Ok(Err(_)) => Err(QmpError::Closed { address, command }),
            Err(_) => Err(QmpError::Timeout { address, command, waited: self.age() }),
        }
    }
}

/// Sends each response to the caller that waits for it, and each event to the channel, until the
/// connection ends.
async fn read_messages(
    mut read: BufReader<impl AsyncRead + Unpin>,
    pending: PendingCommands,
    events: mpsc::Sender<QmpEvent>,
) {
    let mut read_messages = 0usize;
    // After a line that is not QMP no later line can be trusted: the connection is over.
    while let Ok(Some(line)) = read_line(&mut read).await {
        read_messages += 1;
        if read_messages.is_multiple_of(MESSAGES_AT_A_TIME) {
            tokio::task::yield_now().await;
        }
        match QmpMessage::parse(&line) {
            Ok(QmpMessage::Event(event)) if EVENTS.contains(&event.name.as_str()) => {
                // The caller may have dropped the receiver: it need not read events.
                let _ = events.try_send(event);
            }
            Ok(QmpMessage::Event(_)) => {}
            Ok(QmpMessage::Response { id, result }) => {
                let caller =
                    lock_unpoisoned(&pending).as_mut().and_then(|pending| pending.remove(&id));
                if let Some(caller) = caller {
                    // The caller may have stopped waiting.
                    let _ = caller.send(result);
                }
            }
            Ok(QmpMessage::Greeting(_) | QmpMessage::Other) => {}
            Err(_) => break,
        }
    }
    // All callers that still wait get [`QmpError::Closed`].
    lock_unpoisoned(&pending).take();
}

async fn write_lines(
    mut write: impl AsyncWrite + Unpin,
    mut lines: mpsc::UnboundedReceiver<Vec<u8>>,
) {
    while let Some(line) = lines.recv().await {
        if write.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// What is wrong with a line that is not read to its end.
const TOO_LONG: &str = "a line of more than 1 MiB";

async fn read_line(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    read.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() as u64 == MAX_LINE_BYTES => {
            Err(std::io::Error::new(std::io::ErrorKind::InvalidData, TOO_LONG))
        }
        _ => Ok(None),
    }
}

/// Returns the beginning of a line, for a message.
fn excerpt(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text: String = text.trim_end().chars().take(80).collect();
    clean_text(&text).into_owned()
}
