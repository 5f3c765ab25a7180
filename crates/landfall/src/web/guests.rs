//! The guests that the page knows, and what was found out of them.
//!
//! Those named when it was started, those that run on this host, those that somebody added. A guest is
//! only ever connected to when somebody asks for a look at it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use landfall_core::planner::pareto::ParetoPoint;
use landfall_core::requirements::Requirements;
use landfall_core::units::ByteRate;
use landfall_qemu::mutex::lock_unpoisoned;
use landfall_qemu::qmp::QmpAddress;

use super::discover::{Discovered, discover};
use landfall_migration::preflight::Preflight;

/// More than anybody adds by hand.
const MOST_ADDED: usize = 1000;

/// A guest, as the page shows it.
#[derive(Debug, Clone)]
pub struct Guest {
    /// How it is called in addresses of pages.
    pub id: String,
    /// How people call it.
    pub name: String,
    /// Its monitor.
    pub monitor: QmpAddress,
    /// Its QEMU, where that runs on this host.
    pub qemu: Option<Discovered>,
    /// What the last look found.
    pub looked: Option<Arc<Looked>>,
    /// A look is under way.
    pub looking: bool,
    /// Why the last look found nothing.
    pub trouble: Option<String>,
}

/// What a look found.
#[derive(Debug)]
pub struct Looked {
    /// Of guest and link.
    pub foresight: Preflight,
    /// When.
    pub at: Instant,
    /// The frontier over a link, once somebody wanted to see it.
    pub frontier: Mutex<Option<Frontier>>,
}

/// A frontier, and the link it is for.
pub type Frontier = (Option<ByteRate>, Arc<Vec<ParetoPoint>>);

#[derive(Debug, Default)]
struct Known {
    looked: Option<Arc<Looked>>,
    looking: bool,
    trouble: Option<String>,
}

/// All guests.
#[derive(Debug, Default)]
pub struct Guests {
    /// Named at the start or added since, in that order.
    named: Mutex<Vec<QmpAddress>>,
    /// What is known of each, by id.
    known: Mutex<BTreeMap<String, Known>>,
}

impl Guests {
    /// Beginning with these.
    pub fn new(named: Vec<QmpAddress>) -> Guests {
        Guests { named: Mutex::new(named), known: Mutex::default() }
    }

    /// Another one to show.
    ///
    /// # Errors
    /// In words: there are too many.
    pub fn add(&self, monitor: QmpAddress) -> Result<String, String> {
        let mut named = lock_unpoisoned(&self.named);
        let id = id(&monitor);
        if !named.contains(&monitor) {
            if named.len() >= MOST_ADDED {
                return Err(format!(
                    "there are {MOST_ADDED} guests already; start landfall serve anew"
                ));
            }
            named.push(monitor);
        }
        Ok(id)
    }

    /// All that there are now.
    pub fn list(&self) -> Vec<Guest> {
        let mut qemus = discover();
        let mut monitors = lock_unpoisoned(&self.named).clone();
        let mut guests = Vec::new();
        for monitor in monitors.drain(..) {
            let place = qemus.iter().position(|qemu| qemu.monitors.contains(&monitor));
            let qemu = place.map(|place| qemus.remove(place));
            guests.push(self.guest(monitor, qemu));
        }
        for qemu in qemus {
            guests.push(self.guest(qemu.monitors[0].clone(), Some(qemu)));
        }
        guests
    }

    /// One of them.
    pub fn get(&self, id: &str) -> Option<Guest> {
        self.list().into_iter().find(|guest| guest.id == id)
    }

    fn guest(&self, monitor: QmpAddress, qemu: Option<Discovered>) -> Guest {
        let id = id(&monitor);
        let known = lock_unpoisoned(&self.known);
        let known = known.get(&id);
        Guest {
            name: name(&monitor, qemu.as_ref()),
            looked: known.and_then(|known| known.looked.clone()),
            looking: known.is_some_and(|known| known.looking),
            trouble: known.and_then(|known| known.trouble.clone()),
            id,
            monitor,
            qemu,
        }
    }

    /// Measures how a guest writes, for about so long. One look at a time.
    pub async fn look(&self, guest: &Guest, budget: Duration) {
        {
            let mut known = lock_unpoisoned(&self.known);
            let known = known.entry(guest.id.clone()).or_default();
            if known.looking {
                return;
            }
            known.looking = true;
        }
        let looking = Looking { guests: self, id: &guest.id };
        let found = Preflight::probe(&guest.monitor, &Requirements::default(), budget).await;
        let mut known = lock_unpoisoned(&looking.guests.known);
        let known = known.entry(guest.id.clone()).or_default();
        match found {
            Ok(foresight) => {
                known.looked = Some(Arc::new(Looked {
                    foresight,
                    at: Instant::now(),
                    frontier: Mutex::default(),
                }));
                known.trouble = None;
            }
            Err(error) => known.trouble = Some(error.to_string()),
        }
    }
}

/// A look under way: over in whatever way it ends, a browser that went away included.
struct Looking<'a> {
    guests: &'a Guests,
    id: &'a str,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if let Some(known) = lock_unpoisoned(&self.guests.known).get_mut(self.id) {
            known.looking = false;
        }
    }
}

/// The same for the same monitor, after a restart as well: FNV-1a, 64 bits.
fn id(monitor: &QmpAddress) -> String {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = monitor.to_string().bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    format!("{hash:016x}")
}

/// What QEMU calls it, else its socket's name, else where that is.
fn name(monitor: &QmpAddress, qemu: Option<&Discovered>) -> String {
    if let Some(name) = qemu.and_then(|qemu| qemu.name.clone()) {
        return name;
    }
    match monitor {
        QmpAddress::Unix(path) => {
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
            stem.unwrap_or_else(|| monitor.to_string())
        }
        QmpAddress::Tcp(place) => place.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_added_twice_is_one_and_is_found_again_by_its_id() {
        let guests = Guests::new(vec!["unix:/run/nobody-1.qmp".parse().unwrap()]);
        let added = guests.add("tcp:127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(guests.add("tcp:127.0.0.1:1".parse().unwrap()).unwrap(), added);
        let named: Vec<Guest> =
            guests.list().into_iter().filter(|guest| guest.qemu.is_none()).collect();
        let names: Vec<&str> = named.iter().map(|guest| guest.name.as_str()).collect();
        assert_eq!(names, ["nobody-1", "127.0.0.1:1"]);
        assert_eq!(guests.get(&added).unwrap().monitor.to_string(), "tcp:127.0.0.1:1");
        assert!(guests.get("0").is_none());
    }

    #[tokio::test]
    async fn a_look_that_finds_nobody_says_so_and_is_over() {
        let guests = Guests::new(vec!["unix:/nowhere/vm.qmp".parse().unwrap()]);
        let guest = guests.list().remove(0);
        guests.look(&guest, Duration::from_secs(1)).await;
        let guest = guests.get(&guest.id).unwrap();
        assert!(guest.trouble.unwrap().contains("/nowhere/vm.qmp") && !guest.looking);
    }
}
