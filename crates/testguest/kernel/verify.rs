//! A full check on demand, each dirtier checking its own share while it writes nothing.

use crate::serial;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// The state of the check that was asked for last.
#[derive(Default)]
pub struct Verification {
    under_way: AtomicBool,
    asked: AtomicU64,
    missing: AtomicU64,
    pages: AtomicU64,
    errors: AtomicU64,
}

impl Verification {
    /// Asks `checkers` vCPUs for a check. One that is under way is left to finish and answers for
    /// both. To be called by one vCPU only.
    pub fn ask(&self, checkers: u64) {
        if !self.under_way.load(Ordering::Acquire) {
            self.under_way.store(true, Ordering::Relaxed);
            self.pages.store(0, Ordering::Relaxed);
            self.errors.store(0, Ordering::Relaxed);
            self.missing.store(checkers, Ordering::Relaxed);
            self.asked.fetch_add(1, Ordering::Release);
        }
    }

    /// The number of the check that was asked for last; 0 before the first.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// One checker's result. The last one prints the sum.
    pub fn add(&self, pages: u64, errors: u64) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
        self.errors.fetch_add(errors, Ordering::Relaxed);
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            let (pages, errors) = (&self.pages, &self.errors);
            let (pages, errors) = (pages.load(Ordering::Relaxed), errors.load(Ordering::Relaxed));
            serial::line(format_args!("verified pages={pages} errors={errors}"));
            self.under_way.store(false, Ordering::Release);
        }
    }
}
