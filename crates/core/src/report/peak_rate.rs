//! The highest rate on the wire, to be held against `--max-bandwidth`.

use std::time::Duration;

use crate::report::PeakRate;
use crate::units::{Bytes, Moment};

/// The highest rate is looked for over spans of this length: QEMU limits its rate in windows of
/// 100 ms, of which a span may hold one more or less.
const SPAN: Duration = Duration::from_secs(2);

/// Finds the highest rate in the bytes sent by each sample.
#[derive(Debug, Clone, Default)]
pub struct PeakRateMeter {
    looks: Vec<(Moment, Bytes)>,
    peak: Option<PeakRate>,
    /// The next sample was read before the limit changed.
    stale: bool,
}

impl PeakRateMeter {
    /// Takes in the bytes that left since the start.
    pub fn on_transferred(&mut self, at: Moment, transferred: Bytes) {
        if std::mem::take(&mut self.stale) {
            return;
        }
        self.looks.push((at, transferred));
        let old = self.looks.iter().rposition(|(then, _)| at.since(*then) >= SPAN);
        let (then, before) = self.looks[old.unwrap_or(0)];
        let span = at.since(then);
        if let Some(rate) = transferred.saturating_sub(before) / span
            && (old.is_some() || self.peak.is_none_or(|peak| peak.over < SPAN))
        {
            let peak = PeakRate { rate, over: span };
            let higher = self.peak.is_none_or(|last| last.over < SPAN || peak.rate > last.rate);
            self.peak = higher.then_some(peak).or(self.peak);
        }
        if let Some(old) = old {
            self.looks.drain(..old);
        }
    }

    /// Another limit applies from now on. Earlier samples are not judged by it, nor is the next one, which
    /// may have been read before.
    pub fn restart(&mut self) {
        *self = PeakRateMeter { stale: true, ..PeakRateMeter::default() };
    }

    /// Returns the highest rate so far; over the time there is while that is less than a span.
    pub fn peak(&self) -> Option<PeakRate> {
        self.peak
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::ByteRate;

    #[test]
    fn a_burst_shorter_than_the_span_counts_by_what_it_is_over_the_span() {
        let mut meter = PeakRateMeter::default();
        let mut sent = 0;
        for n in 0..60u64 {
            sent += if (20..25).contains(&n) { 30 } else { 10 };
            meter.on_transferred(Moment::ms(100 * n), Bytes(sent));
        }
        let peak = meter.peak().unwrap();
        assert_eq!((peak.rate, peak.over), (ByteRate(150.0), SPAN));
    }

    #[test]
    fn what_ends_before_a_span_is_over_is_known_over_what_there_is() {
        let mut meter = PeakRateMeter::default();
        assert_eq!(meter.peak(), None);
        for n in 0..5u64 {
            meter.on_transferred(Moment::ms(100 * n), Bytes(10 * n));
        }
        let peak = meter.peak().unwrap();
        assert_eq!((peak.rate, peak.over), (ByteRate(100.0), Duration::from_millis(400)));
    }
}
