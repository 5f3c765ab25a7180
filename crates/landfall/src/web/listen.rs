//! Where the page is served, and under which conditions: on this host alone, unless it is encrypted.
//!
//! Each connection has a place among a fixed number, a limit on how long its request may take to arrive
//! and how large it may be, and an end: whoever holds one open without a use makes room in time.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections at a time: a browser holds six, and one more for what it follows.
const CONNECTIONS: usize = 128;

/// For a request's head to arrive, and for the handshake before it.
const HEAD: Duration = Duration::from_secs(10);

/// A connection's life. Browsers make another, and follow on where they were.
const LIFE: Duration = Duration::from_secs(15 * 60);

/// What a connection at its end may take to finish the answer under way.
const FAREWELL: Duration = Duration::from_secs(10);

const HEADERS: usize = 64;
const HEAD_BYTES: usize = 32 * 1024;

/// A place to listen at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// An address and port.
    Tcp(SocketAddr),
    /// A Unix socket, for its owner alone.
    Unix(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Tcp(address) => write!(f, "{address}"),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Place {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Place::Unix(path.into()));
        }
        let text = text.replace("localhost:", "127.0.0.1:");
        text.parse().map(Place::Tcp).map_err(|_| {
            "write an address and a port, for example 127.0.0.1:7700, or unix:/path".to_owned()
        })
    }
}

impl Place {
    /// Takes away what nobody listens at any more.
    pub fn leave(&self) {
        if let Place::Unix(path) = self {
            // The next one would take it away as well.
            let _ = fs::remove_file(path);
        }
    }

    /// Whether only processes of this host reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Place::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Place::Unix(_) => true,
        }
    }
}

/// Why the page cannot be served there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others could read along.
    #[error(
        "--listen {0} would show guests, and the token, to the network in the clear; add --tls-cert \
         FILE and --tls-key FILE, or listen on 127.0.0.1:{port} and reach it by \
         `ssh -L {port}:127.0.0.1:{port} HOST`, or on a Unix socket (--listen unix:/path)",
        port = .0.port()
    )]
    InTheClear(SocketAddr),
    /// The system says no.
    #[error("cannot listen on {0}: {1}; choose another place with --listen")]
    Taken(Place, io::Error),
    /// A file of the certificate.
    #[error("{option} {path}: {problem}", path = path.display())]
    Certificate {
        /// Which.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
}

/// An open door.
pub struct Door {
    listener: Listener,
    tls: Option<TlsAcceptor>,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Door {
    /// Opens it.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn open(
        place: &Place,
        certificate: Option<(&Path, &Path)>,
    ) -> Result<Door, ListenError> {
        let tls = certificate.map(|(cert, key)| acceptor(cert, key)).transpose()?;
        if let Place::Tcp(address) = place
            && !place.is_local()
            && tls.is_none()
        {
            return Err(ListenError::InTheClear(*address));
        }
        let taken = |error| ListenError::Taken(place.clone(), error);
        let listener = match place {
            Place::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(taken)?),
            Place::Unix(path) => Listener::Unix(unix(path).map_err(taken)?),
        };
        Ok(Door { listener, tls })
    }

    /// Where it is: with the port that the system chose, where it was asked to.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.listener {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(_) => None,
        }
    }

    /// Whether it is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Lets everybody in who comes, for ever.
    pub async fn serve(self, pages: Router) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = room.clone().acquire_owned().await else { return };
            let pages = pages.clone();
            let tls = self.tls.clone();
            match &self.listener {
                Listener::Tcp(listener) => {
                    let Some((stream, _)) = accepted(listener.accept().await).await else {
                        continue;
                    };
                    tokio::spawn(async move {
                        match tls {
                            None => attend(stream, pages).await,
                            Some(tls) => {
                                if let Ok(Ok(stream)) = timeout(HEAD, tls.accept(stream)).await {
                                    attend(stream, pages).await;
                                }
                            }
                        }
                        drop(place);
                    });
                }
                Listener::Unix(listener) => {
                    let Some((stream, _)) = accepted(listener.accept().await).await else {
                        continue;
                    };
                    tokio::spawn(async move {
                        attend(stream, pages).await;
                        drop(place);
                    });
                }
            }
        }
    }
}

/// What cannot be accepted now (no descriptor is left, say) may be in a moment.
async fn accepted<T>(result: io::Result<T>) -> Option<T> {
    if result.is_err() {
        sleep(Duration::from_millis(100)).await;
    }
    result.ok()
}

/// Answers one connection until it ends.
async fn attend(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, pages: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(HEADERS)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    let mut connection = std::pin::pin!(connection);
    if timeout(LIFE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(FAREWELL, connection).await;
    }
}

/// A socket for its owner alone. One that nobody listens at any more is taken away.
fn unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, ListenError> {
    let wrong = |option, path: &Path, problem: String| ListenError::Certificate {
        option,
        path: path.to_owned(),
        problem,
    };
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).and_then(|certificates| certificates.collect());
    let chain =
        chain.map_err(|error| wrong("--tls-cert", cert, format!("{error}; name a PEM file")))?;
    if chain.is_empty() {
        let problem = "there is no certificate in it; name a PEM file with one".to_owned();
        return Err(wrong("--tls-cert", cert, problem));
    }
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong("--tls-key", key, format!("{error}; name a PEM file with a key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, private))
        .map_err(|error| {
            wrong("--tls-key", key, format!("{error}; it has to be the certificate's own key"))
        })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whether a name in a request can be this host's own: an address is, for no name service can make
/// another host's pages speak from it.
pub fn is_an_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["127.0.0.1:7700", "[::1]:80", "unix:/run/page.sock"] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), text);
        }
        assert!("localhost:7700".parse::<Place>().unwrap().is_local());
        for text in ["7700", "unix:", "example.org:80"] {
            assert!(text.parse::<Place>().unwrap_err().contains("127.0.0.1:7700"), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_sockets_are_local() {
        for (text, local) in [
            ("127.8.8.8:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().is_local(), local, "{text}");
        }
    }
}
