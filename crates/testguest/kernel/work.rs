//! The kinds of guest: what a vCPU does between two beats.
//!
//! Work is cut into slices of equal cost, a beat is a fixed number of slices, and every n-th slice
//! begins with a visit to a page; the rest of a slice is spent spinning. All of it is fixed once,
//! at the end of calibration, in counts and not in time.

use crate::clock::{Clock, fastest, spin};
use crate::memory::{Memory, mix};
use crate::params::{Kind, Params};
use core::ops::Range;

/// Spent on each waking of an idle guest, in microseconds.
const IDLE_WORK: u64 = 20;

/// Which page comes next.
#[derive(Clone, Copy)]
pub enum Choice {
    /// None: this vCPU only computes.
    None,
    /// The next one.
    InTurn,
    /// Any of the first so many per mille of the share.
    Any(u64),
    /// One of the hot pages in so many per mille of the cases, else one of the others.
    Hot { writes: u64, pages: u64 },
}

/// How fast, in counts.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Slices from one beat to the next.
    pub slices: u64,
    /// Slices from one visit to the next.
    pub every: u64,
    /// Turns of the spin loop in a slice.
    pub spins: u64,
    /// Ticks that a beat took when the pace was set.
    pub ticks: u64,
}

/// A stretch of work of one sort.
#[derive(Clone, Copy)]
pub struct Phase {
    pub choice: Choice,
    pub pace: Pace,
    /// Beats until the next phase.
    pub beats: u64,
}

/// What the vCPUs of a guest do: the dirtiers go through `phases` by turns, the others compute.
pub struct Plan {
    pub phases: [Phase; 2],
    pub compute: Phase,
}

impl Plan {
    /// Sets the paces by trying them out on the first dirtier's share.
    pub fn calibrate(params: &Params, clock: &Clock, memory: &Memory) -> Self {
        let mut worker = Worker::new(0, params, memory);
        let mut phase = |choice, rate, milliseconds: u64| Phase {
            choice,
            pace: match params.kind {
                Kind::Idle => idle(clock),
                _ => pace(choice, rate, params.beat, clock, &mut worker, memory),
            },
            beats: (milliseconds * 1000 / params.beat.max(1)).max(1),
        };
        let only = |phase| [phase, phase];
        let phases = match params.kind {
            Kind::Sweep => only(phase(Choice::InTurn, 0, 1)),
            Kind::Random | Kind::Idle => only(phase(Choice::Any(1000), params.rate, 1)),
            Kind::HotCold => {
                let hot = Choice::Hot { writes: params.hot_writes, pages: params.hot_pages };
                only(phase(hot, params.rate, 1))
            }
            Kind::Phases => [
                phase(Choice::Any(params.busy_pages), params.rate, params.busy),
                phase(Choice::Any(params.quiet_pages), params.quiet_rate, params.quiet),
            ],
        };
        Self { phases, compute: phase(Choice::None, 0, 1) }
    }
}

fn idle(clock: &Clock) -> Pace {
    let ticks = clock.ticks(IDLE_WORK);
    Pace { slices: 1, every: 1, spins: clock.spins(ticks), ticks }
}

/// The pace that makes `rate` visits in a second of CPU time (0: as many as can be) and a beat
/// about every `beat` microseconds.
fn pace(
    choice: Choice,
    rate: u64,
    beat: u64,
    clock: &Clock,
    worker: &mut Worker,
    memory: &Memory,
) -> Pace {
    let beat = clock.ticks(beat).max(1);
    let mut cost = || visit_cost(choice, clock, worker, memory);
    let mut pace = if matches!(choice, Choice::None) {
        Pace { slices: 1, every: 1, spins: clock.spins(beat), ticks: beat }
    } else if let Some(between_visits) = (clock.tsc_khz * 1000).checked_div(rate) {
        let between_visits = between_visits.max(1);
        let every = between_visits.div_ceil(beat);
        let cost = cost() / every;
        // A rate beyond reach becomes as many as can be, not a longer beat.
        let slice = (between_visits / every).max(cost).max(1);
        Pace {
            slices: ((beat + slice / 2) / slice).max(1),
            every,
            spins: clock.spins(slice - cost),
            ticks: beat,
        }
    } else {
        Pace { slices: (beat / cost()).max(1), every: 1, spins: 0, ticks: beat }
    };
    let rounds = (clock.ticks(10_000) / beat).clamp(2, 10) as u32;
    pace.ticks = fastest(rounds, || worker.work(choice, &pace, memory)).max(1);
    pace
}

/// Ticks that a visit takes, at the speed that the machine had when the clock was calibrated.
///
/// Measured against the spin loop, turn and turn about: a machine that has become slower since then
/// has become slower for both, and visits keep their proportion to the spinning between them.
fn visit_cost(choice: Choice, clock: &Clock, worker: &mut Worker, memory: &Memory) -> u64 {
    const ROUNDS: usize = 101;
    const VISITS: u64 = 500;
    const SPINS: u64 = 10_000;
    let visits = Pace { slices: VISITS, every: 1, spins: 0, ticks: 0 };
    let (mut visiting, mut spinning) = ([0; ROUNDS], [0; ROUNDS]);
    for round in 0..ROUNDS {
        visiting[round] = fastest(1, || worker.work(choice, &visits, memory));
        spinning[round] = fastest(1, || spin(SPINS));
    }
    // The median: the fastest visits are those that found everything in the caches.
    visiting.sort_unstable();
    spinning.sort_unstable();
    let (visiting, spinning) = (visiting[ROUNDS / 2], spinning[ROUNDS / 2].max(1));
    let spinning_then = SPINS * clock.ticks_per_million_spins / 1_000_000;
    (visiting * spinning_then / spinning / VISITS).max(1)
}

/// One vCPU at work on its share of the pages.
pub struct Worker {
    vcpu: usize,
    share: Range<u32>,
    last: u32,
    random: u64,
    until_visit: u64,
}

impl Worker {
    /// The worker of vCPU `vcpu`; its share is empty if it is none of the dirtiers.
    pub fn new(vcpu: usize, params: &Params, memory: &Memory) -> Self {
        let edge =
            |n: u64| (u64::from(memory.pages) * n.min(params.dirtiers) / params.dirtiers) as u32;
        let share = edge(vcpu as u64)..edge(vcpu as u64 + 1);
        let last = share.start;
        Self { vcpu, share, last, random: mix(params.seed ^ (vcpu as u64) << 32), until_visit: 0 }
    }

    /// The pages this vCPU alone writes.
    pub fn share(&self) -> Range<u32> {
        self.share.clone()
    }

    /// Does the work of one beat.
    #[inline(never)]
    pub fn work(&mut self, choice: Choice, pace: &Pace, memory: &Memory) {
        for _ in 0..pace.slices {
            if self.until_visit == 0 {
                self.until_visit = pace.every;
                if let Some(page) = self.choose(choice) {
                    memory.visit(self.vcpu, page);
                }
            }
            self.until_visit -= 1;
            spin(pace.spins);
        }
    }

    #[inline(always)]
    fn choose(&mut self, choice: Choice) -> Option<u32> {
        let pages = u64::from(self.share.end - self.share.start);
        let part = |per_mille: u64| (pages * per_mille / 1000).clamp(1, pages);
        let chosen = match choice {
            Choice::None => return None,
            Choice::InTurn => {
                self.last =
                    if self.last + 1 < self.share.end { self.last + 1 } else { self.share.start };
                return Some(self.last);
            }
            Choice::Any(per_mille) => self.below(part(per_mille)),
            Choice::Hot { writes, pages: hot } => {
                let hot = part(hot);
                if self.below(1000) < writes || hot == pages {
                    self.below(hot)
                } else {
                    hot + self.below(pages - hot)
                }
            }
        };
        Some(self.share.start + chosen as u32)
    }

    /// A random number below `bound`, which is at most 2^32: the high bits of an xorshift64*.
    #[inline(always)]
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        ((self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) * bound) >> 32
    }
}
