//! The asking side: finds the landfall that steers a guest.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{Answer, ENDING, Request, Steered};
use crate::runtime_dir;

/// A landfall that does not let itself be spoken to within so long is stopped, or not one.
const CONNECT: Duration = Duration::from_secs(2);

/// It answers within so long: it gives itself five seconds to take a change up.
const ANSWER: Duration = Duration::from_secs(8);

/// No answer is longer.
const LONGEST_ANSWER: u64 = 1 << 20;

/// A landfall that can be asked.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

/// Why a landfall cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody steers that guest.
    #[error(
        "no landfall is steering {called:?}; {others}. GUEST is the SOURCE that landfall migrate was \
         given (unix:/run/vm.qmp), QEMU's -name, or its process id"
    )]
    Nobody {
        /// As it was called.
        called: String,
        /// What is being steered instead, in words.
        others: String,
    },
    /// Several guests go by that name.
    #[error(
        "{called:?} are several guests, of QEMU processes {pids:?}; say which by its process id"
    )]
    Several {
        /// As they were called.
        called: String,
        /// Which they are.
        pids: Vec<i32>,
    },
    /// The folder of sockets cannot be read.
    #[error("{path} cannot be looked into: {source}; run it as root, or as who runs landfall migrate", path = path.display())]
    Closed {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It does not answer.
    #[error("the landfall at {path} does not answer ({problem}); look whether it is stopped, or has just ended", path = path.display())]
    Silent {
        /// Its socket.
        path: PathBuf,
        /// What was wrong.
        problem: String,
    },
}

/// Finds the landfall that steers a guest, by the address of its monitor, its name or its process.
///
/// # Errors
/// [`ClientError`].
pub async fn find(called: &str) -> Result<(Client, Steered), ClientError> {
    let mut others = Vec::new();
    let mut found = Vec::new();
    for (client, steered) in all().await? {
        match steered.guest.is(called) {
            true => found.push((client, steered)),
            false => others.push(steered),
        }
    }
    if found.len() > 1 {
        let pids = found.iter().map(|(_, steered)| steered.guest.pid).collect();
        return Err(ClientError::Several { called: called.to_owned(), pids });
    }
    found
        .pop()
        .ok_or_else(|| ClientError::Nobody { called: called.to_owned(), others: listed(&others) })
}

fn listed(others: &[Steered]) -> String {
    if others.is_empty() {
        return "no guest is being steered at the moment by a landfall of this user".to_owned();
    }
    let sources: Vec<String> = others.iter().map(|it| it.guest.source.to_string()).collect();
    format!("what is being steered: {}", sources.join(", "))
}

/// All landfalls of this user that steer a guest just now. One that does not answer is left out.
///
/// # Errors
/// [`ClientError::Closed`].
pub async fn all() -> Result<Vec<(Client, Steered)>, ClientError> {
    let path = runtime_dir::path();
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(ClientError::Closed { path, source }),
    };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == ENDING));
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        // A socket at which nobody listens is one that a dead landfall has left.
        let Ok(mut client) = Client::connect(&path).await else { continue };
        if let Ok(Answer::Shown { steered }) = client.ask(&Request::Show).await {
            found.push((client, *steered));
        }
    }
    Ok(found)
}

impl Client {
    async fn connect(path: &Path) -> io::Result<Client> {
        let stream = timeout(CONNECT, UnixStream::connect(path)).await??;
        Ok(Client { stream: BufReader::new(stream), path: path.to_owned() })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Silent`]. What was asked may have been done all the same.
    pub async fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let answer = match timeout(ANSWER, self.exchange(request)).await {
            Ok(answer) => answer,
            Err(late) => Err(late.into()),
        };
        answer.map_err(|error| ClientError::Silent {
            path: self.path.clone(),
            problem: error.to_string(),
        })
    }

    async fn exchange(&mut self, request: &Request) -> io::Result<Answer> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).await?;
        let mut answer = Vec::new();
        (&mut self.stream).take(LONGEST_ANSWER).read_until(b'\n', &mut answer).await?;
        if answer.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
