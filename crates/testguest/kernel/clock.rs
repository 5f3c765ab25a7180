//! What a microsecond is: in ticks of the time-stamp counter, and in turns of a loop.
//!
//! The clock is read during calibration only. Work is measured out in turns of [`spin`], so that a
//! guest whose CPU is taken away does less of it, instead of the same amount later.

use crate::cpu::{inb, outb, tsc};
use core::arch::asm;

const PIT_HZ: u64 = 1_193_182;
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_COMMAND: u16 = 0x43;
const GATES: u16 = 0x61;

/// The scale of this machine.
#[derive(Clone, Copy)]
pub struct Clock {
    /// Frequency of the time-stamp counter, in kHz.
    pub tsc_khz: u64,
    /// Ticks that a million turns of [`spin`] take.
    pub ticks_per_million_spins: u64,
}

impl Clock {
    /// Measures both, in about 30 ms.
    pub fn calibrate() -> Self {
        let mut rounds = [0; 3].map(|_| measure_tsc_khz());
        rounds.sort_unstable();
        let tsc_khz = rounds[1].max(1);

        // Least of many short rounds: a host that was busy elsewhere spoils some of them, not all.
        const SPINS: u64 = 30_000;
        let least = fastest(40, || spin(SPINS));
        Self { tsc_khz, ticks_per_million_spins: (least * 1_000_000 / SPINS).max(1) }
    }

    /// Ticks in so many microseconds.
    pub fn ticks(&self, microseconds: u64) -> u64 {
        microseconds * self.tsc_khz / 1000
    }

    /// Turns of [`spin`] that take so many ticks.
    pub fn spins(&self, ticks: u64) -> u64 {
        ticks * 1_000_000 / self.ticks_per_million_spins
    }

    /// Waits by the clock. For dealing with devices only; work never waits.
    pub fn wait(&self, microseconds: u64) {
        let begin = tsc();
        while tsc().wrapping_sub(begin) < self.ticks(microseconds) {
            core::hint::spin_loop();
        }
    }
}

/// Computes for a while: `turns` turns of a loop that touches no memory.
///
/// Never inlined, so that calibration and work run the very same loop: how fast an emulator's
/// translation of a loop is depends on where it lies. And a turn is a chain of multiplications,
/// whose latency outweighs whatever happens between one turn and the next.
#[inline(never)]
pub fn spin(turns: u64) {
    if turns > 0 {
        // SAFETY: works on two registers only.
        unsafe {
            asm!(
                "2:",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "imul {1}, {1}",
                "dec {0}",
                "jnz 2b",
                inout(reg) turns => _, inout(reg) 3u64 => _, options(nomem, nostack),
            );
        }
    }
}

/// Ticks that `work` takes in the best of some rounds.
pub fn fastest(rounds: u32, mut work: impl FnMut()) -> u64 {
    let time = |_| {
        let begin = tsc();
        work();
        tsc().wrapping_sub(begin)
    };
    (0..rounds).map(time).min().unwrap_or(0)
}

/// Counts ticks over 5 ms of the PIT, whose frequency is the same in every PC.
fn measure_tsc_khz() -> u64 {
    const COUNT: u64 = PIT_HZ * 5 / 1000;
    // SAFETY: channel 2 drives the loudspeaker and nothing else; its output is kept off.
    unsafe {
        outb(GATES, inb(GATES) & !0x03 | 0x01);
        outb(PIT_COMMAND, 0xb0); // channel 2, both bytes, mode 0: output rises at the end
        outb(PIT_CHANNEL_2, COUNT as u8);
        outb(PIT_CHANNEL_2, (COUNT >> 8) as u8);
        let begin = tsc();
        while inb(GATES) & 0x20 == 0 {}
        tsc().wrapping_sub(begin) * PIT_HZ / COUNT / 1000
    }
}
