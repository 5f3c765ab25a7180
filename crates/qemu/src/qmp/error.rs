//! The ways in which talking to a QMP monitor fails.

use std::io;
use std::time::Duration;

use super::QmpAddress;

/// Why a command could not be sent to a monitor, or what QEMU responded instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No connection could be made: nothing listens there, or the operating system does not allow it. Also
    /// returned if the connection breaks before the greeting.
    #[error("cannot connect to the QMP monitor at {address}: {source}; {remedy}", remedy = connect_remedy(address, source))]
    Connect {
        /// The monitor.
        address: QmpAddress,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The connection was made, but no greeting came.
    #[error(
        "the monitor at {address} did not greet within {waited:?}: another client probably holds it \
         (QEMU serves one at a time); end that one, or give QEMU a second -qmp socket"
    )]
    NoGreeting {
        /// The monitor.
        address: QmpAddress,
        /// For how long it was waited.
        waited: Duration,
    },
    /// The first line is not the greeting of a QMP monitor.
    #[error(
        "what listens at {address} is not a QMP monitor (it said {got:?}); is it a -monitor or a serial port?"
    )]
    NotQmp {
        /// The address.
        address: QmpAddress,
        /// The beginning of the first line.
        got: String,
    },
    /// No response came in time. It may still come.
    #[error(
        "the monitor at {address} has not answered {command} for {waited:.1?}; look whether QEMU is stopped or hangs"
    )]
    Timeout {
        /// The monitor.
        address: QmpAddress,
        /// The command.
        command: String,
        /// Time since the command was sent.
        waited: Duration,
    },
    /// The connection has ended, before the command was sent or before the response came.
    #[error(
        "the monitor at {address} closed the connection (at {command}): QEMU has ended, or its monitor was closed"
    )]
    Closed {
        /// The monitor.
        address: QmpAddress,
        /// The command.
        command: String,
    },
    /// QEMU responded with an error.
    #[error("QEMU refuses {command}: {desc}")]
    Rejected {
        /// The command.
        command: String,
        /// QEMU's class of error, for example `CommandNotFound`.
        class: String,
        /// QEMU's description.
        desc: String,
    },
    /// A command has to be sent out of band, and the monitor does not offer that.
    #[error(
        "the monitor at {address} offers no out-of-band commands; give QEMU a -qmp socket of its own for landfall"
    )]
    NoOutOfBand {
        /// The monitor.
        address: QmpAddress,
    },
    /// The response lacks what it has to hold.
    #[error(
        "QEMU's answer to {command} makes no sense: {problem}; please report this with QEMU's version"
    )]
    UnexpectedResponse {
        /// The command.
        command: String,
        /// What is missing or wrong.
        problem: &'static str,
    },
}

/// Returns what to do about a connection that could not be made.
fn connect_remedy(address: &QmpAddress, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "run landfall as root, or as QEMU's user".to_owned(),
        _ => format!("start QEMU with -qmp {address},server=on,wait=off"),
    }
}

impl QmpError {
    /// Returns whether the connection has ended, so that no command can be sent over it any more.
    pub fn is_closed(&self) -> bool {
        matches!(self, QmpError::Closed { .. })
    }

    /// Returns whether nothing listens at the monitor's address.
    pub fn is_nothing_there(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, QmpError::Connect { source, .. }
            if matches!(source.kind(), NotFound | ConnectionRefused))
    }
}
