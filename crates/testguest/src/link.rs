//! A link of a set speed between two QEMUs on one machine.
//!
//! On bare loopback QEMU's own bandwidth limit is all that paces a migration, and QEMU switches it
//! off for the last copy: the downtime is then far shorter than on any real link. A [`LinkRelay`] is a
//! relay that lets bytes from source to destination through at its rate whatever QEMU does, and
//! can fail in the two ways a link fails: fall silent, or break.
//!
//! Measured on two shared cores, from 1 to 100 MB/s: the rate is kept within 0.2 %, for 2 to 7 % of
//! a core. What QEMU has handed to its socket and the link has not passed yet is up to 4.6 MB over
//! TCP, as on a real network, for the kernel lets QEMU's send buffer grow; from a unix socket
//! ([`LinkRelay::from`]) it is 0.5 MB.

use landfall_core::units::{ByteRate, Bytes};
use rustix::net::{Shutdown, shutdown, sockopt};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Small, so that little is under way that a real link would not hold either. (The kernel doubles
/// it for its own needs.)
const SOCKET_BUFFER: usize = 256 * 1024;
const BUFFER: usize = 256 * 1024;
/// What may pass at once after a silence, as time at the full rate; also the length of a turn.
const BURST: Duration = Duration::from_millis(4);
const LEAST_TURN: usize = 4 * 1024;

/// An end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// As QEMU writes it in a migration URI.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "tcp:{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = io::Error;
    /// Reads `tcp:127.0.0.1:4444` and `unix:/run/in.sock`. Names are not looked up.
    fn from_str(text: &str) -> io::Result<Self> {
        let tcp = |address: &str| address.parse().map(Endpoint::Tcp).ok();
        let unix = |path| Some(Endpoint::Unix(PathBuf::from(path)));
        let found = match text.split_once(':') {
            Some(("tcp", address)) => tcp(address),
            Some(("unix", path)) => unix(path),
            _ => None,
        };
        found.ok_or_else(|| {
            let why = format!("{text:?} is no end of a link; write tcp:ADDRESS:PORT or unix:PATH");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })
    }
}

/// A relay in a thread of its own. Ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct LinkRelay {
    at: Endpoint,
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    acceptor: Option<JoinHandle<()>>,
}

impl LinkRelay {
    /// A link from a free port of 127.0.0.1 to a destination; without a rate it lets all through.
    ///
    /// # Errors
    /// If no port is free.
    pub fn new(to: Endpoint, rate: Option<ByteRate>) -> io::Result<Self> {
        Self::from(Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), to, rate)
    }

    /// A link from a given end, which must be free, to a destination.
    ///
    /// # Errors
    /// If the given end cannot be listened on.
    pub fn from(from: Endpoint, to: Endpoint, rate: Option<ByteRate>) -> io::Result<Self> {
        let listener = Arc::new(Listener::bind(&from)?);
        let at = listener.at(from)?;
        let shared = Arc::new(Shared::new(rate));
        let work = {
            let (listener, shared) = (listener.clone(), shared.clone());
            move || accept_all(&listener, &to, &shared)
        };
        let acceptor = thread::Builder::new().name("link".to_owned()).spawn(work)?;
        Ok(Self { at, shared, listener, acceptor: Some(acceptor) })
    }

    /// The end the source connects to; as text, a migration URI.
    pub fn endpoint(&self) -> &Endpoint {
        &self.at
    }

    /// Changes the rate, from the next few milliseconds on.
    pub fn set_rate(&self, rate: Option<ByteRate>) {
        self.shared.change(|state| {
            state.rate = rate;
            state.tokens = state.tokens.min(0.0);
        });
    }

    /// Stops or lets go on the flow in both directions, connections left open: an end that does
    /// not answer any more.
    pub fn set_stalled(&self, stalled: bool) {
        self.shared.change(|state| state.stalled = stalled);
    }

    /// Breaks every connection and refuses new ones.
    pub fn sever(&self) {
        self.shared.change(|state| state.severed = true);
        self.shared.break_all();
    }

    /// Lets new connections through again after [`LinkRelay::sever`].
    pub fn mend(&self) {
        self.shared.change(|state| state.severed = false);
    }

    /// Bytes passed from source to destination so far.
    pub fn passed(&self) -> Bytes {
        Bytes(self.shared.passed.load(Ordering::Relaxed))
    }

    /// Bytes passed the other way so far.
    pub fn returned(&self) -> Bytes {
        Bytes(self.shared.returned.load(Ordering::Relaxed))
    }
}

impl Drop for LinkRelay {
    fn drop(&mut self) {
        self.sever();
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

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    passed: AtomicU64,
    returned: AtomicU64,
}

#[derive(Debug)]
struct State {
    rate: Option<ByteRate>,
    /// Bytes that may pass now; negative after a turn that was larger than what there was.
    tokens: f64,
    refilled: Instant,
    stalled: bool,
    severed: bool,
    open: Vec<Weak<Stream>>,
}

impl Shared {
    fn new(rate: Option<ByteRate>) -> Self {
        let state = State {
            rate,
            tokens: 0.0,
            refilled: Instant::now(),
            stalled: false,
            severed: false,
            open: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
            passed: AtomicU64::new(0),
            returned: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No panic leaves it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        state.refill();
        change(&mut state);
        drop(state);
        self.changed.notify_all();
    }

    fn break_all(&self) {
        for stream in self.lock().open.drain(..).filter_map(|stream| stream.upgrade()) {
            let _ = shutdown(stream.as_fd(), Shutdown::Both);
        }
    }

    /// How much to read at a time: what passes in one turn.
    fn turn(&self) -> usize {
        let rate = self.lock().rate;
        rate.map_or(BUFFER, |rate| (rate.over(BURST).0 as usize).clamp(LEAST_TURN, BUFFER))
    }

    /// Waits until so many bytes may pass; `None` once the link is severed.
    fn admit(&self, bytes: usize, direction: Direction) -> Option<()> {
        let mut state = self.lock();
        loop {
            state.refill();
            if state.severed {
                return None;
            }
            let wait = match (state.stalled, direction, state.rate) {
                (true, ..) => None,
                (false, Direction::Back, _) | (false, _, None) => return Some(()),
                (false, Direction::Forth, Some(_)) if state.tokens > 0.0 => {
                    // On credit if need be: the debt is waited for before the next turn.
                    state.tokens -= bytes as f64;
                    return Some(());
                }
                (false, Direction::Forth, Some(rate)) => {
                    Duration::try_from_secs_f64((1.0 - state.tokens) / rate.0).ok()
                }
            };
            // Whatever is changed meanwhile wakes it.
            let wait = wait.unwrap_or(Duration::from_secs(3600));
            let woken = self.changed.wait_timeout(state, wait);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn refill(&mut self) {
        let now = Instant::now();
        let elapsed = now.saturating_duration_since(self.refilled);
        self.refilled = now;
        if let Some(rate) = self.rate {
            let most = (rate.0 * BURST.as_secs_f64()).max(LEAST_TURN as f64);
            self.tokens = (self.tokens + rate.0 * elapsed.as_secs_f64()).min(most);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forth,
    Back,
}

fn accept_all(listener: &Listener, to: &Endpoint, shared: &Arc<Shared>) {
    while let Ok(source) = listener.accept() {
        // A connection that cannot be carried through is closed, as by a host that is not there.
        let _ = carry(source, to, shared);
    }
}

/// Connects a source through, with a thread for each direction.
fn carry(source: Stream, to: &Endpoint, shared: &Arc<Shared>) -> io::Result<()> {
    // Before the destination hears of it: a QEMU that waits for a migration takes one connection.
    if shared.lock().severed {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let destination = Arc::new(Stream::connect(to)?);
    let source = Arc::new(source);
    sockopt::set_socket_send_buffer_size(destination.as_fd(), SOCKET_BUFFER)?;
    {
        let mut state = shared.lock();
        if state.severed {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        state.open.retain(|stream| stream.strong_count() > 0);
        state.open.extend([Arc::downgrade(&source), Arc::downgrade(&destination)]);
    }
    for direction in [Direction::Forth, Direction::Back] {
        let (from, to) = match direction {
            Direction::Forth => (source.clone(), destination.clone()),
            Direction::Back => (destination.clone(), source.clone()),
        };
        let shared = shared.clone();
        let work = move || {
            let end = match pump(&from, &to, direction, &shared) {
                // One end has said all; the other direction may go on.
                Ok(()) => Shutdown::Write,
                Err(_) => Shutdown::Both,
            };
            let _ = shutdown(to.as_fd(), end);
            if end == Shutdown::Both {
                let _ = shutdown(from.as_fd(), end);
            }
        };
        thread::Builder::new().name(format!("link-{direction:?}").to_lowercase()).spawn(work)?;
    }
    Ok(())
}

/// Moves bytes until their source ends (`Ok`) or anything fails.
fn pump(from: &Stream, to: &Stream, direction: Direction, shared: &Shared) -> io::Result<()> {
    let counter = match direction {
        Direction::Forth => &shared.passed,
        Direction::Back => &shared.returned,
    };
    let mut buffer = vec![0; BUFFER];
    loop {
        let turn = shared.turn();
        let got = match from.read(&mut buffer[..turn]) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        shared.admit(got, direction).ok_or(io::ErrorKind::ConnectionAborted)?;
        to.write_all(&buffer[..got])?;
        counter.fetch_add(got as u64, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn bind(at: &Endpoint) -> io::Result<Self> {
        let listener = match at {
            Endpoint::Tcp(address) => Listener::Tcp(TcpListener::bind(address)?),
            Endpoint::Unix(path) => Listener::Unix(UnixListener::bind(path)?),
        };
        // What is accepted inherits it, and only so does it bound the window from the start.
        sockopt::set_socket_recv_buffer_size(listener.as_fd(), SOCKET_BUFFER)?;
        Ok(listener)
    }

    fn at(&self, asked: Endpoint) -> io::Result<Endpoint> {
        Ok(match self {
            Listener::Tcp(listener) => Endpoint::Tcp(listener.local_addr()?),
            Listener::Unix(_) => asked,
        })
    }

    fn accept(&self) -> io::Result<Stream> {
        Ok(match self {
            Listener::Tcp(listener) => Stream::Tcp(listener.accept()?.0).without_delay(),
            Listener::Unix(listener) => Stream::Unix(listener.accept()?.0),
        })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Tcp(listener) => listener.as_fd(),
            Listener::Unix(listener) => listener.as_fd(),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(to: &Endpoint) -> io::Result<Self> {
        Ok(match to {
            Endpoint::Tcp(address) => Stream::Tcp(TcpStream::connect(address)?).without_delay(),
            Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path)?),
        })
    }

    /// Small messages (the return path's) are not held back. Failing that they are late, not lost.
    fn without_delay(self) -> Self {
        if let Stream::Tcp(stream) = &self {
            let _ = stream.set_nodelay(true);
        }
        self
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&*stream).read(buffer),
            Stream::Unix(stream) => (&*stream).read(buffer),
        }
    }

    fn write_all(&self, buffer: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => (&*stream).write_all(buffer),
            Stream::Unix(stream) => (&*stream).write_all(buffer),
        }
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{agrees_once_in_three, claim};

    /// A link to `listener`, and both ends of one connection through it.
    fn through(
        listener: &TcpListener,
        rate: Option<ByteRate>,
    ) -> (LinkRelay, TcpStream, TcpStream) {
        let link = LinkRelay::new(Endpoint::Tcp(listener.local_addr().unwrap()), rate).unwrap();
        let Endpoint::Tcp(address) = link.endpoint() else { unreachable!() };
        let source = TcpStream::connect(address).unwrap();
        let destination = listener.accept().unwrap().0;
        (link, source, destination)
    }

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    fn wait_until(mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(Instant::now() < until, "it did not happen");
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Writes until the other side is gone.
    fn flood(mut to: TcpStream) -> JoinHandle<()> {
        thread::spawn(move || while to.write_all(&[7; 65536]).is_ok() {})
    }

    fn drain(mut from: TcpStream) -> JoinHandle<()> {
        thread::spawn(move || while matches!(from.read(&mut [0; 65536]), Ok(n) if n > 0) {})
    }

    #[test]
    fn bytes_arrive_unchanged_and_the_end_is_passed_on_in_each_direction() {
        let (link, mut source, mut destination) = through(&listener(), Some(ByteRate::mb(1000)));
        let sent: Vec<u8> = (0..1_000_000u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let writer = thread::spawn(move || {
            source.write_all(&copy).unwrap();
            source.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            source.read_to_string(&mut answer).unwrap();
            answer
        });
        let mut got = Vec::new();
        destination.read_to_end(&mut got).unwrap();
        assert!(got == sent);
        destination.write_all(b"thanks").unwrap();
        drop(destination);
        assert_eq!(writer.join().unwrap(), "thanks");
        assert_eq!((link.passed(), link.returned()), (Bytes(1_000_000), Bytes(6)));
    }

    #[test]
    fn no_more_passes_than_the_rate_lets_through_and_a_change_takes_effect() {
        let (link, source, destination) = through(&listener(), Some(ByteRate::mb(5)));
        let (flooding, draining) = (flood(source), drain(destination));
        agrees_once_in_three(|| {
            let measured = [5, 20].map(|rate| {
                link.set_rate(Some(ByteRate::mb(rate)));
                let (begin, before) = (Instant::now(), link.passed());
                thread::sleep(Duration::from_millis(400));
                let passed = link.passed().saturating_sub(before);
                // A turn may have begun before, and one may be on credit.
                let most = ByteRate::mb(rate).over(begin.elapsed()) + Bytes(2 * BUFFER as u64);
                assert!(passed <= most, "{passed} in 400 ms at {rate} MB/s");
                passed.as_f64()
            });
            Some(claim(measured[1] > 2.0 * measured[0], format!("{measured:?}")))
        });
        drop(link);
        flooding.join().unwrap();
        draining.join().unwrap();
    }

    #[test]
    fn a_stalled_link_passes_nothing_and_goes_on_where_it_stopped() {
        let (link, source, destination) = through(&listener(), None);
        let (flooding, draining) = (flood(source), drain(destination));
        wait_until(|| link.passed() > Bytes(0));
        link.set_stalled(true);
        // What it had in hand may still have to go.
        wait_until(|| {
            let passed = link.passed();
            thread::sleep(Duration::from_millis(100));
            link.passed() == passed
        });
        let stopped = link.passed();
        link.set_stalled(false);
        wait_until(|| link.passed() > stopped);
        drop(link);
        flooding.join().unwrap();
        draining.join().unwrap();
    }

    #[test]
    fn a_severed_link_breaks_both_ends_and_refuses_until_it_is_mended() {
        let listener = listener();
        let (link, mut source, mut destination) = through(&listener, None);
        link.sever();
        assert!(matches!(source.read(&mut [0; 1]), Ok(0) | Err(_)));
        assert!(matches!(destination.read(&mut [0; 1]), Ok(0) | Err(_)));
        let Endpoint::Tcp(address) = link.endpoint() else { unreachable!() };
        let mut refused = TcpStream::connect(address).unwrap();
        assert!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)));
        link.mend();
        let mut carried = TcpStream::connect(address).unwrap();
        carried.write_all(b"x").unwrap();
        wait_until(|| link.passed() == Bytes(1));
    }

    #[test]
    fn an_end_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["tcp:127.0.0.1:4444", "unix:/run/x.sock", "tcp:[::1]:1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "tcp:host:1", "tcp:127.0.0.1", "rdma:1", "exec:cat"] {
            assert!(text.parse::<Endpoint>().unwrap_err().to_string().contains("write tcp:"));
        }
    }
}
