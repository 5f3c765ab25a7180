//! Signals: the ones that ask landfall to end, and a guardian that none of them ends.

use tokio::signal::unix::{SignalKind, signal};

const ENDING: [(SignalKind, &str); 3] = [
    (SignalKind::interrupt(), "interrupted (Ctrl-C)"),
    (SignalKind::terminate(), "told to end (SIGTERM)"),
    (SignalKind::hangup(), "the terminal was closed (SIGHUP)"),
];

/// Resolves with a reason at the first signal that asks for an end.
pub async fn asked_to_end() -> String {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    for (kind, reason) in ENDING {
        // A signal that cannot be listened to keeps its default: it ends landfall, and the guardian
        // does the rest.
        let Ok(mut signals) = signal(kind) else { continue };
        let tell = tell.clone();
        tokio::spawn(async move {
            signals.recv().await;
            // Nobody listens any more once the first has come.
            let _ = tell.send(reason.to_owned());
        });
    }
    match told.recv().await {
        Some(reason) => reason,
        None => std::future::pending().await,
    }
}

/// Makes these signals harmless for this process: a handler that does nothing replaces their effect.
pub fn ignore() {
    for (kind, _) in ENDING {
        // Where that fails the guardian can be ended by the signal; landfall notices.
        drop(signal(kind));
    }
}
