//! The listening side of the control socket, in a landfall that steers a guest.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::requirements::{Setting, Settings};
use landfall_core::telemetry::progress::ProgressSnapshot;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{
    ControlAnswer, ControlRefusal, ControlRequest, MAX_REQUEST_BYTES, SOCKET_EXTENSION,
    SteeredMigration, parse_settings, socket_path,
};
use crate::procfs::Process;
use crate::runtime_dir::{self, RuntimeDirError};

/// The longest time for a client to send a line, or to take one.
const LINE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest time for the driver to take a request up. It looks ten times a second, unless QEMU does
/// not answer.
const DRIVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Clients that are served at the same time. One more, and the oldest is disconnected: clients that
/// connect and send nothing do not keep others out.
const MAX_CLIENTS: usize = 16;

/// Requests that wait for the driver.
const MAX_WAITING_REQUESTS: usize = 8;

/// The pause after each answer to a client: the steering runs on the same thread, and a client that sends
/// requests as fast as it can must leave it the CPU.
const ANSWER_PAUSE: Duration = Duration::from_millis(10);

/// The pause after each new client, for the same reason.
const ACCEPT_PAUSE: Duration = Duration::from_millis(1);

/// The pause after an error of the socket itself, such as too many open files.
const ERROR_PAUSE: Duration = Duration::from_millis(200);

/// A client's request that the driver has to carry out.
#[derive(Debug)]
pub enum SteeringRequest {
    /// Change requirements from now on. Once the channel of the answer is closed the client is gone, and
    /// the request is void.
    Set {
        /// The new requirements.
        settings: Vec<Setting>,
        /// Takes the answer.
        answer: oneshot::Sender<ControlAnswer>,
    },
    /// Cancel the migration.
    Cancel {
        /// Takes the answer.
        answer: oneshot::Sender<ControlAnswer>,
    },
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum ControlServerError {
    /// The directory for it cannot be used.
    #[error(transparent)]
    Directory(#[from] RuntimeDirError),
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}", path = path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
}

/// The control socket of a landfall. Listens until it is dropped, and then removes the socket.
#[derive(Debug)]
pub struct ControlServer {
    path: PathBuf,
    requests: mpsc::Receiver<SteeringRequest>,
    steered: watch::Sender<SteeredMigration>,
    serving: AbortHandle,
}

impl ControlServer {
    /// Listens for clients that want to see or change the migration of a guest. The caller must hold the
    /// guest's lock: a socket that exists already was then left by a landfall that was killed.
    ///
    /// # Errors
    /// [`ControlServerError`].
    pub fn listen(
        process: Process,
        steered: SteeredMigration,
    ) -> Result<ControlServer, ControlServerError> {
        remove_stale_sockets(&runtime_dir::create()?);
        let path = socket_path(process);
        let failed = |source| ControlServerError::Listen { path: path.clone(), source };
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).map_err(failed)?;
        let (sender, requests) = mpsc::channel(MAX_WAITING_REQUESTS);
        let (steered, shown) = watch::channel(steered);
        let serving = tokio::spawn(serve_clients(listener, sender, shown)).abort_handle();
        Ok(ControlServer { path, requests, steered, serving })
    }

    /// Waits for the next request.
    pub async fn next_request(&mut self) -> Option<SteeringRequest> {
        self.requests.recv().await
    }

    /// Replaces the requirements and the progress that clients are shown from now on.
    pub fn publish_progress(&self, settings: &Settings, progress: ProgressSnapshot) {
        self.steered.send_modify(|steered| {
            if steered.settings != *settings {
                steered.settings = settings.clone();
            }
            steered.progress = Some(progress);
        });
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.serving.abort();
        // A socket that stays behind does no harm: it refuses connections.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the sockets of guests whose QEMU has ended: a landfall that was killed left them.
fn remove_stale_sockets(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_socket = path.extension().is_some_and(|extension| extension == SOCKET_EXTENSION);
        if is_socket && runtime_dir::process_of_file(&path).is_some_and(|it| !it.is_alive()) {
            let _ = fs::remove_file(path);
        }
    }
}

async fn serve_clients(
    listener: UnixListener,
    requests: mpsc::Sender<SteeringRequest>,
    shown: watch::Receiver<SteeredMigration>,
) {
    let mut clients = JoinSet::new();
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ERROR_PAUSE).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        order.retain(|client| !client.is_finished());
        if order.len() >= MAX_CLIENTS
            && let Some(oldest) = order.pop_front()
        {
            oldest.abort();
        }
        order.push_back(clients.spawn(serve_client(stream, requests.clone(), shown.clone())));
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Serves one client, line by line, until it disconnects, is too slow or sends what is refused.
async fn serve_client(
    mut stream: UnixStream,
    requests: mpsc::Sender<SteeringRequest>,
    shown: watch::Receiver<SteeredMigration>,
) {
    if let Err(refusal) = check_client_user(&stream) {
        let _ = write_answer(&mut stream, &refusal.into()).await;
        return;
    }
    let mut stream = BufReader::new(stream);
    while let Some(line) = read_request(&mut stream).await {
        let answer = match line {
            Ok(line) => match handle_request(&line, &requests, &shown).await {
                Ok(answer) => answer,
                Err(refusal) => refusal.into(),
            },
            Err(refusal) => refusal.into(),
        };
        let refused = matches!(answer, ControlAnswer::Refused { .. });
        if !write_answer(&mut stream, &answer).await || refused {
            return;
        }
        sleep(ANSWER_PAUSE).await;
    }
}

impl From<ControlRefusal> for ControlAnswer {
    fn from(refusal: ControlRefusal) -> Self {
        ControlAnswer::Refused { reason: refusal.to_string() }
    }
}

/// Checks that a client runs as root or as landfall's own user.
fn check_client_user(stream: &UnixStream) -> Result<(), ControlRefusal> {
    let own = rustix::process::geteuid().as_raw();
    let client = stream.peer_cred().map_err(ControlRefusal::UnknownUser)?.uid();
    if client == own || client == 0 {
        return Ok(());
    }
    Err(ControlRefusal::ForeignUser { client, own })
}

/// Reads the next line; `None` at the end of the connection, or if the line does not come in time.
async fn read_request(
    stream: &mut BufReader<UnixStream>,
) -> Option<Result<Vec<u8>, ControlRefusal>> {
    let mut line = Vec::new();
    let mut limited = stream.take(MAX_REQUEST_BYTES as u64);
    let read = timeout(LINE_TIMEOUT, limited.read_until(b'\n', &mut line)).await.ok()?.ok()?;
    match line.last() {
        Some(b'\n') => Some(Ok(line)),
        _ if read >= MAX_REQUEST_BYTES => Some(Err(ControlRefusal::TooLong)),
        _ => None,
    }
}

/// Writes an answer; returns whether the client took it in time.
async fn write_answer(stream: &mut (impl AsyncWriteExt + Unpin), answer: &ControlAnswer) -> bool {
    let Ok(mut line) = serde_json::to_vec(answer) else { return false };
    line.push(b'\n');
    matches!(timeout(LINE_TIMEOUT, stream.write_all(&line)).await, Ok(Ok(())))
}

async fn handle_request(
    line: &[u8],
    requests: &mpsc::Sender<SteeringRequest>,
    shown: &watch::Receiver<SteeredMigration>,
) -> Result<ControlAnswer, ControlRefusal> {
    let (answer, answered) = oneshot::channel();
    let request = match ControlRequest::parse(line)? {
        ControlRequest::Show => {
            return Ok(ControlAnswer::Shown { steered: Box::new(shown.borrow().clone()) });
        }
        ControlRequest::Cancel => SteeringRequest::Cancel { answer },
        ControlRequest::Set { settings } => {
            SteeringRequest::Set { settings: parse_settings(&settings)?, answer }
        }
    };
    requests.try_send(request).map_err(|error| match error {
        mpsc::error::TrySendError::Full(_) => ControlRefusal::Busy,
        mpsc::error::TrySendError::Closed(_) => ControlRefusal::Over,
    })?;
    match timeout(DRIVER_TIMEOUT, answered).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(_)) => Err(ControlRefusal::Over),
        Err(_) => Err(ControlRefusal::QemuSilent),
    }
}
