//! The ends of the relays: where they listen and what they connect to.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::sockopt;

/// Small, so that little is under way that a real link would not hold either. (The kernel doubles
/// it for its own needs.)
pub(crate) const SOCKET_BUFFER: usize = 256 * 1024;

/// An end of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// An address and port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// As QEMU writes it in a migration URI.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => write!(f, "tcp:{address}"),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = io::Error;
    /// Reads `tcp:127.0.0.1:4444` and `unix:/run/in.sock`. Names are not looked up.
    fn from_str(text: &str) -> io::Result<Self> {
        let tcp = |address: &str| address.parse().map(Endpoint::Tcp).ok();
        let unix = |path| Some(Endpoint::Unix(PathBuf::from(path)));
        let found = match text.split_once(':') {
            Some(("tcp", address)) => tcp(address),
            Some(("unix", path)) => unix(path),
            _ => None,
        };
        found.ok_or_else(|| {
            let why = format!("{text:?} is no end of a link; write tcp:ADDRESS:PORT or unix:PATH");
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })
    }
}

/// A socket that takes connections.
#[derive(Debug)]
pub(crate) enum EndpointListener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl EndpointListener {
    pub(crate) fn bind(at: &Endpoint) -> io::Result<Self> {
        let listener = match at {
            Endpoint::Tcp(address) => EndpointListener::Tcp(TcpListener::bind(address)?),
            Endpoint::Unix(path) => EndpointListener::Unix(UnixListener::bind(path)?),
        };
        // What is accepted inherits it, and only so does it bound the window from the start.
        sockopt::set_socket_recv_buffer_size(listener.as_fd(), SOCKET_BUFFER)?;
        Ok(listener)
    }

    pub(crate) fn at(&self, asked: Endpoint) -> io::Result<Endpoint> {
        Ok(match self {
            EndpointListener::Tcp(listener) => Endpoint::Tcp(listener.local_addr()?),
            EndpointListener::Unix(_) => asked,
        })
    }

    pub(crate) fn accept(&self) -> io::Result<EndpointStream> {
        Ok(match self {
            EndpointListener::Tcp(listener) => {
                EndpointStream::Tcp(listener.accept()?.0).without_delay()
            }
            EndpointListener::Unix(listener) => EndpointStream::Unix(listener.accept()?.0),
        })
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            EndpointListener::Tcp(listener) => listener.as_fd(),
            EndpointListener::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) enum EndpointStream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl EndpointStream {
    pub(crate) fn connect(to: &Endpoint) -> io::Result<Self> {
        Ok(match to {
            Endpoint::Tcp(address) => {
                EndpointStream::Tcp(TcpStream::connect(address)?).without_delay()
            }
            Endpoint::Unix(path) => EndpointStream::Unix(UnixStream::connect(path)?),
        })
    }

    /// Small messages (the return path's) are not held back. Failing that they are late, not lost.
    pub(crate) fn without_delay(self) -> Self {
        if let EndpointStream::Tcp(stream) = &self {
            let _ = stream.set_nodelay(true);
        }
        self
    }

    /// Returns whether this is a TCP connection to its own port: the kernel makes one where a free port is
    /// connected to and happens to be the one chosen for the near end.
    pub(crate) fn is_connected_to_itself(&self) -> bool {
        match self {
            EndpointStream::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
                (Ok(near), Ok(far)) => near == far,
                _ => false,
            },
            EndpointStream::Unix(_) => false,
        }
    }

    pub(crate) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            EndpointStream::Tcp(stream) => (&*stream).read(buffer),
            EndpointStream::Unix(stream) => (&*stream).read(buffer),
        }
    }

    pub(crate) fn write_all(&self, buffer: &[u8]) -> io::Result<()> {
        match self {
            EndpointStream::Tcp(stream) => (&*stream).write_all(buffer),
            EndpointStream::Unix(stream) => (&*stream).write_all(buffer),
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            EndpointStream::Tcp(stream) => stream.as_fd(),
            EndpointStream::Unix(stream) => stream.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_as_it_is_written_and_nothing_else_is() {
        for text in ["tcp:127.0.0.1:4444", "unix:/run/x.sock", "tcp:[::1]:1"] {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
        for text in ["", "tcp:host:1", "tcp:127.0.0.1", "rdma:1", "exec:cat"] {
            assert!(text.parse::<Endpoint>().unwrap_err().to_string().contains("write tcp:"));
        }
    }
}
