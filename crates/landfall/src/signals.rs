//! Signals: the ones that ask landfall to end, and a guardian that none of them ends.

use landfall_qemu::driver::Interrupts;
use tokio::signal::unix::{SignalKind, signal};

const ENDING: [(SignalKind, &str); 3] = [
    (SignalKind::interrupt(), "interrupted (Ctrl-C)"),
    (SignalKind::terminate(), "told to end (SIGTERM)"),
    (SignalKind::hangup(), "the terminal was closed (SIGHUP)"),
];

/// Listens, from now on, to the signals that ask for an end; each gives a reason.
pub fn listen() -> Interrupts {
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    for (kind, reason) in ENDING {
        // A signal that cannot be listened to keeps its default: it ends landfall, and the guardian
        // does the rest.
        let Ok(mut signals) = signal(kind) else { continue };
        let tell = tell.clone();
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if tell.send(reason.to_owned()).is_err() {
                    break;
                }
            }
        });
    }
    told
}

/// Makes these signals harmless for this process: a handler that does nothing replaces their effect.
pub fn ignore() {
    for (kind, _) in ENDING {
        // Where that fails the guardian can be ended by the signal; landfall notices.
        drop(signal(kind));
    }
}
