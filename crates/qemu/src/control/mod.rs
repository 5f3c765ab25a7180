//! How a running landfall is spoken to from outside: what is demanded of a migration can be seen and
//! changed while it goes on.
//!
//! A landfall that steers a guest listens on a Unix socket of its own in [`crate::runtime_dir`], named by
//! the guest's process as its lock is. One line of JSON asks, one answers: [`Request`], [`Answer`].
//! Whoever may speak is root or landfall's own user.
//!
//! - [`server`] listens, reads and refuses. All that reaches the steering loop is a demand that was
//!   read whole, through a bounded channel, and the loop takes it up at its next look: nobody out
//!   there can make it wait.
//! - [`client`] finds the landfall that steers a guest, and asks.

pub mod client;
pub mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;

use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::telemetry::progress::Glance;
use serde::{Deserialize, Serialize};

use crate::procfs::Process;
use crate::qmp::Address;
use crate::runtime_dir;

/// The longest line that is read.
pub const LONGEST_LINE: usize = 4096;

/// What can be asked of a running landfall.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How does it stand?
    Show,
    /// Demand this from now on: names and values as on the command line.
    Set {
        /// At least one, by name.
        demands: BTreeMap<String, String>,
    },
    /// Give the migration up, with the guest at the source.
    Cancel,
}

/// What landfall answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// So it stands.
    Shown {
        /// All of it.
        steered: Box<Steered>,
    },
    /// It is in force.
    Set {
        /// What was demanded.
        was: Demands,
        /// What is demanded now.
        now: Demands,
    },
    /// It is being given up.
    Cancelling,
    /// No, and nothing was changed.
    Refused {
        /// Why, in words, and what to do.
        reason: String,
    },
}

/// A migration under way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Steered {
    /// Which guest.
    pub guest: Guest,
    /// Where it goes.
    pub destination: String,
    /// The law.
    pub policy: String,
    /// What is demanded.
    pub demands: Demands,
    /// How far it is; `None` before the first look.
    pub glance: Option<Glance>,
}

/// A guest, by all the names it goes by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Guest {
    /// Its QEMU's process.
    pub pid: i32,
    /// What its QEMU was told to call it (`-name`).
    pub name: Option<String>,
    /// The monitor of the QEMU that it leaves.
    pub source: Address,
}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// In words: what it is not.
    pub fn parse(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| {
            format!(
                "that is no request ({error}); send a line like {{\"command\":\"show\"}} or \
                 {{\"command\":\"set\",\"demands\":{{\"max-stall\":\"500ms\"}}}}"
            )
        })
    }
}

/// Reads demands by name; all or none.
///
/// # Errors
/// In words: the first that is wrong.
pub fn read_demands(named: &BTreeMap<String, String>) -> Result<Vec<Demand>, String> {
    let read = |(name, text): (&String, &String)| {
        Demand::read(name, text).map_err(|error| error.to_string())
    };
    named.iter().map(read).collect()
}

impl Guest {
    /// Whether it goes by this name: the address of its monitor, its name, or its process.
    pub fn is(&self, called: &str) -> bool {
        let address = called.parse().is_ok_and(|address| whole(&address) == self.source);
        address || self.name.as_deref() == Some(called) || called.parse() == Ok(self.pid)
    }
}

/// The address as it is from any folder.
pub(crate) fn whole(address: &Address) -> Address {
    match address {
        Address::Unix(path) => {
            let whole = path.canonicalize().or_else(|_| std::path::absolute(path));
            Address::Unix(whole.unwrap_or_else(|_| path.clone()))
        }
        Address::Tcp(_) => address.clone(),
    }
}

/// What the names of all sockets end with.
const ENDING: &str = "sock";

/// Where the landfall that steers this guest listens.
fn socket(process: Process) -> PathBuf {
    runtime_dir::path().join(format!("{}-{}.{ENDING}", process.pid, process.start_time_ticks))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_lines_that_a_person_can_write() {
        let set = br#"{"command":"set","demands":{"max-stall":"500ms"}}"#;
        let demands = BTreeMap::from([("max-stall".to_owned(), "500ms".to_owned())]);
        assert_eq!(Request::parse(set), Ok(Request::Set { demands }));
        assert_eq!(Request::parse(br#"{"command":"show"}"#), Ok(Request::Show));
        for line in ["", "show", "{}", r#"{"command":"shoot"}"#, r#"{"command":"set"}"#, "\u{0}"] {
            let error = Request::parse(line.as_bytes()).unwrap_err();
            assert!(error.contains("max-stall"), "{error}");
        }
    }

    #[test]
    fn a_guest_is_known_by_its_monitor_its_name_and_its_process() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().canonicalize().unwrap().join("vm.qmp");
        std::fs::write(&path, "").unwrap();
        let source = Address::Unix(path.clone());
        let guest = Guest { pid: 42, name: Some("web1".to_owned()), source };
        let round = place.path().join("../").join(place.path().file_name().unwrap());
        for called in ["web1", "42", &format!("unix:{}/vm.qmp", round.display())] {
            assert!(guest.is(called), "{called}");
        }
        for called in ["web", "421", "", "unix:/elsewhere/vm.qmp", "tcp:h:1"] {
            assert!(!guest.is(called), "{called}");
        }
    }

    proptest! {
        #[test]
        fn no_line_makes_it_panic(line in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Request::Set { demands }) = Request::parse(&line) {
                let _ = read_demands(&demands);
            }
        }
    }
}
