//! The bandwidth of the link, in guest memory per second: what leaves, whatever it costs on the wire.
//! So compression and headers do not distort it.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::telemetry::sample::Ram;
use crate::units::{ByteRate, Bytes, Moment};

/// A rate with its uncertainty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BandwidthEstimate {
    /// The recent rate.
    pub rate: ByteRate,
    /// Its relative standard error over a second to come; `None` where it was not measured.
    pub error: Option<f64>,
}

/// Measures the link from the counters of memory sent.
#[derive(Debug, Clone, Default)]
pub struct BandwidthEstimator {
    looks: VecDeque<Sent>,
    last: Option<(Moment, Ram)>,
    rate: Option<BandwidthEstimate>,
    /// The next sample may have been read before the limit changed.
    stale: bool,
}

/// Bytes sent and seconds passed since the start, without what does not count.
#[derive(Debug, Clone, Copy)]
struct Sent {
    time: f64,
    bytes: f64,
}

/// Window of the rate while the link stays the same, in seconds.
const LONG: f64 = 5.0;

/// Window of the rate after the link changed, in seconds: ten of QEMU's 100 ms windows, in each of which it sends
/// as fast as it can and then sleeps.
const SHORT: f64 = 1.0;

/// The link has changed when the short rate differs from the long one by more than this part: more
/// than one window too many or too few in the short span explains.
const CHANGED: f64 = 0.2;

/// A rate over less than this says more about the window's edges than about the rate.
pub(super) const LEAST_SPAN: Duration = Duration::from_millis(250);

/// Time that QEMU takes to find a byte to be zero, in seconds: 65 ms a GB (`docs/theory.md`).
const PER_ZERO_BYTE: f64 = 65e-12;

/// Time at the ends of a span that may or may not hold a burst.
const EDGE: f64 = 0.05;

impl BandwidthEstimator {
    /// Starts with an expected rate, if there is one.
    pub fn new(expected: Option<ByteRate>) -> BandwidthEstimator {
        let rate = expected.map(|rate| BandwidthEstimate { rate, error: None });
        BandwidthEstimator { rate, ..BandwidthEstimator::default() }
    }

    /// Returns the rate that was last measured.
    pub fn estimate(&self) -> Option<BandwidthEstimate> {
        self.rate
    }

    /// The limit changed. Earlier samples no longer count; until there are new ones, the link is assumed
    /// to carry what it did, within the limit. The next counters may have been read before the change.
    pub fn on_limit_changed(&mut self, limit: Option<ByteRate>) {
        if let (Some(known), Some(limit)) = (&mut self.rate, limit) {
            known.rate = ByteRate(known.rate.0.min(limit.0));
        }
        self.looks.clear();
        self.stale = true;
    }

    /// Takes in the counters of a sample; [`update`](Self::update) evaluates them.
    pub fn on_ram(&mut self, at: Moment, ram: Ram) {
        let last = self.last.replace((at, ram)).filter(|_| !std::mem::take(&mut self.stale));
        let Some((then, before)) = last else {
            self.looks.push_back(Sent { time: 0.0, bytes: 0.0 });
            return;
        };
        let zeros = ram.duplicate.saturating_sub(before.duplicate);
        let whole = at.since(then).as_secs_f64();
        let time = whole - zeros.as_f64() * PER_ZERO_BYTE;
        let normal = ram.normal.saturating_sub(before.normal);
        let Some(&last) = self.looks.back() else { return };
        // Where almost only zero pages left, the link was not the limit.
        let idle = ram.remaining == Bytes(0) || zeros > Bytes(0);
        if time < whole * 0.3 || normal == Bytes(0) && idle {
            return;
        }
        self.looks.push_back(Sent { time: last.time + time, bytes: last.bytes + normal.as_f64() });
    }

    /// Measures the rate from everything that was taken in.
    pub fn update(&mut self) {
        let Some(&now) = self.looks.back() else { return };
        self.forget_before(now.time - LONG);
        let (Some(long), Some(short)) = (self.over(LONG), self.over(SHORT)) else { return };
        let changed = long.0 > 0.0 && (short.0 / long.0 - 1.0).abs() > CHANGED && long.1 > SHORT;
        if changed {
            self.forget_before(now.time - SHORT);
        }
        let (rate, span) = if changed { short } else { long };
        if long.0 > 0.0 {
            let error = (EDGE / span).hypot(self.unsteadiness(rate));
            self.rate = Some(BandwidthEstimate { rate: ByteRate(rate), error: Some(error) });
        }
    }

    /// Relative standard deviation of the rate from one second to the next, beyond what one window of the
    /// rate limit too many or too few explains.
    fn unsteadiness(&mut self, mean: f64) -> f64 {
        let (mut squares, mut count) = (0.0, 0.0);
        let mut looks = &*self.looks.make_contiguous();
        while let Some(first) = looks.first() {
            let second = first.time + SHORT - 1e-9;
            looks = &looks[looks.partition_point(|look| look.time < second)..];
            let Some(last) = looks.first() else { break };
            let off = (last.bytes - first.bytes) / (last.time - first.time) / mean - 1.0;
            squares += (off * off - EDGE * EDGE).max(0.0);
            count += 1.0;
        }
        if count > 0.0 { f64::sqrt(squares / count) } else { 0.0 }
    }

    fn forget_before(&mut self, time: f64) {
        while self.looks.get(1).is_some_and(|second| second.time <= time + 1e-9) {
            self.looks.pop_front();
        }
    }

    /// Rate over the last `span` seconds, or as many as there are, and that span. Where it begins between
    /// two samples, what was sent between them counts as sent evenly.
    fn over(&self, span: f64) -> Option<(f64, f64)> {
        let now = self.looks.back()?;
        let from = now.time - span - 1e-9;
        let inside = self.looks.partition_point(|look| look.time < from);
        let mut first = *self.looks.get(inside)?;
        if let Some(before) = inside.checked_sub(1).and_then(|index| self.looks.get(index)) {
            let part = (from - before.time) / (first.time - before.time);
            first.bytes = before.bytes + (first.bytes - before.bytes) * part;
            first.time = from;
        }
        let length = now.time - first.time;
        (length >= LEAST_SPAN.as_secs_f64()).then(|| ((now.bytes - first.bytes) / length, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the meter says after looks 100 ms apart, at each of which so many bytes more left.
    fn after(steps: impl IntoIterator<Item = (u64, u64)>) -> Option<BandwidthEstimate> {
        let (mut meter, mut normal, mut zeros) = (BandwidthEstimator::default(), 0, 0);
        for (n, (sent, blank)) in steps.into_iter().enumerate() {
            (normal, zeros) = (normal + sent, zeros + blank);
            let ram = Ram {
                total: Bytes(1 << 40),
                remaining: Bytes(1 << 39),
                transferred: Bytes(normal),
                normal: Bytes(normal),
                duplicate: Bytes(zeros),
                syncs: 1,
            };
            meter.on_ram(Moment::ms(100 * n as u64), ram);
            meter.update();
        }
        meter.estimate()
    }

    fn about(found: Option<BandwidthEstimate>, rate: f64) -> bool {
        found.is_some_and(|found| (found.rate.0 / rate - 1.0).abs() < 0.02)
    }

    #[test]
    fn a_steady_link_is_known_the_better_the_longer_it_is_seen() {
        assert_eq!(after([(100, 0); 2]), None);
        let (early, late) = (after([(100, 0); 5]).unwrap(), after([(100, 0); 50]).unwrap());
        assert!(about(Some(late), 1000.0) && late.error.unwrap() < early.error.unwrap());
    }

    #[test]
    fn zero_pages_do_not_count_as_a_fast_link_nor_as_a_slow_one() {
        let among = after([(100, 300); 20]);
        assert!(about(among, 1000.0), "zero pages among others: {among:?}");
        let zeros = [(0, 100_000); 10];
        let pages = [(100, 0); 10];
        assert!(about(after(pages.into_iter().chain(zeros).chain(pages)), 1000.0));
    }

    #[test]
    fn congestion_is_noticed_within_two_seconds_and_then_believed() {
        let fast = [(100, 0); 40];
        let found = after(fast.into_iter().chain([(40, 0); 20])).unwrap();
        assert!((found.rate.0 / 400.0 - 1.0).abs() < 0.08, "{found:?}");
    }

    #[test]
    fn an_unsteady_link_is_less_sure_than_a_steady_one() {
        let unsteady = (0..60).map(|n| if n / 10 % 2 == 0 { (110, 0) } else { (85, 0) });
        let (unsteady, steady) = (after(unsteady).unwrap(), after([(100, 0); 60]).unwrap());
        assert!(unsteady.error.unwrap() > 4.0 * steady.error.unwrap(), "{unsteady:?} {steady:?}");
    }

    #[test]
    fn a_new_limit_is_believed_at_once_and_a_rate_without_one_once_it_is_seen() {
        let mut meter = BandwidthEstimator::default();
        let mut sent = 0;
        let mut look = |meter: &mut BandwidthEstimator, n: u64, bytes: u64| {
            sent += bytes;
            let ram = Ram {
                total: Bytes(1 << 40),
                remaining: Bytes(1 << 39),
                transferred: Bytes(sent),
                normal: Bytes(sent),
                duplicate: Bytes(0),
                syncs: 1,
            };
            meter.on_ram(Moment::ms(100 * n), ram);
            meter.update();
        };
        (0..40).for_each(|n| look(&mut meter, n, 100));
        meter.on_limit_changed(Some(ByteRate(400.0)));
        assert!(about(meter.estimate(), 400.0));
        look(&mut meter, 40, 100);
        (41..45).for_each(|n| look(&mut meter, n, 40));
        assert!(about(meter.estimate(), 400.0), "{:?}", meter.estimate());
        meter.on_limit_changed(None);
        assert!(about(meter.estimate(), 400.0));
        (45..50).for_each(|n| look(&mut meter, n, 100));
        assert!(about(meter.estimate(), 1000.0), "{:?}", meter.estimate());
    }

    #[test]
    fn bursts_of_a_rate_limit_are_not_taken_for_changes() {
        let bursts = (0..60).map(|n| if n % 3 == 0 { (300, 0) } else { (0, 0) });
        let found = after(bursts).unwrap();
        assert!((found.rate.0 / 1000.0 - 1.0).abs() < 0.08, "{found:?}");
    }
}
