//! Memory as pages: QEMU's two bitmaps, and writers that set one bit at a time.

use super::{PAGE_BYTES, Sent, WIRE_PAGE, WIRE_ZERO};
use crate::guest::{Guest, Order, Writer};
use crate::rng::{Draws, Seed};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Paged {
    /// Written since the last sync.
    dirty: Vec<bool>,
    /// Still to be sent.
    unsent: Vec<bool>,
    /// Pages that are neither zero nor were sent.
    unsent_contents: usize,
    unsent_zero: usize,
    /// Pages with contents: the lowest ones.
    contents: usize,
    writers: Vec<Pen>,
    /// Where each page of a scattered set lies.
    scattered: Vec<u32>,
    /// Where QEMU is on its way through the addresses.
    next: usize,
    /// Bytes that were sent of the next page.
    begun: f64,
    draws: Draws,
}

/// A writer, and where it is.
#[derive(Debug, Clone, Copy)]
struct Pen {
    writer: Writer,
    first: usize,
    pages: usize,
    next: usize,
    /// Part of a write that is still owed.
    owed: f64,
}

fn pages(bytes: f64) -> usize {
    (bytes / PAGE_BYTES).round() as usize
}

impl Paged {
    pub(super) fn new(guest: &Guest, writers: &[Writer], seed: Seed) -> Paged {
        let mut draws = Draws::of(seed);
        let mut first = 0;
        let pen = |writer: &Writer| {
            let count = pages(writer.set.as_f64()).max(1);
            let pen = Pen { writer: *writer, first, pages: count, next: 0, owed: 0.0 };
            first += count;
            pen
        };
        let pens: Vec<Pen> = writers.iter().map(pen).collect();
        let total = pages(guest.memory.as_f64()).max(first);
        let contents = pages(guest.contents.as_f64()).clamp(first, total);
        // Sets that lie side by side come first, scattered ones share the rest of the contents.
        let mut scattered: Vec<u32> = (0..contents as u32).collect();
        let swept: usize =
            pens.iter().filter(|pen| pen.writer.order == Order::Sweep).map(|pen| pen.pages).sum();
        for i in (swept + 1..contents).rev() {
            scattered.swap(i, swept + draws.below((i - swept + 1) as u64) as usize);
        }
        let mut pens = pens;
        pens.sort_by_key(|pen| pen.writer.order == Order::Random);
        let mut first = 0;
        for pen in &mut pens {
            pen.first = first;
            first += pen.pages;
        }
        Paged {
            dirty: vec![false; total],
            unsent: vec![true; total],
            unsent_contents: contents,
            unsent_zero: total - contents,
            contents,
            writers: pens,
            scattered,
            next: 0,
            begun: 0.0,
            draws,
        }
    }

    pub(super) fn run(&mut self, cpu: f64) {
        for pen in &mut self.writers {
            pen.owed += cpu * pen.writer.pages;
            // A set swept many times over is dirty as a whole; there is no need to go round again.
            if pen.writer.order == Order::Sweep && pen.owed > 2.0 * pen.pages as f64 {
                pen.owed = pen.owed % pen.pages as f64 + pen.pages as f64;
            }
            while pen.owed >= 1.0 {
                pen.owed -= 1.0;
                let page = match pen.writer.order {
                    Order::Random => self.draws.below(pen.pages as u64) as usize,
                    Order::Sweep => {
                        pen.next = (pen.next + 1) % pen.pages;
                        pen.next
                    }
                };
                self.dirty[self.scattered[pen.first + page] as usize] = true;
            }
        }
    }

    pub(super) fn unsent(&self) -> f64 {
        (self.unsent_contents + self.unsent_zero) as f64 * PAGE_BYTES
    }

    pub(super) fn unsent_on_wire(&self) -> f64 {
        let wire = self.unsent_contents as f64 * WIRE_PAGE + self.unsent_zero as f64 * WIRE_ZERO;
        (wire - self.begun).max(0.0)
    }

    pub(super) fn send(&mut self, wire: f64) -> Sent {
        let mut sent = Sent::default();
        let mut left = self.begun + wire;
        while self.unsent_contents + self.unsent_zero > 0 {
            if !self.unsent[self.next] {
                self.next = (self.next + 1) % self.unsent.len();
                continue;
            }
            let zero = self.next >= self.contents;
            let cost = if zero { WIRE_ZERO } else { WIRE_PAGE };
            // A millionth of a byte is a rounding error of the times that bytes were calculated from.
            if left + 1e-3 < cost {
                break;
            }
            left -= cost;
            self.unsent[self.next] = false;
            let (count, bytes) = match zero {
                true => (&mut self.unsent_zero, &mut sent.zero),
                false => (&mut self.unsent_contents, &mut sent.contents),
            };
            *count -= 1;
            *bytes += PAGE_BYTES;
        }
        self.begun = if self.unsent_contents + self.unsent_zero > 0 { left.max(0.0) } else { 0.0 };
        sent
    }

    pub(super) fn sync(&mut self) -> f64 {
        let mut found = 0;
        for (dirty, unsent) in self.dirty.iter_mut().zip(&mut self.unsent) {
            found += usize::from(*dirty && !*unsent);
            *unsent |= *dirty;
            *dirty = false;
        }
        self.unsent_contents += found;
        found as f64 * PAGE_BYTES
    }

    pub(super) fn faults(&self) -> f64 {
        let fault = |pen: &Pen| {
            let own = &self.scattered[pen.first..pen.first + pen.pages];
            let missing = own.iter().filter(|page| self.unsent[**page as usize]).count();
            pen.writer.pages * missing as f64 / pen.pages as f64
        };
        self.writers.iter().map(fault).sum()
    }
}
