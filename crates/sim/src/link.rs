//! The link: how fast bytes leave at any moment.

use std::time::Duration;

use landfall_core::units::{ByteRate, Bytes, Moment, Share};

use crate::rng::Seed;

/// A link between source and destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Bytes on the wire per second while nothing disturbs it.
    pub rate: ByteRate,
    /// How much the rate of one tenth of a second differs from that of the next: relative standard
    /// deviation, 0 for none.
    pub jitter: f64,
    /// New rates from certain moments on, in order of time.
    pub changes: Vec<Change>,
    /// Other traffic on the same link.
    pub congestion: Option<LinkCongestion>,
    /// What the switch-over takes besides the link's time for what is left.
    pub switch_over: SwitchOver,
}

/// A change of the link's rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Change {
    /// When.
    pub at: Moment,
    /// The rate from then on.
    pub rate: ByteRate,
}

/// Other traffic that takes a part of the link now and then.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkCongestion {
    /// There is one episode per this time, at a moment that follows from the seed.
    pub every: Duration,
    /// How long it lasts.
    pub lasts: Duration,
    /// The share that is left meanwhile.
    pub leaves: Share,
}

/// What a switch-over takes besides the link's time for the memory that is left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwitchOver {
    /// Where QEMU's own limit is the bottleneck: stopping, the device state, the start.
    pub unhurried: Duration,
    /// Where the link is, the same and the last acknowledgements.
    pub hurried: Duration,
    /// Where the link is: bytes that wait in its buffers ahead of what is left.
    pub buffer: Bytes,
}

impl Default for SwitchOver {
    /// As measured (`docs/measurements/levers-qemu-10.0.md`, "ship" and "links").
    fn default() -> Self {
        SwitchOver {
            unhurried: Duration::from_millis(4),
            hurried: Duration::from_millis(15),
            buffer: Bytes(4_600_000),
        }
    }
}

/// A time in which only jitter changes a link's rate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Steady {
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) until: f64,
}

/// How often jitter is drawn: QEMU's own window.
const SLOT: f64 = 0.1;

/// A limit of 95 MB/s on a link of 100 left its buffers as full as no limit did, one of 90 kept them
/// empty (`docs/measurements/levers-qemu-10.0.md`, "links" and "ship").
const BOTTLENECK: f64 = 0.93;

impl Link {
    /// A steady link.
    pub fn steady(rate: ByteRate) -> Link {
        Link {
            rate,
            jitter: 0.0,
            changes: Vec::new(),
            congestion: None,
            switch_over: SwitchOver::default(),
        }
    }

    /// Wire bytes per second at `t` seconds but for jitter, and until when that holds.
    fn mean(&self, t: f64, seed: Seed) -> (f64, f64) {
        let (mut rate, mut until) = (self.rate.0, f64::INFINITY);
        for change in &self.changes {
            let at = change.at.as_secs_f64();
            if at > t + TINY {
                until = at;
                break;
            }
            rate = change.rate.0;
        }
        if let Some(congestion) = self.congestion {
            let (left, end) = congestion.at(t, seed.fork(1));
            (rate, until) = (rate * left, until.min(end));
        }
        (rate, until)
    }

    /// Wire bytes per second at `t` seconds, and until when that holds.
    pub(crate) fn at(&self, t: f64, seed: Seed) -> (f64, f64) {
        let (rate, until) = self.mean(t, seed);
        let (factor, slot_ends) = self.jittered(t, seed);
        (rate * factor, until.min(slot_ends))
    }

    /// Part of its rate that the link has at `t`, and until when.
    fn jittered(&self, t: f64, seed: Seed) -> (f64, f64) {
        if self.jitter <= 0.0 {
            return (1.0, f64::INFINITY);
        }
        let slot = ((t + TINY) / SLOT) as u64;
        (self.off_by(seed.part(slot) * 2.0 - 1.0), (slot + 1) as f64 * SLOT)
    }

    /// The jitter is evenly spread over the square root of three standard deviations to either side:
    /// -1 is least, 1 most.
    fn off_by(&self, place: f64) -> f64 {
        (1.0 + place * 3f64.sqrt() * self.jitter).max(0.05)
    }

    /// Between which rates the link stays from `t` on, and until when.
    pub(crate) fn steady_from(&self, t: f64, seed: Seed) -> Steady {
        let (rate, until) = self.mean(t, seed);
        Steady { least: rate * self.off_by(-1.0), most: rate * self.off_by(1.0), until }
    }

    /// Bytes that it carries between two moments.
    pub(crate) fn carried(&self, from: f64, to: f64, seed: Seed) -> f64 {
        let (mut carried, mut now) = (0.0, from);
        while now < to {
            let (rate, until) = self.mean(now, seed);
            let until = until.min(to);
            while now < until {
                let (factor, slot_ends) = self.jittered(now, seed);
                let end = slot_ends.min(until);
                carried += rate * factor * (end - now);
                now = end;
            }
        }
        carried
    }

    /// How long `wire` bytes take from `t` on, with nothing but the link to hold them up.
    pub(crate) fn time_for(&self, wire: f64, t: f64, seed: Seed) -> f64 {
        let (mut left, mut now) = (wire, t);
        while left > 0.0 {
            let (rate, until) = self.at(now, seed);
            let carried = rate * (until - now);
            if carried >= left || until.is_infinite() {
                return if rate > 0.0 { now + left / rate - t } else { f64::INFINITY };
            }
            (left, now) = (left - carried, until);
        }
        now - t
    }

    /// What a switch-over takes from `t` on, besides the memory that is left.
    pub(crate) fn overhead(&self, limit: f64, t: f64, seed: Seed) -> f64 {
        let SwitchOver { unhurried, hurried, buffer } = self.switch_over;
        // A tenth of a second more or less does not fill a buffer.
        if limit < BOTTLENECK * self.mean(t, seed).0 {
            return unhurried.as_secs_f64();
        }
        hurried.as_secs_f64() + self.time_for(buffer.as_f64(), t, seed)
    }
}

/// A moment counts as reached when it is nearer than this: sums of times round.
const TINY: f64 = 1e-9;

impl LinkCongestion {
    /// Share of the link that is left at `t`, and until when.
    fn at(&self, t: f64, seed: Seed) -> (f64, f64) {
        let (every, lasts) = (self.every.as_secs_f64(), self.lasts.as_secs_f64());
        if every <= 0.0 {
            return (1.0, f64::INFINITY);
        }
        let turn = ((t + TINY) / every).floor();
        let begins = turn * every + seed.part(turn as u64) * (every - lasts).max(0.0);
        let ends = (begins + lasts).min((turn + 1.0) * every);
        match t + TINY {
            now if now < begins => (1.0, begins),
            now if now < ends => (self.leaves.get(), ends),
            _ => (1.0, (turn + 1.0) * every),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: Seed = Seed(1);

    #[test]
    fn a_change_of_rate_counts_from_its_moment_on() {
        let change = Change { at: Moment::ms(2000), rate: ByteRate::mb(50) };
        let link = Link { changes: vec![change], ..Link::steady(ByteRate::mb(100)) };
        assert_eq!(link.at(1.0, SEED), (100e6, 2.0));
        assert_eq!(link.at(2.0, SEED), (50e6, f64::INFINITY));
        assert!((link.time_for(150e6, 1.0, SEED) - 2.0).abs() < 1e-9);
    }

    #[test]
    fn congestion_takes_its_part_of_the_time_and_of_the_link() {
        let congestion = LinkCongestion {
            every: Duration::from_secs(10),
            lasts: Duration::from_secs(5),
            leaves: Share::clamped(0.2),
        };
        let link = Link { congestion: Some(congestion), ..Link::steady(ByteRate::mb(100)) };
        // In 100 s half the time at a fifth: 60 % of the link.
        let time = link.time_for(6e9, 0.0, SEED);
        assert!((time - 100.0).abs() < 5.0, "{time}");
    }

    #[test]
    fn jitter_keeps_the_mean() {
        let link = Link { jitter: 0.2, ..Link::steady(ByteRate::mb(100)) };
        let time = link.time_for(1e11, 0.0, SEED);
        assert!((time - 1000.0).abs() < 10.0, "{time}");
    }

    #[test]
    fn a_link_that_is_the_bottleneck_has_full_buffers() {
        let link = Link::steady(ByteRate::mb(100));
        assert!((link.overhead(134e6, 0.0, SEED) - 0.061).abs() < 1e-9);
        assert!((link.overhead(90e6, 0.0, SEED) - 0.004).abs() < 1e-9);
    }
}
