//! Lines on standard error and standard output. Errors of writing are ignored: both streams can be
//! closed, for example with the terminal, and that must not end landfall.
//!
//! Standard error may stand still for as long as a person likes (Ctrl-S, a pipe that is not read), and a guest
//! is being steered meanwhile. So a thread writes to it, from a queue of limited length; what finds it full
//! is dropped, and counted.

use std::io::{self, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use crate::clean_text::clean_text;

/// Lines that wait for the terminal.
const QUEUE: usize = 256;

/// The longest line, in characters: what a hostile peer says need not be read whole.
const MAX_CHARACTERS: usize = 4000;

static WRITER: OnceLock<SyncSender<Note>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Note {
    Line(String),
    /// Everything before this is written once the sender is dropped.
    Flush(SyncSender<()>),
}

/// Writes a line for the operator to standard error. Never waits: where the terminal does not take it, the
/// line is dropped.
pub fn eprint_line(line: &str) {
    let line: String = clean_text(line).chars().take(MAX_CHARACTERS).collect();
    if writer().try_send(Note::Line(line)).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until the lines so far are written, for at most `limit`.
pub fn flush_stderr(limit: Duration) {
    let (done, written) = sync_channel(0);
    if writer().try_send(Note::Flush(done)).is_ok() {
        let _ = written.recv_timeout(limit);
    }
}

/// Writes a line of a result to standard output.
pub fn print_line(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn writer() -> &'static SyncSender<Note> {
    WRITER.get_or_init(|| {
        let (sender, notes) = sync_channel(QUEUE);
        thread::spawn(move || write_notes(&notes));
        sender
    })
}

fn write_notes(notes: &Receiver<Note>) {
    while let Ok(note) = notes.recv() {
        match note {
            Note::Line(line) => {
                let _ = writeln!(io::stderr(), "{line}");
                let dropped = DROPPED.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    let _ = writeln!(io::stderr(), "landfall: {dropped} lines were lost here");
                }
            }
            Note::Flush(done) => drop(done),
        }
    }
}
