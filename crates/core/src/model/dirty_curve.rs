//! The dirty curve: how much distinct memory a guest dirties in an amount of its own CPU time.
//!
//! A single dirty rate misleads, because a guest writes the same pages again: on a published memcached
//! run it is 528 MB/s over an eighth of a second and 99 MB/s over a minute (Gudkov, qemu-devel 2023).
//! The curve `D(c)` covers all time spans. It is concave, starts at 0 and flattens out at the working set.
//!
//! It counts the guest's **own CPU time**, so throttling does not change the curve, only the point
//! on it: a guest held to a share `u` for a time `T` dirties `D(u*T)`. `docs/theory.md` has this claim
//! tested on real guests.

use serde::{Deserialize, Serialize};

use crate::units::{Bytes, CpuTime};

/// A dirty curve, as a sum of sets of pages, each written at random at its own rate:
/// `D(c) = sum of set * (1 - exp(-c / time))`.
///
/// Uniform random writes into one set give exactly one such term (`w` writes a second into `n` pages:
/// `time = n / w`), so a sum of them is a guest with hot and cold memory; and every such sum is
/// concave, starts at 0 and never exceeds its working set, whatever the measurements were.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DirtyCurve {
    parts: Vec<Component>,
}

/// Pages that are written equally often.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Component {
    /// Their size.
    pub set: Bytes,
    /// The guest's CPU time in which each page is written once on average.
    pub time: CpuTime,
}

impl DirtyCurve {
    /// The curve of a guest that never writes.
    pub const IDLE: DirtyCurve = DirtyCurve { parts: Vec::new() };

    /// The curve of these sets of pages. Empty sets, and times of zero, are left out.
    pub fn new(parts: impl IntoIterator<Item = Component>) -> DirtyCurve {
        let real = |part: &Component| part.set > Bytes(0) && part.time.0 > 0.0;
        DirtyCurve { parts: parts.into_iter().filter(real).collect() }
    }

    /// The sets of pages.
    pub fn components(&self) -> &[Component] {
        &self.parts
    }

    /// Distinct memory dirtied in this CPU time.
    pub fn dirtied(&self, cpu: CpuTime) -> Bytes {
        Bytes(self.dirtied_bytes(cpu.0) as u64)
    }

    /// All memory that the guest ever writes, as far as known.
    pub fn working_set(&self) -> Bytes {
        self.parts.iter().map(|part| part.set).sum()
    }

    /// The CPU time in which this much is dirtied; `None` where it never is.
    pub fn time_to_dirty(&self, bytes: Bytes) -> Option<CpuTime> {
        let wanted = bytes.as_f64();
        if wanted <= 0.0 {
            return Some(CpuTime(0.0));
        }
        if wanted >= self.working_set().as_f64() {
            return None;
        }
        // Newton from the left on an increasing concave function never overshoots.
        let mut cpu = 0.0;
        for _ in 0..60 {
            let (dirtied, slope) = self.with_slope(cpu);
            let short = wanted - dirtied;
            if short <= 0.5 || slope <= 0.0 {
                break;
            }
            cpu += short / slope;
        }
        Some(CpuTime(cpu))
    }

    /// The same guest with each of its sets scaled in size by a factor.
    #[must_use]
    pub fn scaled(&self, by: f64) -> DirtyCurve {
        let scale =
            |part: &Component| Component { set: Bytes((part.set.as_f64() * by) as u64), ..*part };
        DirtyCurve::new(self.parts.iter().map(scale))
    }

    /// The same guest with each of its sets written more often by a factor.
    #[must_use]
    pub fn sped_up(&self, by: f64) -> DirtyCurve {
        let hasten = |part: &Component| Component { time: CpuTime(part.time.0 / by), ..*part };
        DirtyCurve::new(self.parts.iter().map(hasten))
    }

    /// Bytes dirty in the middle of a pass, `used` seconds of CPU after its start, while `unsent` bytes of
    /// the pass wait. Newly dirtied pages spread over the working set, of which the unsent part is dirty
    /// anyway.
    pub(crate) fn dirty_mid_pass(&self, unsent: f64, used: f64) -> f64 {
        let written = self.working_set().as_f64().max(1.0);
        unsent + self.dirtied_bytes(used) * (1.0 - (unsent / written).min(1.0))
    }

    /// Bytes dirtied in `cpu` seconds.
    pub(crate) fn dirtied_bytes(&self, cpu: f64) -> f64 {
        let dirtied = |part: &Component| part.set.as_f64() * -(-cpu / part.time.0).exp_m1();
        self.parts.iter().map(dirtied).sum()
    }

    /// `N` CPU times from `first` on, each `2^(1/per_octave)` times the one before, and the bytes
    /// dirtied in each.
    ///
    /// In twice the time the part `d` of a set that is dirty becomes `d * (2 - d)`, so that only the
    /// first octave takes exponentials.
    pub(crate) fn log_grid(&self, first: f64, per_octave: usize, count: usize) -> Vec<(f64, f64)> {
        let mut along: Vec<(f64, f64)> = Vec::with_capacity(count);
        for place in 0..count {
            let cpu = match place.checked_sub(per_octave) {
                Some(half) => 2.0 * along[half].0,
                None => first * (place as f64 / per_octave as f64).exp2(),
            };
            along.push((cpu, 0.0));
        }
        let mut dirty = vec![0.0; count];
        for part in &self.parts {
            for ((cpu, _), dirty) in along.iter().zip(&mut dirty).take(per_octave) {
                *dirty = -(-cpu / part.time.0).exp_m1();
            }
            for place in per_octave..count {
                let half = dirty[place - per_octave];
                dirty[place] = half * (2.0 - half);
            }
            let set = part.set.as_f64();
            for ((_, bytes), dirty) in along.iter_mut().zip(&dirty) {
                *bytes += set * dirty;
            }
        }
        along
    }

    /// Bytes dirtied in `cpu` seconds, and bytes per second of CPU newly dirtied after them.
    fn with_slope(&self, cpu: f64) -> (f64, f64) {
        self.parts.iter().fold((0.0, 0.0), |(dirtied, slope), part| {
            let (set, clean) = (part.set.as_f64(), (-cpu / part.time.0).exp());
            (dirtied + set * (1.0 - clean), slope + set / part.time.0 * clean)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn curves() -> impl Strategy<Value = DirtyCurve> {
        let part = (1u64..500_000_000, 0.001f64..100.0);
        proptest::collection::vec(part, 1..6).prop_map(|parts| {
            let part = |(set, time)| Component { set: Bytes(set), time: CpuTime(time) };
            DirtyCurve::new(parts.into_iter().map(part))
        })
    }

    proptest! {
        #[test]
        fn more_cpu_never_dirties_less_nor_more_than_in_proportion(
            curve in curves(), cpu in 0.0f64..100.0, times in 1.0f64..50.0,
        ) {
            let (less, more) = (curve.dirtied_bytes(cpu), curve.dirtied_bytes(cpu * times));
            prop_assert!(less <= more + 1.0);
            prop_assert!(more <= less * times + 1.0);
            prop_assert!(more <= curve.working_set().as_f64() + 1.0);
        }

        #[test]
        fn the_time_to_dirty_is_the_inverse_of_what_is_dirtied(curve in curves(), part in 0.0f64..0.99) {
            let bytes = Bytes((curve.working_set().as_f64() * part) as u64);
            let time = curve.time_to_dirty(bytes).unwrap();
            let back = curve.dirtied_bytes(time.0);
            prop_assert!((back - bytes.as_f64()).abs() <= 2.0 + 1e-6 * bytes.as_f64(), "{back} {bytes:?}");
        }
    }

    #[test]
    fn along_a_ladder_it_is_what_it_is_at_each_rung() {
        let parts = [(96, 0.1), (500, 30.0)];
        let part = |(mib, time)| Component { set: Bytes::mib(mib), time: CpuTime(time) };
        let curve = DirtyCurve::new(parts.map(part));
        for (step, (cpu, bytes)) in curve.log_grid(1e-4, 7, 150).into_iter().enumerate() {
            let at = 1e-4 * 2f64.powf(step as f64 / 7.0);
            assert!((cpu / at - 1.0).abs() < 1e-9, "{step}: {cpu} {at}");
            assert!((bytes / curve.dirtied_bytes(at) - 1.0).abs() < 1e-9, "{step}: {bytes}");
        }
    }

    #[test]
    fn what_is_beyond_the_working_set_is_never_dirtied() {
        let curve = DirtyCurve::new([Component { set: Bytes::mib(96), time: CpuTime(0.1) }]);
        assert_eq!(curve.time_to_dirty(Bytes::mib(96)), None);
        assert_eq!(DirtyCurve::IDLE.time_to_dirty(Bytes(1)), None);
        assert_eq!(DirtyCurve::IDLE.dirtied(CpuTime(1e9)), Bytes(0));
    }
}
