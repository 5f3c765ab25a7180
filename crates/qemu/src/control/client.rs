//! The client's side of the control socket: finds the landfall that steers a guest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ClientError, ControlAnswer, ControlRequest, SOCKET_EXTENSION, SteeredMigration};
use crate::runtime_dir;

/// A landfall that does not accept a connection within this time is stopped, or is not one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest wait for an answer. The server allows the driver five seconds to take a request up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);

/// The longest answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// A connection to a landfall that steers a guest.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Finds the landfall that steers a guest, by the address of the guest's monitor, its name or its
/// process id.
///
/// # Errors
/// [`ClientError::NotSteered`], [`ClientError::Ambiguous`], [`ClientError::Directory`].
pub async fn find_migration(name: &str) -> Result<(ControlClient, SteeredMigration), ClientError> {
    let mut others = Vec::new();
    let mut found = Vec::new();
    for (client, steered) in list_migrations().await? {
        match steered.guest.has_name(name) {
            true => found.push((client, steered)),
            false => others.push(steered),
        }
    }
    if found.len() > 1 {
        let pids = found.iter().map(|(_, steered)| steered.guest.pid).collect();
        return Err(ClientError::Ambiguous { name: name.to_owned(), pids });
    }
    let not_steered =
        || ClientError::NotSteered { name: name.to_owned(), others: describe_others(&others) };
    found.pop().ok_or_else(not_steered)
}

fn describe_others(others: &[SteeredMigration]) -> String {
    if others.is_empty() {
        return "no guest is being steered at the moment by a landfall of this user".to_owned();
    }
    let sources: Vec<String> = others.iter().map(|it| it.guest.source.to_string()).collect();
    format!("what is being steered: {}", sources.join(", "))
}

/// Returns all migrations that landfalls of this user steer now. A landfall that does not answer is left
/// out.
///
/// # Errors
/// [`ClientError::Directory`].
pub async fn list_migrations() -> Result<Vec<(ControlClient, SteeredMigration)>, ClientError> {
    let path = runtime_dir::path();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ClientError::Directory { path, source }),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == SOCKET_EXTENSION));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        // A socket that refuses the connection was left by a landfall that was killed.
        let Ok(mut client) = ControlClient::connect(&path).await else { continue };
        let answer = client.send_request(&ControlRequest::Show).await;
        if let Ok(ControlAnswer::Shown { steered }) = answer {
            found.push((client, *steered));
        }
    }
    Ok(found)
}

impl ControlClient {
    async fn connect(path: &Path) -> io::Result<ControlClient> {
        let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await??;
        Ok(ControlClient { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Sends a request and returns the answer.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`]. The request may have been carried out.
    pub async fn send_request(
        &mut self,
        request: &ControlRequest,
    ) -> Result<ControlAnswer, ClientError> {
        let answer = match timeout(ANSWER_TIMEOUT, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(late) => Err(late.into()),
        };
        answer.map_err(|source| ClientError::NoAnswer { path: self.path.clone(), source })
    }

    async fn exchange(&mut self, request: &ControlRequest) -> io::Result<ControlAnswer> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        let mut answer = Vec::new();
        (&mut self.stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
