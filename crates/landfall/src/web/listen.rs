//! Where the page is served: on a loopback address or a Unix socket, or anywhere with TLS.
//!
//! Every connection counts against a fixed number, has a limit on the time that its request may take to
//! arrive and on its size, and ends after a set time. A client that holds connections open cannot keep
//! others out for long.

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
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// Connections at a time. A browser holds six, and one more for the events that it follows.
const MAX_CONNECTIONS: usize = 128;

/// The longest time for the head of a request to arrive, and for the TLS handshake before it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest life of a connection. Browsers open another one and continue where they were.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(15 * 60);

/// How long a connection at the end of its life may take to finish its current answer.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// The most headers of a request.
const MAX_HEADERS: usize = 64;

/// The largest head of a request.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// How long to wait after a connection could not be accepted.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix socket that only its owner may connect to.
    Unix(PathBuf),
}

/// A text that is not an address to listen on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an address to listen on; write an IP address and a port, for example \
     127.0.0.1:7700, or unix:/path for a Unix socket"
)]
pub struct ListenAddressError(String);

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddress::Tcp(address) => write!(f, "{address}"),
            ListenAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for ListenAddress {
    type Err = ListenAddressError;

    fn from_str(text: &str) -> Result<Self, ListenAddressError> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(ListenAddress::Unix(path.into()));
        }
        let address = text.replace("localhost:", "127.0.0.1:").parse();
        address.map(ListenAddress::Tcp).map_err(|_| ListenAddressError(text.to_owned()))
    }
}

impl ListenAddress {
    /// Removes the socket's file once nothing listens on it.
    pub fn remove_socket(&self) {
        if let ListenAddress::Unix(path) = self {
            // If this fails, the next landfall serve removes it.
            let _ = fs::remove_file(path);
        }
    }

    /// Returns whether only processes of this host can connect.
    pub fn is_local(&self) -> bool {
        match self {
            ListenAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
            ListenAddress::Unix(_) => true,
        }
    }
}

/// Why the page cannot be served at an address.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others on the network could read along.
    #[error(
        "--listen {0} would send the token and everything on the page unencrypted over the network; \
         add --tls-cert FILE and --tls-key FILE, or listen on 127.0.0.1:{port} and reach it by \
         `ssh -L {port}:127.0.0.1:{port} HOST`, or on a Unix socket (--listen unix:/path)",
        port = .0.port()
    )]
    Unencrypted(SocketAddr),
    /// The system does not allow it.
    #[error("cannot listen on {address}: {source}; choose another address with --listen")]
    Bind {
        /// The address.
        address: ListenAddress,
        /// Why not.
        source: io::Error,
    },
    /// The file of the certificate cannot be read.
    #[error(
        "--tls-cert {}: cannot read a certificate: {source}; name a PEM file with the server's \
         certificate",
        path.display()
    )]
    ReadCertificate {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// The file of the certificate has none in it.
    #[error(
        "--tls-cert {}: there is no certificate in it; name a PEM file with the server's certificate",
        path.display()
    )]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The file of the key cannot be read.
    #[error(
        "--tls-key {}: cannot read a private key: {source}; name a PEM file with the certificate's \
         private key",
        path.display()
    )]
    ReadKey {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: pem::Error,
    },
    /// Certificate and key do not work together.
    #[error(
        "--tls-key {}: {source}; name the private key of the first certificate in --tls-cert",
        path.display()
    )]
    KeyMismatch {
        /// The file of the key.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// A socket that listens, with TLS where it was asked for.
pub struct PageListener {
    socket: ListenSocket,
    tls: Option<TlsAcceptor>,
}

enum ListenSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl PageListener {
    /// Listens on an address, with the files of a certificate and its key for TLS.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn open(
        address: &ListenAddress,
        certificate: Option<(&Path, &Path)>,
    ) -> Result<PageListener, ListenError> {
        let tls = certificate.map(|(cert, key)| read_tls_files(cert, key)).transpose()?;
        if let ListenAddress::Tcp(tcp) = address
            && !address.is_local()
            && tls.is_none()
        {
            return Err(ListenError::Unencrypted(*tcp));
        }
        let failed = |source| ListenError::Bind { address: address.clone(), source };
        let socket = match address {
            ListenAddress::Tcp(tcp) => {
                ListenSocket::Tcp(TcpListener::bind(tcp).await.map_err(failed)?)
            }
            ListenAddress::Unix(path) => ListenSocket::Unix(bind_unix(path).map_err(failed)?),
        };
        Ok(PageListener { socket, tls })
    }

    /// Returns the TCP address, with the port that the system chose for port 0.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            ListenSocket::Tcp(listener) => listener.local_addr().ok(),
            ListenSocket::Unix(_) => None,
        }
    }

    /// Returns whether connections use TLS.
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// Accepts and answers connections. Does not return by itself.
    pub async fn serve(self, pages: Router) {
        let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let pages = pages.clone();
            let tls = self.tls.clone();
            match &self.socket {
                ListenSocket::Tcp(listener) => {
                    let Some((stream, _)) = accepted_or_wait(listener.accept().await).await else {
                        continue;
                    };
                    tokio::spawn(async move {
                        match tls {
                            None => answer_connection(stream, pages).await,
                            Some(tls) => {
                                let handshake = timeout(HEAD_TIMEOUT, tls.accept(stream)).await;
                                if let Ok(Ok(stream)) = handshake {
                                    answer_connection(stream, pages).await;
                                }
                            }
                        }
                        drop(permit);
                    });
                }
                ListenSocket::Unix(listener) => {
                    let Some((stream, _)) = accepted_or_wait(listener.accept().await).await else {
                        continue;
                    };
                    tokio::spawn(async move {
                        answer_connection(stream, pages).await;
                        drop(permit);
                    });
                }
            }
        }
    }
}

/// Returns the connection, or waits a moment: a lack of file descriptors, for example, may pass.
async fn accepted_or_wait<T>(result: io::Result<T>) -> Option<T> {
    if result.is_err() {
        sleep(ACCEPT_RETRY).await;
    }
    result.ok()
}

/// Answers the requests of one connection until it ends.
async fn answer_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    pages: Router,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    let mut connection = std::pin::pin!(connection);
    if timeout(MAX_CONNECTION_AGE, connection.as_mut()).await.is_err() {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(SHUTDOWN_GRACE, connection).await;
    }
}

/// Binds a socket that only its owner may connect to. Removes one that nothing listens on any more.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
        fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn read_tls_files(cert: &Path, key: &Path) -> Result<TlsAcceptor, ListenError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(cert).and_then(|certificates| certificates.collect());
    let chain =
        chain.map_err(|source| ListenError::ReadCertificate { path: cert.to_owned(), source })?;
    if chain.is_empty() {
        return Err(ListenError::NoCertificate { path: cert.to_owned() });
    }
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| ListenError::ReadKey { path: key.to_owned(), source })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, private_key))
        .map_err(|source| ListenError::KeyMismatch { path: key.to_owned(), source })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Returns whether the host in a request is an IP address. No name service can point an address to
/// another site's page, so every address counts as this host's own.
pub fn is_ip_address(host: &str) -> bool {
    host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["127.0.0.1:7700", "[::1]:80", "unix:/run/page.sock"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
        assert!("localhost:7700".parse::<ListenAddress>().unwrap().is_local());
        for text in ["7700", "unix:", "example.org:80"] {
            let error = text.parse::<ListenAddress>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("127.0.0.1:7700"), "{error}");
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
            assert_eq!(text.parse::<ListenAddress>().unwrap().is_local(), local, "{text}");
        }
    }
}
