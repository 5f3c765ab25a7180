//! The guest's memory as QEMU sees it: which of it is dirty, which is still to be sent.
//!
//! QEMU keeps two bitmaps: the one of the kernel or of TCG, which notes every page written since the
//! last look, and its own, of pages still to be sent. A look ("sync") adds the first to the second
//! and clears it. [`Fluid`] keeps amounts in their place, [`Paged`] the bitmaps themselves.

mod fluid;
mod paged;

use landfall_core::units::PAGE;

use crate::chance::Seed;
use crate::guest::{Guest, Writes};
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
    /// All of it is still to be sent, and nothing was written yet.
    pub(crate) fn new(guest: &Guest, seed: Seed) -> Memory {
        match &guest.writes {
            Writes::Curve(phases) => Memory::Fluid(Fluid::new(guest, phases)),
            Writes::Pages(writers) => Memory::Paged(Box::new(Paged::new(guest, writers, seed))),
        }
    }

    /// The guest ran for so many seconds of CPU time.
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

    /// So many bytes leave on the wire.
    pub(crate) fn send(&mut self, wire: f64) -> Sent {
        match self {
            Memory::Fluid(memory) => memory.send(wire),
            Memory::Paged(memory) => memory.send(wire),
        }
    }

    /// Looks at what was written and gives the bytes that were not known to be dirty.
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
