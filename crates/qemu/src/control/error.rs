//! Why a control request fails: on the client's side, and on that of the landfall that steers.

use std::io;
use std::path::PathBuf;

use landfall_core::requirements::SettingError;

use super::MAX_REQUEST_BYTES;

/// Why a client gets no answer from a landfall that steers.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No landfall of this user steers a guest of that name.
    #[error(
        "no landfall is steering {name:?}; {others}. GUEST is the SOURCE that landfall migrate was \
         given (unix:/run/vm.qmp), QEMU's -name, or its process id"
    )]
    NotSteered {
        /// The name that was asked for.
        name: String,
        /// What is being steered instead, as part of a sentence.
        others: String,
    },
    /// Several guests that are being steered have that name.
    #[error("{name:?} are several guests, of QEMU processes {pids:?}; say which by its process id")]
    Ambiguous {
        /// The name that was asked for.
        name: String,
        /// The process ids of their QEMUs.
        pids: Vec<i32>,
    },
    /// The directory of control sockets cannot be read, for example by another user than landfall's.
    #[error("cannot look into {path}: {source}; run it as root, or as the user who runs landfall migrate", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The landfall does not answer in time, or closes the connection. The request may have been carried
    /// out.
    #[error("the landfall at {path} does not answer ({source}); look whether it is stopped, or has just ended", path = path.display())]
    NoAnswer {
        /// Its control socket.
        path: PathBuf,
        /// How the connection failed.
        source: io::Error,
    },
}

/// Why a landfall that steers refuses a request. Sent to the client as text.
#[derive(Debug, thiserror::Error)]
pub enum ControlRefusal {
    /// The line is not JSON, or not a known command with its fields.
    #[error(
        "that is no request ({0}); send a line like {{\"command\":\"show\"}} or \
         {{\"command\":\"set\",\"demands\":{{\"max-stall\":\"500ms\"}}}}"
    )]
    NotARequest(serde_json::Error),
    /// The line is longer than any request.
    #[error("a line has at most {MAX_REQUEST_BYTES} bytes")]
    TooLong,
    /// A requirement has an unknown name or an impossible value.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The client runs as another user, who is not root.
    #[error("user {client} may not change what user {own} steers; run it as that user or as root")]
    ForeignUser {
        /// The client's user id.
        client: u32,
        /// landfall's user id.
        own: u32,
    },
    /// The kernel does not tell which user the client runs as.
    #[error("cannot tell which user asks: {0}")]
    UnknownUser(io::Error),
    /// Other clients' requests fill the queue.
    #[error("too much is asked at once; try again in a second")]
    Busy,
    /// The migration has ended meanwhile.
    #[error("the migration is over")]
    Over,
    /// The driver did not take the request up in time, because QEMU does not answer it.
    #[error(
        "QEMU does not answer at the moment, so nothing can be changed; see how it stands, and try \
         again"
    )]
    QemuSilent,
}
