//! The ways in which talking to a monitor fails.

use std::time::Duration;

use super::Address;

/// Why a monitor could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// No connection.
    #[error("cannot connect to the QMP monitor at {address}: {source}; {hint}", hint = hint(address, source))]
    Connect {
        /// Where.
        address: Address,
        /// Why.
        source: std::io::Error,
    },
    /// A connection on which nobody greets.
    #[error(
        "the monitor at {address} did not greet within {waited:?}: another client probably holds it \
         (QEMU serves one at a time); end that one, or give QEMU a second -qmp socket"
    )]
    NoGreeting {
        /// Where.
        address: Address,
        /// For how long.
        waited: Duration,
    },
    /// Something else listens there.
    #[error(
        "what listens at {address} is not a QMP monitor (it said {got:?}); is it a -monitor or a serial port?"
    )]
    NotQmp {
        /// Where.
        address: Address,
        /// What it said.
        got: String,
    },
    /// No answer in time. It may still come.
    #[error("the monitor at {address} has not answered {command} for {waited:.1?}")]
    Silent {
        /// Where.
        address: Address,
        /// What was asked.
        command: String,
        /// For how long.
        waited: Duration,
    },
    /// The connection has ended.
    #[error(
        "the monitor at {address} closed the connection (at {command}): QEMU has ended, or somebody closed its monitor"
    )]
    Closed {
        /// Where.
        address: Address,
        /// What was asked, or was to be.
        command: String,
    },
    /// QEMU said no.
    #[error("QEMU refuses {command}: {desc}")]
    Refused {
        /// What was asked.
        command: String,
        /// QEMU's class of error, for example `CommandNotFound`.
        class: String,
        /// QEMU's words.
        desc: String,
    },
    /// The monitor offers no out-of-band commands.
    #[error("the monitor at {address} offers no out-of-band commands")]
    NoOutOfBand {
        /// Where.
        address: Address,
    },
    /// An answer that lacks what it must have.
    #[error("QEMU's answer to {command} makes no sense: {problem}")]
    Strange {
        /// What was asked.
        command: String,
        /// What is missing or wrong.
        problem: String,
    },
}

/// What to do about a connection that is refused.
fn hint(address: &Address, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "run landfall as root, or as QEMU's user".to_owned()
        }
        _ => format!("start QEMU with -qmp {address},server=on,wait=off"),
    }
}

impl QmpError {
    /// The connection is of no use any more.
    pub fn is_closed(&self) -> bool {
        matches!(self, QmpError::Closed { .. })
    }
}
