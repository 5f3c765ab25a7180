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
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, EndpointListener, EndpointStream, SOCKET_BUFFER};

const BUFFER: usize = 256 * 1024;
/// What may pass at once after a silence, as time at the full rate; also the length of a turn.
const BURST: Duration = Duration::from_millis(4);
const LEAST_TURN: usize = 4 * 1024;
/// After a connection that could not be taken.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// A relay in a thread of its own. Ends, with all its connections, when it is dropped.
#[derive(Debug)]
pub struct LinkRelay {
    at: Endpoint,
    shared: Arc<Shared>,
    listener: Arc<EndpointListener>,
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
        let listener = Arc::new(EndpointListener::bind(&from)?);
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
        self.shared.change(|state| {
            state.severed = true;
            state.breaks += 1;
        });
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
        self.shared.lock().ended = true;
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
    /// How often the link was severed. A connection made before the last time is broken for good: a pump
    /// that looked at `severed` alone would miss a link that was severed and mended while it slept, and
    /// keep a shut socket open with its peer blocked in a write.
    breaks: u64,
    /// The relay is being dropped.
    ended: bool,
    open: Vec<Weak<EndpointStream>>,
}

impl Shared {
    fn new(rate: Option<ByteRate>) -> Self {
        let state = State {
            rate,
            tokens: 0.0,
            refilled: Instant::now(),
            stalled: false,
            severed: false,
            breaks: 0,
            ended: false,
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

    /// Waits until so many bytes may pass; `None` once the connection is broken, be the link mended
    /// since or not.
    fn admit(&self, bytes: usize, pump: Pump) -> Option<()> {
        let mut state = self.lock();
        loop {
            state.refill();
            if state.breaks != pump.breaks {
                return None;
            }
            let wait = match (state.stalled, pump.direction, state.rate) {
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

/// One direction of one connection.
#[derive(Debug, Clone, Copy)]
struct Pump {
    direction: Direction,
    /// [`State::breaks`] when it was connected.
    breaks: u64,
}

fn accept_all(listener: &EndpointListener, to: &Endpoint, shared: &Arc<Shared>) {
    while !shared.lock().ended {
        let Ok(source) = listener.accept() else {
            // Of one connection, or for want of descriptors: neither ends the link.
            thread::sleep(ACCEPT_RETRY);
            continue;
        };
        let (to, shared) = (to.clone(), Arc::clone(shared));
        // A destination that does not take connections holds up this one alone: neither the next nor the
        // end of the link waits for it. A connection that cannot be carried through is closed, as by a
        // host that is not there; so it is where no thread can be had.
        let work = move || drop(carry(source, &to, &shared));
        let _ = thread::Builder::new().name("link-connect".to_owned()).spawn(work);
    }
}

/// Connects a source through, with a thread for each direction.
fn carry(source: EndpointStream, to: &Endpoint, shared: &Arc<Shared>) -> io::Result<()> {
    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
    // Before the destination hears of it: a QEMU that waits for a migration takes one connection.
    let breaks = {
        let state = shared.lock();
        if state.severed {
            return Err(refused());
        }
        state.breaks
    };
    let destination = Arc::new(EndpointStream::connect(to)?);
    if destination.is_connected_to_itself() {
        return Err(refused());
    }
    let source = Arc::new(source);
    sockopt::set_socket_send_buffer_size(destination.as_fd(), SOCKET_BUFFER)?;
    {
        let mut state = shared.lock();
        if state.breaks != breaks {
            return Err(refused());
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
            let end = match pump(&from, &to, Pump { direction, breaks }, &shared) {
                // One end has said all; the other direction may go on.
                Ok(()) => Shutdown::Write,
                Err(_) => Shutdown::Both,
            };
            let _ = shutdown(to.as_fd(), end);
            if end == Shutdown::Both {
                let _ = shutdown(from.as_fd(), end);
            }
        };
        let spawned =
            thread::Builder::new().name(format!("link-{direction:?}").to_lowercase()).spawn(work);
        if let Err(error) = spawned {
            // Half a connection would hang.
            let _ = shutdown(source.as_fd(), Shutdown::Both);
            let _ = shutdown(destination.as_fd(), Shutdown::Both);
            return Err(error);
        }
    }
    Ok(())
}

/// Moves bytes until their source ends (`Ok`) or anything fails.
fn pump(from: &EndpointStream, to: &EndpointStream, pump: Pump, shared: &Shared) -> io::Result<()> {
    let counter = match pump.direction {
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
        shared.admit(got, pump).ok_or(io::ErrorKind::ConnectionAborted)?;
        to.write_all(&buffer[..got])?;
        counter.fetch_add(got as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retry::{agrees_once_in_three, claim};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::mpsc::channel;

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

    /// Runs work that must not hang, in a thread of its own.
    fn ends(what: &str, work: impl FnOnce() + Send + 'static) {
        let (done, is_done) = channel();
        thread::spawn(move || {
            work();
            let _ = done.send(());
        });
        assert!(is_done.recv_timeout(Duration::from_secs(10)).is_ok(), "{what} hangs");
    }

    #[test]
    fn a_link_severed_and_mended_at_once_while_stalled_still_breaks_its_connections() {
        for _ in 0..20 {
            let (link, source, destination) = through(&listener(), None);
            let flooding = flood(source);
            wait_until(|| link.passed() > Bytes(0));
            link.set_stalled(true);
            thread::sleep(Duration::from_millis(5));
            link.sever();
            link.mend();
            ends("a write into a broken link", move || flooding.join().unwrap());
            drop(destination);
        }
    }

    #[test]
    fn a_destination_that_takes_no_connections_holds_up_neither_the_next_nor_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("full.sock");
        let full = UnixListener::bind(&path).unwrap();
        // A backlog of none takes one connection; what connects after that waits.
        rustix::net::listen(&full, 0).unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let link = LinkRelay::new(Endpoint::Unix(path), None).unwrap();
        let Endpoint::Tcp(address) = link.endpoint() else { unreachable!() };
        let _waits = TcpStream::connect(address).unwrap();
        thread::sleep(Duration::from_millis(50));
        link.sever();
        let mut refused = TcpStream::connect(address).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(refused.read(&mut [0; 1]), Ok(0)), "the next connection is not served");
        ends("the end of a link", move || drop(link));
    }
}
