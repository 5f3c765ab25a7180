//! The control socket of a running landfall: how `landfall set` and the web pages see and change the
//! requirements of a migration that is under way.
//!
//! A landfall that steers a guest listens on a Unix socket of its own in [`crate::runtime_dir`], named
//! after the guest's process as its lock is. A client sends one line of JSON ([`ControlRequest`]) and
//! gets one back ([`ControlAnswer`]). Only root and landfall's own user may connect.
//!
//! - [`server`] listens, reads and refuses. The driver gets only requests that were read and checked
//!   whole, through a bounded channel, and takes them up at its next tick: no client can make it wait.
//! - [`client`] finds the landfall that steers a guest, and sends it requests.

pub mod client;
mod error;
pub mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use landfall_core::requirements::{Setting, SettingError, Settings};
use landfall_core::telemetry::progress::ProgressSnapshot;
use serde::{Deserialize, Serialize};

pub use error::{ClientError, ControlRefusal};

use crate::procfs::Process;
use crate::qmp::QmpAddress;
use crate::runtime_dir;

/// The longest request, in bytes.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// What a client can ask of a running landfall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ControlRequest {
    /// Report the migration, its requirements and its progress.
    Show,
    /// Change requirements from now on.
    Set {
        /// At least one value by its name, both as on the command line.
        #[serde(rename = "demands")]
        settings: BTreeMap<String, String>,
    },
    /// Cancel the migration, so that the guest stays at the source.
    Cancel,
}

/// What a running landfall answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum ControlAnswer {
    /// The answer to [`ControlRequest::Show`].
    Shown {
        /// The migration.
        steered: Box<SteeredMigration>,
    },
    /// The new requirements are in force.
    Set {
        /// The requirements before.
        was: Settings,
        /// The requirements now.
        now: Settings,
    },
    /// The migration is being cancelled.
    Cancelling,
    /// The request was refused, and nothing was changed.
    Refused {
        /// Why, and what to do, for people.
        reason: String,
    },
}

/// A migration that a landfall steers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SteeredMigration {
    /// The guest.
    pub guest: GuestIdentity,
    /// The migration URI of the destination.
    pub destination: String,
    /// The name of the policy.
    pub policy: String,
    /// The settings in force.
    #[serde(rename = "demands")]
    pub settings: Settings,
    /// The progress; `None` before the first sample.
    pub progress: Option<ProgressSnapshot>,
}

/// A guest, by all the names that a user may call it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestIdentity {
    /// The process id of its QEMU.
    pub pid: i32,
    /// Its name (QEMU's option `-name`), if it has one.
    pub name: Option<String>,
    /// The monitor of the QEMU that it leaves.
    pub source: QmpAddress,
}

impl ControlRequest {
    /// Reads a line.
    ///
    /// # Errors
    /// [`ControlRefusal::NotARequest`].
    pub fn parse(line: &[u8]) -> Result<ControlRequest, ControlRefusal> {
        serde_json::from_slice(line).map_err(ControlRefusal::NotARequest)
    }
}

/// Reads new requirements by their names: all of them or none.
///
/// # Errors
/// The first that is wrong.
pub fn parse_settings(named: &BTreeMap<String, String>) -> Result<Vec<Setting>, SettingError> {
    named.iter().map(|(name, text)| Setting::parse(name, text)).collect()
}

impl GuestIdentity {
    /// Returns whether a user who calls a guest by this name means this one: by the address of its
    /// monitor, its name or its process id.
    pub fn has_name(&self, name: &str) -> bool {
        let address = name.parse().is_ok_and(|address| absolute_address(&address) == self.source);
        address || self.name.as_deref() == Some(name) || name.parse() == Ok(self.pid)
    }
}

/// Returns the address in a form that is valid from any working directory.
pub(crate) fn absolute_address(address: &QmpAddress) -> QmpAddress {
    match address {
        QmpAddress::Unix(path) => {
            let absolute = path.canonicalize().or_else(|_| std::path::absolute(path));
            QmpAddress::Unix(absolute.unwrap_or_else(|_| path.clone()))
        }
        QmpAddress::Tcp(_) => address.clone(),
    }
}

/// The extension of control sockets.
pub(crate) const SOCKET_EXTENSION: &str = "sock";

/// Returns the path of the control socket for a guest.
fn socket_path(process: Process) -> PathBuf {
    runtime_dir::guest_file(process, SOCKET_EXTENSION)
}

/// Removes the control socket of a guest whose landfall was killed.
pub(crate) fn remove_socket(process: Process) {
    let _ = std::fs::remove_file(socket_path(process));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_lines_that_a_person_can_write() {
        let set = br#"{"command":"set","demands":{"max-stall":"500ms"}}"#;
        let settings = BTreeMap::from([("max-stall".to_owned(), "500ms".to_owned())]);
        assert_eq!(ControlRequest::parse(set).unwrap(), ControlRequest::Set { settings });
        let show = ControlRequest::parse(br#"{"command":"show"}"#).unwrap();
        assert_eq!(show, ControlRequest::Show);
        for line in ["", "show", "{}", r#"{"command":"shoot"}"#, r#"{"command":"set"}"#, "\u{0}"] {
            let error = ControlRequest::parse(line.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("max-stall"), "{error}");
        }
    }

    #[test]
    fn a_guest_is_known_by_its_monitor_its_name_and_its_process() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap().join("vm.qmp");
        std::fs::write(&path, "").unwrap();
        let source = QmpAddress::Unix(path.clone());
        let guest = GuestIdentity { pid: 42, name: Some("web1".to_owned()), source };
        let round = place.path().join("../").join(place.path().file_name().unwrap());
        for name in ["web1", "42", &format!("unix:{}/vm.qmp", round.display())] {
            assert!(guest.has_name(name), "{name}");
        }
        for name in ["web", "421", "", "unix:/elsewhere/vm.qmp", "tcp:h:1"] {
            assert!(!guest.has_name(name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(ControlRequest::Set { settings }) = ControlRequest::parse(&line) {
                let _ = parse_settings(&settings);
            }
        }
    }
}
