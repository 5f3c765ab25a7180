//! The guest's memory as QEMU sees it: which of it is dirty, which is still to be sent.
//!
//! QEMU keeps two bitmaps: the one of the kernel or of TCG, which marks every page written since the
//! last sync, and its own, of pages still to be sent. A sync adds the first to the second
//! and clears it. [`Fluid`] keeps amounts in their place, [`Paged`] the bitmaps themselves.

mod fluid;
mod paged;

use landfall_core::units::PAGE;

use crate::guest::{Guest, Writes};
use crate::rng::Seed;
use fluid::Fluid;
use paged::Paged;

/// Bytes of a page.
pub(crate) const PAGE_BYTES: f64 = PAGE.0 as f64;

/// Bytes on the wire of a page with contents: QEMU puts an address with flags before it
/// (`save_page_header`, `migration/ram.c`).
pub(crate) const WIRE_PAGE: f64 = PAGE_BYTES + 8.0;

/// Bytes on the wire of a zero page: the same, and the byte it is full of (`save_zero_page`).
pub(crate) const WIRE_ZERO: f64 = 9.0;

/// What was sent, in bytes of guest memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sent {
    pub(crate) contents: f64,
    pub(crate) zero: f64,
}

/// The guest's memory.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    Fluid(Fluid),
    Paged(Box<Paged>),
}

impl Memory {
    /// Starts with everything to be sent and nothing written.
    pub(crate) fn new(guest: &Guest, seed: Seed) -> Memory {
        match &guest.writes {
            Writes::Curve(phases) => Memory::Fluid(Fluid::new(guest, phases)),
            Writes::Pages(writers) => Memory::Paged(Box::new(Paged::new(guest, writers, seed))),
        }
    }

    /// The guest ran for this many seconds of CPU time.
    pub(crate) fn run(&mut self, cpu: f64) {
        match self {
            Memory::Fluid(memory) => memory.run(cpu),
            Memory::Paged(memory) => memory.run(cpu),
        }
    }

    /// Bytes of guest memory still to be sent, as far as the last sync showed.
    pub(crate) fn unsent(&self) -> f64 {
        let unsent = match self {
            Memory::Fluid(memory) => memory.unsent(),
            Memory::Paged(memory) => memory.unsent(),
        };
        // Less than half a page is a rounding error of the fluid one.
        if unsent < PAGE_BYTES / 2.0 { 0.0 } else { unsent }
    }

    /// The same in bytes on the wire.
    pub(crate) fn unsent_on_wire(&self) -> f64 {
        match self {
            Memory::Fluid(memory) => memory.unsent_on_wire(),
            Memory::Paged(memory) => memory.unsent_on_wire(),
        }
    }

    /// Sends this many bytes on the wire.
    pub(crate) fn send(&mut self, wire: f64) -> Sent {
        match self {
            Memory::Fluid(memory) => memory.send(wire),
            Memory::Paged(memory) => memory.send(wire),
        }
    }

    /// Syncs the bitmaps and returns the bytes that were not known to be dirty.
    pub(crate) fn sync(&mut self) -> f64 {
        match self {
            Memory::Fluid(memory) => memory.sync(),
            Memory::Paged(memory) => memory.sync(),
        }
    }

    /// Pages first touched per second of the guest's CPU time among those still to be sent: what a
    /// guest that runs ahead of its memory (post-copy) has to wait for.
    pub(crate) fn faults(&self) -> f64 {
        match self {
            Memory::Fluid(memory) => memory.faults(),
            Memory::Paged(memory) => memory.faults(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::{CurvePhase, Order, Writer};
    use landfall_core::model::{Component, DirtyCurve};
    use landfall_core::units::{Bytes, CpuTime};
    use proptest::prelude::*;

    const MEMORY: u64 = 20_000;

    /// The same guest as amounts and as pages, from sets of so many pages and their time constants.
    fn twins(sets: &[(u64, f64)], seed: u64) -> [Memory; 2] {
        let part = |&(pages, time): &(u64, f64)| Component {
            set: Bytes(pages * PAGE.0),
            time: CpuTime(time),
        };
        let writer = |&(pages, time): &(u64, f64)| Writer {
            set: Bytes(pages * PAGE.0),
            pages: pages as f64 / time,
            order: Order::Random,
        };
        let curve = DirtyCurve::new(sets.iter().map(part));
        let fluid = Guest::with_curve(Bytes(MEMORY * PAGE.0), curve.clone());
        let writes = Writes::Pages(sets.iter().map(writer).collect());
        let paged = Guest { writes, ..fluid.clone() };
        let fluid = Guest { writes: Writes::Curve(vec![CurvePhase::forever(curve)]), ..fluid };
        [fluid, paged].map(|guest| Memory::new(&guest, Seed(seed)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn amounts_agree_with_pages_within_a_few_per_cent(
            sets in proptest::collection::vec((2_000u64..6_000, 0.05f64..5.0), 1..4),
            steps in proptest::collection::vec((0.01f64..2.0, 0.3f64..1.0), 1..8),
            seed in any::<u64>(),
        ) {
            let [mut fluid, mut paged] = twins(&sets, seed);
            let working_set: u64 = sets.iter().map(|(pages, _)| pages * PAGE.0).sum();
            let near = |a: f64, b: f64| (a - b).abs() < 0.03 * working_set as f64;
            for (cpu, part) in steps {
                for memory in [&mut fluid, &mut paged] {
                    memory.run(cpu);
                    memory.send(memory.unsent_on_wire() * part);
                }
                let found = (fluid.sync(), paged.sync());
                prop_assert!(near(found.0, found.1), "found {found:?} of {working_set}");
                let left = (fluid.unsent(), paged.unsent());
                prop_assert!(near(left.0, left.1), "left {left:?} of {working_set}");
            }
        }

        #[test]
        fn what_was_sent_and_what_is_left_is_all_there_was_and_all_that_was_found(
            sets in proptest::collection::vec((1u64..6_000, 0.001f64..5.0), 1..4),
            steps in proptest::collection::vec((0.0f64..2.0, 0.0f64..1.5), 1..8),
            seed in any::<u64>(),
        ) {
            for mut memory in twins(&sets, seed) {
                let mut all = memory.unsent();
                let mut sent = 0.0;
                for (cpu, part) in &steps {
                    memory.run(*cpu);
                    let gone = memory.send(memory.unsent_on_wire() * part);
                    sent += gone.contents + gone.zero;
                    all += memory.sync();
                    prop_assert!((sent + memory.unsent() - all).abs() < PAGE_BYTES);
                }
            }
        }
    }
}
