//! Chance that can be repeated: everything random in a simulation follows from its seed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What everything random in a simulation follows from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seed(pub u64);

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014; constants
/// as Vigna published them). Its n-th number is a function of seed and n, so that a link can ask for
/// the jitter of any moment without drawing all those before.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Seed {
    /// The n-th number of this seed's sequence.
    pub fn number(self, n: u64) -> u64 {
        let mut z = self.0.wrapping_add(n.wrapping_add(1).wrapping_mul(GAMMA));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The same, evenly spread from 0 up to 1, 1 itself excluded.
    pub fn part(self, n: u64) -> f64 {
        (self.number(n) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// The seed of something of its own: the n-th draw, the link, the guest.
    #[must_use]
    pub fn fork(self, n: u64) -> Seed {
        Seed(self.number(n ^ 0x5eed_0000_0000))
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for Seed {
    type Err = std::num::ParseIntError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.trim().parse().map(Seed)
    }
}

/// Draws one number after another from a seed.
#[derive(Debug, Clone)]
pub struct Draws {
    seed: Seed,
    next: u64,
}

impl Draws {
    /// The numbers of this seed, from the first on.
    pub fn of(seed: Seed) -> Draws {
        Draws { seed, next: 0 }
    }

    /// The next one, evenly spread from 0 up to 1, 1 itself excluded.
    pub fn part(&mut self) -> f64 {
        self.next += 1;
        self.seed.part(self.next - 1)
    }

    /// The next one, evenly spread below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        ((self.part() * end as f64) as u64).min(end.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        // The first three for seed 1234567, as in Vigna's and Rosetta Code's tables.
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert_eq!([0, 1, 2].map(|n| Seed(1234567).number(n)), expected);
    }

    #[test]
    fn parts_are_spread_evenly() {
        let mut draws = Draws::of(Seed(7));
        let mean = (0..10_000).map(|_| draws.part()).sum::<f64>() / 10_000.0;
        assert!((mean - 0.5).abs() < 0.01, "{mean}");
    }
}
