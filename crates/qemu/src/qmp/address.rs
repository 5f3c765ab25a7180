//! Addresses of QMP monitors.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The address of a QMP monitor: `unix:/path` or `tcp:host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QmpAddress {
    /// A Unix socket.
    Unix(PathBuf),
    /// A host and a port, as `host:port`.
    Tcp(String),
}

impl fmt::Display for QmpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QmpAddress::Unix(path) => write!(f, "unix:{}", path.display()),
            QmpAddress::Tcp(host_port) => write!(f, "tcp:{host_port}"),
        }
    }
}

/// A text that is not the address of a QMP monitor: the transport is missing or unknown, or what
/// follows it is not a path, or not a host and a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a QMP address; write unix:/path/to/socket or tcp:host:port")]
pub struct QmpAddressError(pub String);

impl FromStr for QmpAddress {
    type Err = QmpAddressError;

    /// Reads `unix:/run/vm.qmp`, `tcp:127.0.0.1:4445`, or an absolute path.
    ///
    /// # Errors
    /// [`QmpAddressError`].
    fn from_str(text: &str) -> Result<Self, QmpAddressError> {
        let bad = || QmpAddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err(bad()) } else { Ok(QmpAddress::Unix(path.into())) };
        }
        if text.starts_with('/') {
            return Ok(QmpAddress::Unix(text.into()));
        }
        let host_port = text.strip_prefix("tcp:").ok_or_else(bad)?;
        let (host, port) = host_port.rsplit_once(':').ok_or_else(bad)?;
        match port.parse::<u16>() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(QmpAddress::Tcp(host_port.to_owned())),
            _ => Err(bad()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_they_are_written() {
        for text in ["unix:/run/vm.qmp", "tcp:127.0.0.1:4445", "tcp:[::1]:4445"] {
            assert_eq!(text.parse::<QmpAddress>().unwrap().to_string(), text);
        }
        assert_eq!("/run/vm.qmp".parse(), Ok(QmpAddress::Unix("/run/vm.qmp".into())));
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_two_forms() {
        for text in ["", "unix:", "tcp:", "tcp:host", "tcp:host:0", "tcp::1", "vm.qmp", "http:x:1"]
        {
            let error = text.parse::<QmpAddress>().unwrap_err().to_string();
            assert!(error.contains("unix:/path") && error.contains("tcp:host:port"), "{error}");
        }
    }
}
