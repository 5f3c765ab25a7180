//! Which process the guest is: the one that serves the monitor's connection must be the one that has the
//! threads it names.
//!
//! The process that answers on the monitor names the threads that landfall will hold. A QEMU that lies, or a relay
//! before it, could name a neighbour's. So the threads must belong to one process, that process must run a
//! QEMU, and the socket at the other end of this very connection must be among its file descriptors
//! ([`crate::procfs::sockets`]). Where that cannot be looked at (another user's process), the process that
//! made the listening socket (`SO_PEERCRED`) must be that QEMU. Where a program in between serves the
//! monitor, the operator can vouch for the process by its id.

use crate::monitor::QemuMonitor;
use crate::procfs::{self, Process, sockets};
use crate::qmp::QmpAddress;
use crate::vcpus::{self, VcpuThreadError};

/// Why it is not certain which process the guest is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The threads are not those of a QEMU on this host.
    #[error(transparent)]
    Threads(#[from] VcpuThreadError),
    /// The monitor is on another host, so the thread ids that it names are those of other threads.
    #[error(
        "the monitor {0} is on another host: landfall holds the guest's threads, so it has to run where \
         QEMU runs; if its address leads back to this host, vouch for QEMU's process with --qemu-pid"
    )]
    MonitorElsewhere(QmpAddress),
    /// One process serves the monitor, and another has the threads that it names.
    #[error(
        "the monitor {monitor} is served by process {server} ({program}), but the threads it names as \
         vCPUs are those of QEMU process {named}: landfall holds no threads on another program's word. \
         Give QEMU's own socket as SOURCE, or, if {named} is this guest, add --qemu-pid {named}"
    )]
    ServedByOther {
        /// The source's monitor.
        monitor: QmpAddress,
        /// The process that serves it.
        server: i32,
        /// Its program.
        program: String,
        /// The process whose threads are named.
        named: i32,
    },
    /// The process that serves the monitor cannot be found.
    #[error(
        "it cannot be seen that QEMU process {named}, whose threads the monitor {monitor} names as vCPUs, \
         serves that monitor: {reason}. Run landfall as root where QEMU runs, or, if {named} is this \
         guest, add --qemu-pid {named}"
    )]
    NotProved {
        /// The source's monitor.
        monitor: QmpAddress,
        /// The process whose threads are named.
        named: i32,
        /// What is in the way.
        reason: String,
    },
    /// The threads are not those of the process that the operator named.
    #[error(
        "--qemu-pid names process {vouched}, but the threads that the monitor {monitor} names as vCPUs \
         are those of process {named}: SOURCE or --qemu-pid is another guest's"
    )]
    NotVouchedFor {
        /// The source's monitor.
        monitor: QmpAddress,
        /// The process that the operator named.
        vouched: i32,
        /// The process whose threads are named.
        named: i32,
    },
}

/// Returns the process of the guest whose vCPUs are these threads, by the word of its monitor. `vouched` is
/// the process that the operator says it is.
///
/// # Errors
/// [`IdentityError`].
pub(crate) fn find_guest_process(
    source: &QemuMonitor,
    tids: &[i32],
    vouched: Option<i32>,
) -> Result<Process, IdentityError> {
    let monitor = || source.address().clone();
    if let Some(vouched) = vouched {
        let process = vcpus::find_process(tids)?;
        let named = process.pid;
        return match named == vouched {
            true => Ok(process),
            false => Err(IdentityError::NotVouchedFor { monitor: monitor(), vouched, named }),
        };
    }
    let socket = source.local_socket();
    if socket.is_some_and(|socket| !socket.has_peer_here()) {
        return Err(IdentityError::MonitorElsewhere(monitor()));
    }
    let process = vcpus::find_qemu_process(tids)?;
    let named = process.pid;
    let peer = match socket {
        Some(socket) => socket.peer_inode().map_err(|error| error.to_string()),
        None => Err("the connection has no socket of its own".to_owned()),
    };
    let served = peer.and_then(|inode| {
        let held = sockets::holds_socket(named, inode).map_err(|error| error.to_string())?;
        Ok(if held { vec![named] } else { sockets::find_socket_holders(inode) })
    });
    match served {
        Ok(holders) if holders == [named] => Ok(process),
        Ok(holders) => match holders.first() {
            Some(&server) => Err(IdentityError::ServedByOther {
                monitor: monitor(),
                server,
                program: procfs::read_program(server).unwrap_or_default(),
                named,
            }),
            None => Err(IdentityError::NotProved {
                monitor: monitor(),
                named,
                reason: "the process at the other end is not to be seen from here".to_owned(),
            }),
        },
        // It made the socket, and has not been seen to give it away.
        Err(_) if source.peer_pid() == Some(named) => Ok(process),
        Err(reason) => Err(IdentityError::NotProved { monitor: monitor(), named, reason }),
    }
}
