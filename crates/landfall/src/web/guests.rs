//! The guests on the page, and what probes found out about them.
//!
//! They are the guests named at the start (`--guest`), those that operators added, and the QEMUs that run
//! on this host. landfall connects to a guest's monitor only when an operator asks for a probe.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use landfall_core::planner::pareto::ParetoPoint;
use landfall_core::requirements::Requirements;
use landfall_core::units::ByteRate;
use landfall_qemu::mutex::lock_unpoisoned;
use landfall_qemu::qmp::{QmpAddress, QmpAddressError};

use super::discover::{DiscoveredQemu, discover_qemus};
use landfall_migration::preflight::Preflight;

/// The most guests named by `--guest` or added on the page: more than a person adds by hand.
const MAX_NAMED_GUESTS: usize = 1000;

/// A guest, as the page shows it.
#[derive(Debug, Clone)]
pub struct ListedGuest {
    /// Its part of a page's address.
    pub id: String,
    /// The name that people read.
    pub name: String,
    /// Its monitor.
    pub monitor: QmpAddress,
    /// Its QEMU, if that runs on this host.
    pub qemu: Option<DiscoveredQemu>,
    /// What the last successful probe found.
    pub probe: Option<Arc<GuestProbe>>,
    /// Whether a probe is running.
    pub is_probing: bool,
    /// Why the last probe failed.
    pub probe_error: Option<String>,
}

/// What a probe found.
#[derive(Debug)]
pub struct GuestProbe {
    /// The guest and the link.
    pub preflight: Preflight,
    /// When the probe ended.
    pub ended_at: Instant,
    /// The Pareto front for the link it was last computed for.
    pub pareto_cache: Mutex<Option<ParetoCache>>,
}

/// A Pareto front, and the link that it holds for.
pub type ParetoCache = (Option<ByteRate>, Arc<Vec<ParetoPoint>>);

#[derive(Debug, Default)]
struct ProbeState {
    probe: Option<Arc<GuestProbe>>,
    is_probing: bool,
    error: Option<String>,
}

/// All guests on the page.
#[derive(Debug, Default)]
pub struct GuestList {
    /// Named at the start or added since, in that order.
    named: Mutex<Vec<QmpAddress>>,
    /// By the guest's id.
    probes: Mutex<BTreeMap<String, ProbeState>>,
}

/// Why a guest is not added to the list.
#[derive(Debug, thiserror::Error)]
pub enum AddGuestError {
    /// What was typed is not the address of a monitor.
    #[error(transparent)]
    Address(#[from] QmpAddressError),
    /// The list is full.
    #[error(
        "{monitor} was not added: the list already has {MAX_NAMED_GUESTS} guests; restart landfall \
         serve to empty it"
    )]
    TooMany {
        /// The guest's monitor.
        monitor: QmpAddress,
    },
}

impl GuestList {
    /// Begins with the guests of these monitors.
    pub fn new(named: Vec<QmpAddress>) -> GuestList {
        GuestList { named: Mutex::new(named), probes: Mutex::default() }
    }

    /// Adds the guest of a monitor and returns its id. A guest that is there already stays as it is.
    ///
    /// # Errors
    /// [`AddGuestError`].
    pub fn add(&self, monitor: &str) -> Result<String, AddGuestError> {
        let monitor: QmpAddress = monitor.parse()?;
        let mut named = lock_unpoisoned(&self.named);
        let id = guest_id(&monitor);
        if !named.contains(&monitor) {
            if named.len() >= MAX_NAMED_GUESTS {
                return Err(AddGuestError::TooMany { monitor });
            }
            named.push(monitor);
        }
        Ok(id)
    }

    /// Returns all guests: the named ones, then the other QEMUs on this host.
    pub fn list(&self) -> Vec<ListedGuest> {
        let mut qemus = discover_qemus();
        let mut monitors = lock_unpoisoned(&self.named).clone();
        let mut guests = Vec::new();
        for monitor in monitors.drain(..) {
            let index = qemus.iter().position(|qemu| qemu.options.monitors.contains(&monitor));
            let qemu = index.map(|index| qemus.remove(index));
            guests.push(self.listed_guest(monitor, qemu));
        }
        for qemu in qemus {
            guests.push(self.listed_guest(qemu.options.monitors[0].clone(), Some(qemu)));
        }
        guests
    }

    /// Returns the guest of an id.
    pub fn get(&self, id: &str) -> Option<ListedGuest> {
        self.list().into_iter().find(|guest| guest.id == id)
    }

    fn listed_guest(&self, monitor: QmpAddress, qemu: Option<DiscoveredQemu>) -> ListedGuest {
        let id = guest_id(&monitor);
        let probes = lock_unpoisoned(&self.probes);
        let state = probes.get(&id);
        ListedGuest {
            name: display_name(&monitor, qemu.as_ref()),
            probe: state.and_then(|state| state.probe.clone()),
            is_probing: state.is_some_and(|state| state.is_probing),
            probe_error: state.and_then(|state| state.error.clone()),
            id,
            monitor,
            qemu,
        }
    }

    /// Probes how a guest writes its memory, for about `budget`. Does nothing while a probe of the guest
    /// is running.
    pub async fn probe_guest(&self, guest: &ListedGuest, budget: Duration) {
        {
            let mut probes = lock_unpoisoned(&self.probes);
            let state = probes.entry(guest.id.clone()).or_default();
            if state.is_probing {
                return;
            }
            state.is_probing = true;
        }
        let running = RunningProbe { guests: self, id: &guest.id };
        let found = Preflight::probe(&guest.monitor, None, &Requirements::default(), budget).await;
        let mut probes = lock_unpoisoned(&running.guests.probes);
        let state = probes.entry(guest.id.clone()).or_default();
        match found {
            Ok(preflight) => {
                state.probe = Some(Arc::new(GuestProbe {
                    preflight,
                    ended_at: Instant::now(),
                    pareto_cache: Mutex::default(),
                }));
                state.error = None;
            }
            Err(error) => state.error = Some(error.to_string()),
        }
    }
}

/// Marks the end of a probe when dropped: also when the browser that asked for it disconnects.
struct RunningProbe<'a> {
    guests: &'a GuestList,
    id: &'a str,
}

impl Drop for RunningProbe<'_> {
    fn drop(&mut self) {
        if let Some(state) = lock_unpoisoned(&self.guests.probes).get_mut(self.id) {
            state.is_probing = false;
        }
    }
}

/// Returns an id that depends on the monitor's address alone, so that links survive a restart: FNV-1a,
/// 64 bits.
fn guest_id(monitor: &QmpAddress) -> String {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = monitor.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    format!("{hash:016x}")
}

/// Returns the guest's name in QEMU, else the name of its monitor's socket, else the monitor's address.
fn display_name(monitor: &QmpAddress, qemu: Option<&DiscoveredQemu>) -> String {
    if let Some(name) = qemu.and_then(|qemu| qemu.options.guest_name.clone()) {
        return name;
    }
    match monitor {
        QmpAddress::Unix(path) => {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.unwrap_or_else(|| monitor.to_string())
        }
        QmpAddress::Tcp(host_port) => host_port.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_added_twice_is_one_and_is_found_again_by_its_id() {
        let guests = GuestList::new(vec!["unix:/run/nobody-1.qmp".parse().unwrap()]);
        let added = guests.add("tcp:127.0.0.1:1").unwrap();
        assert_eq!(guests.add("tcp:127.0.0.1:1").unwrap(), added);
        let named: Vec<ListedGuest> =
            guests.list().into_iter().filter(|guest| guest.qemu.is_none()).collect();
        let names: Vec<&str> = named.iter().map(|guest| guest.name.as_str()).collect();
        assert_eq!(names, ["nobody-1", "127.0.0.1:1"]);
        assert_eq!(guests.get(&added).unwrap().monitor.to_string(), "tcp:127.0.0.1:1");
        assert!(guests.get("0").is_none());
    }

    #[test]
    fn a_guest_that_cannot_be_added_is_named_with_the_remedy() {
        let error = GuestList::default().add("vm.qmp").unwrap_err().to_string();
        assert!(error.contains("vm.qmp") && error.contains("unix:/path"), "{error}");
        let many = (1..=MAX_NAMED_GUESTS).map(|n| QmpAddress::Tcp(format!("host:{n}"))).collect();
        let error = GuestList::new(many).add("tcp:other:1").unwrap_err().to_string();
        assert!(error.contains("tcp:other:1") && error.contains("restart"), "{error}");
    }

    #[tokio::test]
    async fn a_probe_without_a_monitor_says_so_and_is_over() {
        let guests = GuestList::new(vec!["unix:/nowhere/vm.qmp".parse().unwrap()]);
        let guest = guests.list().remove(0);
        guests.probe_guest(&guest, Duration::from_secs(1)).await;
        let guest = guests.get(&guest.id).unwrap();
        assert!(guest.probe_error.unwrap().contains("/nowhere/vm.qmp") && !guest.is_probing);
    }
}
