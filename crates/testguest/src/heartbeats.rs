//! Listening to a guest: its beats, its lines, and its answer when it is asked to check its memory.
//!
//! A thread for each serial port does nothing but read and stamp. A guest that migrates is heard
//! from two ports, one after the other; both threads write into one [`Heartbeats`].

use crate::timeline::{Beat, Timeline};
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Longer lines are cut: no guest of ours writes any, and a runaway one must not fill our memory.
const LONGEST_LINE: usize = 4096;

/// One of the QEMUs that a guest has run or will run in, counted from 0 in the order of their start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QemuIndex(pub usize);

/// A line of text from the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestLine {
    /// When its end was read.
    pub at: Instant,
    /// Where its end came from.
    pub place: QemuIndex,
    /// Without the line feed.
    pub text: String,
}

/// What the guest says about itself before it starts to work.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GuestHeader {
    /// Version of this format; 1.
    #[serde(rename = "landfall_testguest")]
    pub version: u32,
    /// The kind of guest, as on its command line.
    pub kind: String,
    /// How many vCPUs it has.
    pub vcpus: usize,
    /// How many of them write memory, from the first on.
    pub dirtiers: usize,
    /// Guest-physical address of the working set's first page.
    pub base: u64,
    /// Pages of the working set.
    pub pages: u64,
    /// Pages that are filled but not written again; they follow the working set.
    pub cold_pages: u64,
    /// Frequency of the time-stamp counter as measured, in kHz.
    pub tsc_khz: u64,
    /// Turns of the spin loop in a millisecond, as measured.
    pub spins_per_ms: u64,
    /// Work from one beat to the next.
    pub units: WorkUnits,
    /// What the dirtying vCPUs do: one phase, or two by turns.
    pub phases: Vec<CalibratedPhase>,
}

/// Units of work that a beat stands for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct WorkUnits {
    /// For each vCPU.
    pub per_beat: Vec<u64>,
}

/// One phase of the guest's work, as calibrated.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct CalibratedPhase {
    /// CPU time of a beat when it was calibrated, in nanoseconds.
    pub beat_ns: u64,
    /// Turns of the spin loop in each unit of work.
    pub spins: u64,
    /// Units of work from one page written to the next.
    pub every: u64,
    /// Pages written in a second of CPU time by each dirtying vCPU: the rate that was reached.
    pub pages_per_s: u64,
    /// Beats until the next phase.
    pub beats: u64,
}

/// The answer to a full check of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryCheck {
    /// Pages checked, cold ones included.
    pub pages: u64,
    /// Words that were not what they must be. The guest has put them right.
    pub errors: u64,
}

/// Why the guest did not say what was waited for.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// It refuses to work.
    #[error("the guest gave up: {0}")]
    Fatal(String),
    /// Every QEMU it could be in has ended.
    #[error("no QEMU runs the guest any more; its last line was {0:?}")]
    Gone(String),
    /// Nothing came in time.
    #[error("no {what} from the guest in {after:?}; is it running? its last line was {last:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
        /// The last thing it said.
        last: String,
    },
    /// It said something in another form than is known here.
    #[error("the guest's line {0:?} cannot be read")]
    Garbled(String),
    /// Its serial port takes nothing.
    #[error("cannot write to the guest's serial port")]
    Port(#[source] io::Error),
}

/// All that one guest has reported, from wherever it ran. Clones share one record.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    log: Mutex<Log>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Log {
    beats: Vec<(Beat, QemuIndex)>,
    lines: Vec<GuestLine>,
    /// A line that has begun. One for all places: a guest that migrates in the middle of a line
    /// ends it elsewhere.
    begun: Vec<u8>,
    ports: Vec<Port>,
}

#[derive(Debug)]
struct Port {
    writer: UnixStream,
    ended: bool,
}

impl Heartbeats {
    /// A record of a guest that has said nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts to listen to a serial port.
    pub(crate) fn listen(&self, port: UnixStream) -> io::Result<QemuIndex> {
        let writer = port.try_clone()?;
        writer.set_write_timeout(Some(Duration::from_secs(1)))?;
        let mut log = self.lock();
        let place = QemuIndex(log.ports.len());
        let beats = self.clone();
        thread::Builder::new()
            .name(format!("guest-serial-{}", place.0))
            .spawn(move || beats.read_all(port, place))?;
        log.ports.push(Port { writer, ended: false });
        Ok(place)
    }

    /// Waits until the guest has filled its memory and works.
    ///
    /// # Errors
    /// [`GuestError`] if it does not get there in time, or its header cannot be read.
    pub fn ready(&self, timeout: Duration) -> Result<GuestHeader, GuestError> {
        self.wait("`ready`", timeout, |log| {
            log.lines.iter().find(|l| l.text == "ready").map(|_| ())
        })?;
        self.header()?.ok_or_else(|| GuestError::Garbled("ready".to_owned()))
    }

    /// The guest's header, once it has come.
    ///
    /// # Errors
    /// [`GuestError::Garbled`] if it cannot be read.
    pub fn header(&self) -> Result<Option<GuestHeader>, GuestError> {
        let log = self.lock();
        let line = log.lines.iter().find(|line| line.text.starts_with('{'));
        line.map(|line| {
            serde_json::from_str(&line.text).map_err(|_| GuestError::Garbled(line.text.clone()))
        })
        .transpose()
    }

    /// All beats up to now.
    pub fn timeline(&self) -> Timeline {
        let vcpus = self.header().ok().flatten().map_or(0, |header| header.vcpus);
        Timeline::new(vcpus, self.lock().beats.iter().map(|(beat, _)| *beat))
    }

    /// Where the last beat came from; `None` before the first.
    pub fn qemu_index(&self) -> Option<QemuIndex> {
        self.lock().qemu_index()
    }

    /// Waits for a beat from a place, or one later than `after`, and says when it came.
    ///
    /// # Errors
    /// [`GuestError`] if none comes in time.
    pub fn beat_from(
        &self,
        place: QemuIndex,
        after: Option<Instant>,
        timeout: Duration,
    ) -> Result<Instant, GuestError> {
        self.wait("beat", timeout, |log| {
            let late = |at| after.is_none_or(|after| at > after);
            let found = log.beats.iter().find(|(beat, from)| *from == place && late(beat.at));
            found.map(|(beat, _)| beat.at)
        })
    }

    /// All lines up to now.
    pub fn lines(&self) -> Vec<GuestLine> {
        self.lock().lines.clone()
    }

    /// The guest's complaints about memory that was not what it must be. Beyond the first 20 it
    /// tells only the doublings of their number.
    pub fn corruptions(&self) -> Vec<GuestLine> {
        self.lock().lines.iter().filter(|l| l.text.starts_with("CORRUPT")).cloned().collect()
    }

    /// Has the guest check every word of its memory, and waits for the answer. The dirtying vCPUs
    /// do not beat meanwhile: a few tens of milliseconds for each 100 MiB.
    ///
    /// # Errors
    /// [`GuestError`] if there is no answer in time; a guest that is paused answers when it goes on.
    pub fn verify(&self, timeout: Duration) -> Result<MemoryCheck, GuestError> {
        let said = self.lock().lines.len();
        let mut asked = None;
        let mut failed = None;
        let answer = self.wait("answer to `v`", timeout, |log| {
            // Asked again if it turns out to have moved: a question put to a source that has
            // stopped for good is lost.
            let place = log.qemu_index().or((!log.ports.is_empty()).then_some(QemuIndex(0)));
            if place.is_some() && place != asked {
                asked = place;
                failed = log.ask(place).err();
            }
            let answer = log.lines[said..].iter().find(|l| l.text.starts_with("verified "));
            answer.map(|line| line.text.clone())
        });
        match (answer, failed) {
            (Ok(line), _) => parse_verified(&line).ok_or(GuestError::Garbled(line)),
            (Err(GuestError::Timeout { .. }), Some(error)) => Err(GuestError::Port(error)),
            (Err(error), _) => Err(error),
        }
    }

    /// Looks at the record after every change until there is something.
    fn wait<T>(
        &self,
        what: &'static str,
        timeout: Duration,
        mut look: impl FnMut(&mut Log) -> Option<T>,
    ) -> Result<T, GuestError> {
        let deadline = Instant::now() + timeout;
        let mut log = self.lock();
        loop {
            if let Some(found) = look(&mut log) {
                return Ok(found);
            }
            if let Some(line) = log.lines.iter().find(|l| l.text.starts_with("FATAL")) {
                return Err(GuestError::Fatal(line.text.clone()));
            }
            let last = || log.lines.last().map_or_else(String::new, |line| line.text.clone());
            if !log.ports.is_empty() && log.ports.iter().all(|port| port.ended) {
                return Err(GuestError::Gone(last()));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(GuestError::Timeout { what, after: timeout, last: last() });
            }
            let waited = self.0.changed.wait_timeout(log, left);
            log = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Reads one port to its end. Blocking, and nothing else to do: a byte is stamped as soon as
    /// the kernel can run this thread.
    fn read_all(&self, mut port: UnixStream, place: QemuIndex) {
        let mut buffer = [0; 4096];
        loop {
            let got = match port.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            let at = Instant::now();
            self.lock().take(&buffer[..got], at, place);
            self.0.changed.notify_all();
        }
        self.lock().ports[place.0].ended = true;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        // A record is whole after every single push, so a thread that panicked spoilt nothing.
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn take(&mut self, bytes: &[u8], at: Instant, place: QemuIndex) {
        for &byte in bytes {
            match byte {
                0x80.. => self.beats.push((Beat { vcpu: usize::from(byte & 0x7f), at }, place)),
                b'\n' => {
                    let text = String::from_utf8_lossy(&self.begun).into_owned();
                    self.begun.clear();
                    self.lines.push(GuestLine { at, place, text });
                }
                _ if self.begun.len() < LONGEST_LINE => self.begun.push(byte),
                _ => {}
            }
        }
    }

    fn qemu_index(&self) -> Option<QemuIndex> {
        // By time, not by position: what the source sent last may be read after what the
        // destination sent first.
        self.beats.iter().rev().take(64).max_by_key(|(beat, _)| beat.at).map(|(_, place)| *place)
    }

    fn ask(&mut self, place: Option<QemuIndex>) -> io::Result<()> {
        match place.and_then(|place| self.ports.get_mut(place.0)) {
            Some(port) => port.writer.write_all(b"v"),
            None => Ok(()),
        }
    }
}

fn parse_verified(line: &str) -> Option<MemoryCheck> {
    let (pages, errors) = line.strip_prefix("verified pages=")?.split_once(" errors=")?;
    Some(MemoryCheck { pages: pages.parse().ok()?, errors: errors.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHORT: Duration = Duration::from_secs(5);

    fn port() -> (Heartbeats, UnixStream) {
        let beats = Heartbeats::new();
        let (ours, guests) = UnixStream::pair().unwrap();
        beats.listen(ours).unwrap();
        (beats, guests)
    }

    #[test]
    fn a_beat_in_the_middle_of_a_line_breaks_neither() {
        let (beats, mut guest) = port();
        guest.write_all(b"rea\x80\x81dy\n").unwrap();
        beats.wait("line", SHORT, |log| (log.lines.len() == 1).then_some(())).unwrap();
        assert_eq!(beats.lines()[0].text, "ready");
        assert_eq!(beats.timeline().beats(0).len(), 1);
        assert_eq!(beats.timeline().beats(1).len(), 1);
    }

    #[test]
    fn a_line_begun_at_the_source_is_ended_at_the_destination() {
        let (beats, mut source) = port();
        let (ours, mut destination) = UnixStream::pair().unwrap();
        let place = beats.listen(ours).unwrap();
        source.write_all(b"CORRUPT vcpu=\x80").unwrap();
        beats.beat_from(QemuIndex(0), None, SHORT).unwrap();
        destination.write_all(b"0\n\x80").unwrap();
        beats.beat_from(place, None, SHORT).unwrap();
        assert_eq!(beats.qemu_index(), Some(place));
        assert_eq!(beats.corruptions()[0].text, "CORRUPT vcpu=0");
        assert_eq!(beats.timeline().beats(0).len(), 2);
    }

    #[test]
    fn a_check_is_asked_for_where_the_guest_beats_now() {
        let (beats, _source) = port();
        let (ours, mut destination) = UnixStream::pair().unwrap();
        let place = beats.listen(ours).unwrap();
        destination.write_all(b"\x80").unwrap();
        beats.beat_from(place, None, SHORT).unwrap();
        let answer = thread::spawn(move || {
            let mut asked = [0];
            destination.read_exact(&mut asked).unwrap();
            destination.write_all(b"verified pages=24576 errors=1\n").unwrap();
            (asked, destination)
        });
        assert_eq!(beats.verify(SHORT).unwrap(), MemoryCheck { pages: 24576, errors: 1 });
        assert_eq!(answer.join().unwrap().0, *b"v");
    }

    #[test]
    fn a_guest_that_gave_up_or_is_gone_is_not_waited_for() {
        let (beats, mut guest) = port();
        guest.write_all(b"FATAL vCPU 1 does not start\n").unwrap();
        assert!(matches!(beats.ready(SHORT), Err(GuestError::Fatal(_))));
        let (beats, guest) = port();
        drop(guest);
        assert!(matches!(beats.verify(SHORT), Err(GuestError::Gone(_) | GuestError::Port(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_its_lines_grow_without_bound(
            bytes in proptest::collection::vec(any::<u8>(), 0..10_000),
        ) {
            let mut log = Log::default();
            log.take(&bytes, Instant::now(), QemuIndex(0));
            prop_assert_eq!(log.beats.len(), bytes.iter().filter(|b| **b >= 0x80).count());
            for line in log.lines {
                let _ = parse_verified(&line.text);
                prop_assert!(line.text.len() <= LONGEST_LINE);
            }
        }
    }
}
