//! Post-copy: the guest runs at the destination and waits for each page it misses.
//!
//! A page that is missed is asked for, and queues behind what is on its way already: the link's buffer.
//! So a guest that touches `f` missing pages per second of CPU, each of which takes `w`, runs at
//! `1 / (1 + f * w)`; meanwhile the rest is pushed at the link's rate, and misses get rarer. Only pages
//! that are written are known to a dirty curve; one that is only read is missed as well, so that this
//! is the least that post-copy costs.

use crate::link::Link;
use crate::qemu::Precopy;
use crate::rng::Seed;

/// The time is cut into so many steps of equal amounts sent.
const STEPS: usize = 32;

/// A round trip and what both QEMUs do for a page, with nothing queued before it.
const FAULT: f64 = 0.001;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fetched {
    /// Seconds until the last page had arrived.
    pub(crate) time: f64,
    /// Of these, seconds in which a busy vCPU stood still, all waits together.
    pub(crate) waited: f64,
    /// The longest wait for one page.
    pub(crate) longest: f64,
}

/// Fetches what remains of a guest whose vCPUs want `cpu_demand` CPU seconds per second, from `from` on.
pub(crate) fn fetch(
    precopy: &mut Precopy,
    link: &Link,
    seed: Seed,
    from: f64,
    cpu_demand: f64,
) -> Fetched {
    let (mut time, mut waited) = (0.0, 0.0);
    let longest = FAULT + link.time_for(link.switch_over.buffer.as_f64(), from, seed);
    let wire = precopy.memory.unsent_on_wire();
    for _ in 0..STEPS {
        let part = wire / STEPS as f64;
        let took = link.time_for(part, from + time, seed).min(1e6);
        let faults = precopy.memory.faults() * cpu_demand;
        waited += took * (1.0 - 1.0 / (1.0 + faults * longest));
        precopy.send(part);
        time += took;
    }
    Fetched { time, waited, longest: if waited > 0.0 { longest } else { 0.0 } }
}
