//! Which process serves a connection: the holder of the socket at its other end.
//!
//! What `SO_PEERCRED` says is who *made* the listening socket, which may be libvirt for a QEMU that serves
//! it, or a relay. So the other end of this very connection is looked up: for a Unix socket by the kernel's
//! `sock_diag` (the request goes to landfall's own socket, so QEMU's network namespace does not matter), for
//! TCP by the pair of addresses in `/proc/net/tcp` and `tcp6`. A process has a socket if a file descriptor of
//! it is `socket:[INODE]` (`/proc/PID/fd`), which only root and the process's own user can see.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::{ProcError, list_pids, process_file, read_error};

/// landfall's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalSocket {
    inode: u64,
    /// Its own and its peer's address; `None` for a Unix socket.
    tcp: Option<TcpAddresses>,
}

/// The two ends of a TCP connection, as this end sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TcpAddresses {
    local: SocketAddr,
    peer: SocketAddr,
}

/// Why the other end of a connection is not known.
#[derive(Debug, thiserror::Error)]
pub enum PeerSocketError {
    /// The kernel was not willing to say.
    #[error("the kernel does not say what the other end of the connection is: {0}")]
    Kernel(#[from] io::Error),
    /// There is no other end on this host.
    #[error("the other end of the connection is not a socket of this host's network namespace")]
    NotFound,
}

impl LocalSocket {
    /// Returns what identifies a Unix socket.
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn unix(socket: impl AsFd) -> io::Result<LocalSocket> {
        Ok(LocalSocket { inode: rustix::fs::fstat(socket)?.st_ino, tcp: None })
    }

    /// Returns what identifies a TCP socket.
    ///
    /// # Errors
    /// What `fstat` answers.
    pub fn tcp(socket: impl AsFd, local: SocketAddr, peer: SocketAddr) -> io::Result<LocalSocket> {
        let inode = rustix::fs::fstat(socket)?.st_ino;
        Ok(LocalSocket { inode, tcp: Some(TcpAddresses { local, peer }) })
    }

    /// Returns whether the other end is on this host: a Unix socket, the loopback, or an address of this
    /// host. The kernel connects to an address of its own from that same address.
    pub fn has_peer_here(&self) -> bool {
        self.tcp.is_none_or(|TcpAddresses { local, peer }| {
            let peer = peer.ip().to_canonical();
            peer.is_loopback() || peer == local.ip().to_canonical()
        })
    }

    /// Returns the inode of the socket at the other end.
    ///
    /// # Errors
    /// [`PeerSocketError`].
    pub fn peer_inode(&self) -> Result<u64, PeerSocketError> {
        let inode = match self.tcp {
            None => {
                let inode = u32::try_from(self.inode).map_err(|_| PeerSocketError::NotFound)?;
                query_unix_peer(inode)?
            }
            Some(TcpAddresses { local, peer }) => {
                let mut tables = Vec::new();
                for name in ["tcp", "tcp6"] {
                    tables.push(fs::read_to_string(format!("/proc/self/net/{name}")));
                }
                // A kernel without IPv6 has no tcp6.
                let rows = tables.iter().flatten().flat_map(|table| table.lines());
                rows.filter_map(parse_tcp_row).find_map(|row| {
                    (row.local == canonical(peer) && row.peer == canonical(local))
                        .then_some(row.inode)
                })
            }
        };
        inode.filter(|inode| *inode != 0).ok_or(PeerSocketError::NotFound)
    }
}

/// Returns whether a process has this socket open.
///
/// # Errors
/// [`ProcError::Ended`], [`ProcError::Read`]: only root and the process's own user may know.
pub fn holds_socket(pid: i32, inode: u64) -> Result<bool, ProcError> {
    let path = process_file(pid, "fd");
    let name = format!("socket:[{inode}]");
    let entries = fs::read_dir(&path).map_err(|source| read_error(&path, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| read_error(&path, source))?.path();
        match fs::read_link(&entry) {
            Ok(target) if target.as_os_str() == name.as_str() => return Ok(true),
            // A descriptor that has just been closed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(read_error(&entry, error)),
            Ok(_) => {}
        }
    }
    Ok(false)
}

/// Returns the processes that have this socket open, as far as this user may see them.
pub fn find_socket_holders(inode: u64) -> Vec<i32> {
    list_pids().into_iter().filter(|pid| holds_socket(*pid, inode).unwrap_or(false)).collect()
}

/// The length of a netlink header (`struct nlmsghdr`).
const NETLINK_HEADER: usize = 16;
/// `SOCK_DIAG_BY_FAMILY`: the kind of the request and of its answer.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// `AF_UNIX`.
const UNIX: u8 = 1;
/// `UDIAG_SHOW_PEER`: the answer is to name the peer.
const SHOW_PEER: u32 = 4;
/// `UNIX_DIAG_PEER`: the attribute that does.
const PEER_ATTRIBUTE: u16 = 2;
/// The length of `struct unix_diag_msg`.
const UNIX_DIAG_MESSAGE: usize = 16;

/// Asks the kernel for the peer of one Unix socket (sock_diag(7)).
fn query_unix_peer(inode: u32) -> io::Result<Option<u64>> {
    let family = AddressFamily::NETLINK;
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, Some(SOCK_DIAG))?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &unix_peer_request(inode), SendFlags::empty(), &kernel)?;
    let mut answer = [0; 1024];
    // The kernel answers before the request returns.
    let (length, _) = rustix::net::recv(&socket, &mut answer, RecvFlags::DONTWAIT)?;
    Ok(parse_unix_peer(&answer[..length]).map(u64::from))
}

/// `struct nlmsghdr` and `struct unix_diag_req`.
fn unix_peer_request(inode: u32) -> Vec<u8> {
    let mut request = Vec::new();
    request.extend(40_u32.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(REQUEST.to_ne_bytes());
    request.extend([0; 8]); // sequence number and port
    request.extend([UNIX, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes()); // any state
    request.extend(inode.to_ne_bytes());
    request.extend(SHOW_PEER.to_ne_bytes());
    request.extend([0xff; 8]); // INET_DIAG_NOCOOKIE
    request
}

/// Reads the peer's inode from the answer; `None` if it is an error or names none.
pub fn parse_unix_peer(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut at = NETLINK_HEADER + UNIX_DIAG_MESSAGE;
    loop {
        let (length, kind) = (usize::from(half(at)?), half(at + 2)?);
        if kind == PEER_ATTRIBUTE && length == 8 {
            return Some(u32::from_ne_bytes(answer.get(at + 4..at + 8)?.try_into().ok()?));
        }
        // Attributes begin at multiples of four bytes; none is shorter than its header.
        at += length.max(4).next_multiple_of(4);
    }
}

/// A TCP connection of this host.
#[derive(Debug, PartialEq, Eq)]
pub struct TcpRow {
    /// This end. An IPv4 address in its own form, also where it is mapped to IPv6.
    pub local: SocketAddr,
    /// The other end.
    pub peer: SocketAddr,
    /// The inode of the socket at this end.
    pub inode: u64,
}

/// Reads a line of `/proc/net/tcp` or `tcp6` (proc(5)): `sl local_address rem_address st
/// tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode ...`. `None` for the head.
pub fn parse_tcp_row(line: &str) -> Option<TcpRow> {
    let mut words = line.split_whitespace();
    let (local, peer) = (words.nth(1)?, words.next()?);
    let inode = words.nth(6)?.parse().ok()?;
    Some(TcpRow { local: parse_tcp_address(local)?, peer: parse_tcp_address(peer)?, inode })
}

/// Reads `0100007F:115C`: the address in words of 32 bits, each printed as a number of this machine.
fn parse_tcp_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let digits = address.get(at * 8..at * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))
        }
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
}

/// Returns an IPv4 address as such, also where an IPv6 socket has it; without the scope, which `/proc` does
/// not show.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn own_pid() -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    fn inode_of(socket: impl AsFd) -> u64 {
        rustix::fs::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn the_other_end_of_a_unix_connection_is_the_accepted_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let client = UnixStream::connect(&path).unwrap();
        let served = listener.accept().unwrap().0;
        let socket = LocalSocket::unix(&client).unwrap();
        assert!(socket.has_peer_here());
        let peer = socket.peer_inode().unwrap();
        assert_eq!(peer, inode_of(&served));
        assert!(holds_socket(own_pid(), peer).unwrap());
        assert!(find_socket_holders(peer).contains(&own_pid()));
        drop(served);
        assert!(matches!(socket.peer_inode(), Err(PeerSocketError::NotFound)));
        assert!(!holds_socket(own_pid(), peer).unwrap());
    }

    #[test]
    fn the_other_end_of_a_tcp_connection_is_found_by_its_addresses() {
        for bind in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(bind) else {
                eprintln!("skipped: no {bind} here");
                continue;
            };
            let port = listener.local_addr().unwrap().port();
            // A socket for both protocols is reached by IPv4.
            let to = if bind == "[::1]:0" { "::1" } else { "127.0.0.1" };
            let client = TcpStream::connect((to, port)).unwrap();
            let served = listener.accept().unwrap().0;
            let (local, peer) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let socket = LocalSocket::tcp(&client, local, peer).unwrap();
            assert!(socket.has_peer_here());
            assert_eq!(socket.peer_inode().unwrap(), inode_of(&served), "{bind}");
        }
    }

    #[test]
    fn only_addresses_of_this_host_are_here() {
        let is_here = |local: &str, peer: &str| {
            let tcp = TcpAddresses { local: local.parse().unwrap(), peer: peer.parse().unwrap() };
            LocalSocket { inode: 1, tcp: Some(tcp) }.has_peer_here()
        };
        assert!(is_here("127.0.0.1:5", "127.8.0.1:6"));
        assert!(is_here("[::1]:5", "[::1]:6"));
        assert!(is_here("10.0.0.1:5", "10.0.0.1:6"));
        assert!(!is_here("10.0.0.1:5", "10.0.0.2:6"));
        assert!(!is_here("[2001:db8::1]:5", "[2001:db8::127]:6"));
    }

    #[test]
    fn rows_of_the_kernel_are_read() {
        let row = "   0: 0100007F:115C 0200007F:D2A4 01 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 20 4";
        let row = parse_tcp_row(row).unwrap();
        assert_eq!((row.local.port(), row.peer.port(), row.inode), (0x115c, 0xd2a4, 4711));
        #[cfg(target_endian = "little")]
        assert_eq!(row.local.ip(), IpAddr::from([127, 0, 0, 1]));
        assert_eq!(parse_tcp_row("  sl  local_address rem_address   st tx_queue"), None);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..80), line in ".{0,90}") {
            parse_unix_peer(&bytes);
            let mut answer = vec![0; 32];
            answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            answer.extend(bytes);
            parse_unix_peer(&answer);
            parse_tcp_row(&line);
            parse_tcp_address(&line);
        }
    }
}
