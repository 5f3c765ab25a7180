//! The listening side: a landfall that steers a guest.

use std::collections::VecDeque;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::telemetry::progress::Glance;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::{Answer, ENDING, LONGEST_LINE, Request, Steered, read_demands, socket};
use crate::procfs::Process;
use crate::runtime_dir;

/// A line, and an answer, has to be on its way within so long.
const LINE: Duration = Duration::from_secs(2);

/// The loop has so long to take a demand up: it looks ten times a second, unless QEMU does not answer.
const TAKEN_UP: Duration = Duration::from_secs(5);

/// So many are listened to at a time. One more, and the oldest is not any longer: somebody who
/// connects and says nothing keeps nobody out.
const MOST_CLIENTS: usize = 16;

/// So many demands wait to be taken up at the most.
const MOST_ASKS: usize = 8;

/// Between two answers to one client, and between two clients: whoever asks as fast as can be leaves the
/// processor to the steering, which runs on the same thread.
const PACE: Duration = Duration::from_millis(10);
const NEXT_CLIENT: Duration = Duration::from_millis(1);

/// After an error of the socket itself, such as too many open files.
const REST: Duration = Duration::from_millis(200);

/// What somebody asks of the steering loop.
#[derive(Debug)]
pub enum Ask {
    /// To steer by these demands from now on. Whoever asked is gone once the answer's channel is
    /// closed: then it is not to be done any more.
    Set {
        /// What shall be another.
        demands: Vec<Demand>,
        /// Takes the answer.
        answer: oneshot::Sender<Answer>,
    },
    /// To give up.
    Cancel {
        /// Takes the answer.
        answer: oneshot::Sender<Answer>,
    },
}

/// The ear of a landfall; it listens as long as it lives, and leaves nothing behind.
#[derive(Debug)]
pub struct Control {
    path: PathBuf,
    asks: mpsc::Receiver<Ask>,
    steered: watch::Sender<Steered>,
    serving: AbortHandle,
}

impl Control {
    /// Listens for whoever wants to see or change how this guest is steered. Only who has the guest's
    /// lock may call it: a socket that is there already is then one that a dead landfall has left.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn open(process: Process, steered: Steered) -> io::Result<Control> {
        clear_away(&runtime_dir::make()?);
        let path = socket(process);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o600))?;
        let (tell, asks) = mpsc::channel(MOST_ASKS);
        let (steered, shown) = watch::channel(steered);
        let serving = tokio::spawn(serve(listener, tell, shown)).abort_handle();
        Ok(Control { path, asks, steered, serving })
    }

    /// The next thing that somebody asks.
    pub async fn next(&mut self) -> Option<Ask> {
        self.asks.recv().await
    }

    /// Says how it stands, for whoever asks from now on.
    pub fn show(&self, demands: &Demands, glance: Glance) {
        self.steered.send_modify(|steered| {
            if steered.demands != *demands {
                steered.demands = demands.clone();
            }
            steered.glance = Some(glance);
        });
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.serving.abort();
        // Left behind it does no harm: nobody listens there.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes the sockets of guests whose QEMU is gone: a landfall that was killed has left them.
fn clear_away(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if owner(&path).is_some_and(|process| !process.is_alive()) {
            let _ = fs::remove_file(path);
        }
    }
}

/// Whose guest's socket this is; `None` for anything else.
fn owner(path: &Path) -> Option<Process> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?.strip_suffix('.')?;
    let (pid, started) = name.split_once('-')?;
    Some(Process { pid: pid.parse().ok()?, start_time_ticks: started.parse().ok()? })
}

async fn serve(listener: UnixListener, tell: mpsc::Sender<Ask>, shown: watch::Receiver<Steered>) {
    let mut clients = JoinSet::new();
    let mut order: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(REST).await;
            continue;
        };
        while clients.try_join_next().is_some() {}
        order.retain(|client| !client.is_finished());
        if order.len() >= MOST_CLIENTS
            && let Some(oldest) = order.pop_front()
        {
            oldest.abort();
        }
        order.push_back(clients.spawn(attend(stream, tell.clone(), shown.clone())));
        sleep(NEXT_CLIENT).await;
    }
}

/// Listens to one client, line by line, until it ends or is too slow.
async fn attend(mut stream: UnixStream, tell: mpsc::Sender<Ask>, shown: watch::Receiver<Steered>) {
    if let Err(reason) = check_peer(&stream) {
        let _ = say(&mut stream, &Answer::Refused { reason }).await;
        return;
    }
    let mut stream = BufReader::new(stream);
    while let Some(line) = read_line(&mut stream).await {
        let answer = match line {
            Ok(line) => answer(&line, &tell, &shown).await,
            Err(reason) => Answer::Refused { reason },
        };
        let whole = !matches!(answer, Answer::Refused { .. });
        if !say(&mut stream, &answer).await || !whole {
            return;
        }
        sleep(PACE).await;
    }
}

/// Root may, and who landfall itself runs as.
fn check_peer(stream: &UnixStream) -> Result<(), String> {
    let own = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == own || peer.uid() == 0 => Ok(()),
        Ok(peer) => Err(format!(
            "user {} may not change what user {own} steers; run it as that user or as root",
            peer.uid()
        )),
        Err(error) => Err(format!("it cannot be told who asks: {error}")),
    }
}

/// The next line, in time and not too long; `None` at the end of them.
async fn read_line(stream: &mut BufReader<UnixStream>) -> Option<Result<Vec<u8>, String>> {
    let mut line = Vec::new();
    let mut limited = stream.take(LONGEST_LINE as u64);
    let read = timeout(LINE, limited.read_until(b'\n', &mut line)).await.ok()?.ok()?;
    match line.last() {
        Some(b'\n') => Some(Ok(line)),
        _ if read >= LONGEST_LINE => Some(Err(format!("a line has at most {LONGEST_LINE} bytes"))),
        _ => None,
    }
}

async fn say(stream: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> bool {
    let Ok(mut line) = serde_json::to_vec(answer) else { return false };
    line.push(b'\n');
    matches!(timeout(LINE, stream.write_all(&line)).await, Ok(Ok(())))
}

async fn answer(line: &[u8], tell: &mpsc::Sender<Ask>, shown: &watch::Receiver<Steered>) -> Answer {
    let request = match Request::parse(line) {
        Ok(request) => request,
        Err(reason) => return Answer::Refused { reason },
    };
    let (answer, answered) = oneshot::channel();
    let ask = match request {
        Request::Show => return Answer::Shown { steered: Box::new(shown.borrow().clone()) },
        Request::Cancel => Ask::Cancel { answer },
        Request::Set { demands } => match read_demands(&demands) {
            Ok(demands) => Ask::Set { demands, answer },
            Err(reason) => return Answer::Refused { reason },
        },
    };
    let refused = |reason: &str| Answer::Refused { reason: reason.to_owned() };
    match tell.try_send(ask) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => {
            return refused("too much is asked at once; try again in a second");
        }
        Err(mpsc::error::TrySendError::Closed(_)) => return refused("the migration is over"),
    }
    match timeout(TAKEN_UP, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => refused("the migration is over"),
        Err(_) => refused(
            "QEMU does not answer at the moment, so nothing can be changed; see how it stands, and \
             try again",
        ),
    }
}
