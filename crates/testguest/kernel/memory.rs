//! The guest's memory and what must be in it.
//!
//! A page is 512 words. Word 0, the stamp, names the page and its generation: how often the page
//! has been written. Every other word is a pure function of the page's number. The generations are
//! kept in a table of their own, so that a page that was lost, doubled, swapped or sent stale in a
//! migration differs from what is due. Each visit checks the stamp and one more word, another one
//! each time: after 511 visits the whole page has been seen.

use crate::params::{Content, Params};
use crate::serial;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page.
pub const PAGE: u64 = 4096;
const WORDS: u64 = PAGE / 8;
/// Spelt-out mismatches; beyond them only the doubling of their number is told.
const REPORTS: u64 = 20;

/// Where everything lies. Pages `0..pages` are the working set, `pages..pages + cold` cold memory.
pub struct Memory {
    base: u64,
    generations: *mut u32,
    /// Pages in the working set.
    pub pages: u32,
    /// Pages that are never written after the start.
    pub cold: u32,
    content: Content,
    seed: u64,
    mismatches: AtomicU64,
}

// SAFETY: a page and its generation are touched by one vCPU only, the one whose share it is in.
unsafe impl Sync for Memory {}

impl Memory {
    /// Lays the memory out from `begin` on and fills it.
    ///
    /// # Errors
    /// The end of the memory that would be needed, where that is beyond `end`.
    ///
    /// # Safety
    /// Nothing else uses the memory from `begin` to `end`, and it is mapped.
    pub unsafe fn fill(params: &Params, begin: u64, end: u64) -> Result<Self, u64> {
        let pages = params.working_set / PAGE;
        let cold = params.cold / PAGE;
        let table = begin.next_multiple_of(PAGE);
        let base = (table + pages * 4).next_multiple_of(2 << 20);
        let needed = base + (pages + cold) * PAGE;
        if needed > end {
            return Err(needed);
        }
        let memory = Self {
            base,
            generations: table as *mut u32,
            pages: pages as u32,
            cold: cold as u32,
            content: params.content,
            seed: params.seed,
            mismatches: AtomicU64::new(0),
        };
        for page in 0..memory.pages + memory.cold {
            if page < memory.pages {
                memory.set_generation(page, 0);
            }
            memory.write(page, 0, stamp(page, 0));
            for slot in 1..WORDS {
                memory.write(page, slot, memory.due(page, slot));
            }
        }
        Ok(memory)
    }

    /// Physical address of page 0.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Writes a page, once it has been seen to hold what it must.
    #[inline(always)]
    pub fn visit(&self, vcpu: usize, page: u32) {
        let generation = self.generation(page);
        let got = self.read(page, 0);
        if got != stamp(page, generation) {
            self.report(vcpu, page, 0, stamp(page, generation), got);
        }
        let slot = 1 + u64::from(generation) % (WORDS - 1);
        let (due, got) = (self.due(page, slot), self.read(page, slot));
        if got != due {
            self.report(vcpu, page, slot, due, got);
            self.write(page, slot, due);
        }
        let next = generation.wrapping_add(1);
        self.set_generation(page, next);
        self.write(page, 0, stamp(page, next));
    }

    /// Checks every word of some pages and mends what is wrong. Returns how many words were.
    pub fn verify(&self, vcpu: usize, pages: Range<u32>) -> u64 {
        let mut wrong = 0;
        for page in pages {
            let generation = if page < self.pages { self.generation(page) } else { 0 };
            for slot in 0..WORDS {
                let due = if slot == 0 { stamp(page, generation) } else { self.due(page, slot) };
                let got = self.read(page, slot);
                if got != due {
                    self.report(vcpu, page, slot, due, got);
                    self.write(page, slot, due);
                    wrong += 1;
                }
            }
        }
        wrong
    }

    /// What a word other than the stamp must be.
    #[inline(always)]
    fn due(&self, page: u32, slot: u64) -> u64 {
        match self.content {
            Content::Compressible => 0x6c66_0000_0000_0000 | u64::from(page),
            Content::Random => mix(self.seed ^ (u64::from(page) * WORDS + slot)),
        }
    }

    #[cold]
    #[inline(never)]
    fn report(&self, vcpu: usize, page: u32, slot: u64, want: u64, got: u64) {
        let so_far = self.mismatches.fetch_add(1, Ordering::Relaxed) + 1;
        if so_far <= REPORTS {
            serial::line(format_args!(
                "CORRUPT vcpu={vcpu} page={page} slot={slot} want={want:#018x} got={got:#018x}"
            ));
        } else if so_far.is_power_of_two() {
            serial::line(format_args!("CORRUPT words={so_far}"));
        }
    }

    #[inline(always)]
    fn word(&self, page: u32, slot: u64) -> *mut u64 {
        debug_assert!(page < self.pages + self.cold && slot < WORDS);
        (self.base + u64::from(page) * PAGE + slot * 8) as *mut u64
    }

    #[inline(always)]
    fn read(&self, page: u32, slot: u64) -> u64 {
        // SAFETY: inside the memory laid out by `fill`. Volatile: this must be what is in memory
        // now, which a migration may have replaced, not what was last written.
        unsafe { self.word(page, slot).read_volatile() }
    }

    #[inline(always)]
    fn write(&self, page: u32, slot: u64, value: u64) {
        // SAFETY: as for `read`.
        unsafe { self.word(page, slot).write_volatile(value) }
    }

    #[inline(always)]
    fn generation(&self, page: u32) -> u32 {
        // SAFETY: the table has an entry for each page of the working set.
        unsafe { self.generations.wrapping_add(page as usize).read_volatile() }
    }

    #[inline(always)]
    fn set_generation(&self, page: u32, generation: u32) {
        // SAFETY: as for `generation`.
        unsafe { self.generations.wrapping_add(page as usize).write_volatile(generation) }
    }
}

/// Compared in full with what is due, so that no flipped bit goes unseen.
#[inline(always)]
fn stamp(page: u32, generation: u32) -> u64 {
    u64::from(!page) << 32 | u64::from(generation)
}

/// A 64-bit mixing function (the finaliser of SplitMix64).
#[inline(always)]
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
