//! What the beats of a guest say about its work: rates, work lost, stalls. Pure functions.
//!
//! A beat stands for a fixed amount of work, so the beats that a window lacks are the work that was
//! taken from the guest in it, whatever took it: a throttle, a pause, a slow migration thread.

use std::time::{Duration, Instant};

/// Beats per second of each vCPU while nothing disturbs the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Baseline(Vec<f64>);

impl Baseline {
    /// A baseline from beats per second, one number for each vCPU.
    pub fn new(beats_per_second: Vec<f64>) -> Self {
        Self(beats_per_second)
    }

    /// Beats per second of one vCPU; `None` if it is not known to beat.
    pub fn rate(&self, vcpu: usize) -> Option<f64> {
        self.0.get(vcpu).copied().filter(|rate| rate.is_finite() && *rate > 0.0)
    }

    /// Usual time between two beats of one vCPU.
    pub fn gap(&self, vcpu: usize) -> Option<Duration> {
        Duration::try_from_secs_f64(1.0 / self.rate(vcpu)?).ok()
    }
}

/// One report of one vCPU, when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// Which vCPU.
    pub vcpu: usize,
    /// When its byte was read.
    pub at: Instant,
}

/// Progress of a guest over a short while, for a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct ProgressPoint {
    /// End of the while, counted from the start of the window.
    pub at: Duration,
    /// Beats per second of each vCPU in it.
    pub rates: Vec<f64>,
}

/// The beats of one guest, wherever it ran, in order, apart for each vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Timeline {
    vcpus: Vec<Vec<Instant>>,
}

impl Timeline {
    /// The timeline of a guest with (at least) so many vCPUs. The beats may come in any order.
    pub fn new(vcpus: usize, beats: impl IntoIterator<Item = Beat>) -> Self {
        let mut timeline = Self { vcpus: vec![Vec::new(); vcpus] };
        for Beat { vcpu, at } in beats {
            if vcpu >= timeline.vcpus.len() {
                timeline.vcpus.resize(vcpu + 1, Vec::new());
            }
            timeline.vcpus[vcpu].push(at);
        }
        // Nearly sorted already: two threads read what one guest sent from two places.
        timeline.vcpus.iter_mut().for_each(|beats| beats.sort());
        timeline
    }

    /// How many vCPUs it is about.
    pub fn vcpus(&self) -> usize {
        self.vcpus.len()
    }

    /// All beats of one vCPU, in order; none for a vCPU that is not there.
    pub fn beats(&self, vcpu: usize) -> &[Instant] {
        self.vcpus.get(vcpu).map_or(&[], Vec::as_slice)
    }

    /// Beats of one vCPU after `from` and up to `to`.
    pub fn beats_in(&self, vcpu: usize, from: Instant, to: Instant) -> &[Instant] {
        let beats = self.beats(vcpu);
        let begin = beats.partition_point(|at| *at <= from);
        let end = beats.partition_point(|at| *at <= to);
        &beats[begin..end.max(begin)]
    }

    /// Beats per second of one vCPU in a window; 0 in an empty window.
    pub fn rate(&self, vcpu: usize, from: Instant, to: Instant) -> f64 {
        let wall = to.saturating_duration_since(from).as_secs_f64();
        if wall > 0.0 { self.beats_in(vcpu, from, to).len() as f64 / wall } else { 0.0 }
    }

    /// The rates of a window in which nothing disturbed the guest, to compare others with.
    pub fn baseline(&self, from: Instant, to: Instant) -> Baseline {
        Baseline((0..self.vcpus()).map(|vcpu| self.rate(vcpu, from, to)).collect())
    }

    /// Time of work that one vCPU lost in a window: the window less what its beats are worth at
    /// the baseline. Never negative: a vCPU that was faster than its baseline lost nothing. None
    /// is known, and none reported, for a vCPU without a baseline.
    pub fn work_lost(
        &self,
        vcpu: usize,
        from: Instant,
        to: Instant,
        baseline: &Baseline,
    ) -> Option<Duration> {
        let rate = baseline.rate(vcpu)?;
        let wall = to.saturating_duration_since(from);
        let done = self.beats_in(vcpu, from, to).len() as f64 / rate;
        Some(wall.saturating_sub(Duration::try_from_secs_f64(done).unwrap_or(Duration::MAX)))
    }

    /// Time of work lost in a window, summed over the vCPUs that have a baseline.
    pub fn total_work_lost(&self, from: Instant, to: Instant, baseline: &Baseline) -> Duration {
        (0..self.vcpus()).filter_map(|vcpu| self.work_lost(vcpu, from, to, baseline)).sum()
    }

    /// The longest time in a window that any vCPU with a baseline did not beat, beyond its usual
    /// gap. The edges of the window count as beats.
    pub fn longest_stall(&self, from: Instant, to: Instant, baseline: &Baseline) -> Duration {
        let stall = |vcpu| {
            let usual = baseline.gap(vcpu)?;
            Some(self.longest_gap(vcpu, from, to).saturating_sub(usual))
        };
        (0..self.vcpus()).filter_map(stall).max().unwrap_or_default()
    }

    /// The longest time in a window that one vCPU did not beat. The edges count as beats.
    pub fn longest_gap(&self, vcpu: usize, from: Instant, to: Instant) -> Duration {
        let ends = self.beats_in(vcpu, from, to).iter().copied().chain([to]);
        let mut last = from;
        let gaps = ends.map(|at| at.saturating_duration_since(std::mem::replace(&mut last, at)));
        gaps.max().unwrap_or_default()
    }

    /// The rates of a window, one sample every `step`, the last one shorter where the window is not
    /// a multiple. Empty for a step of zero.
    pub fn progress(&self, from: Instant, to: Instant, step: Duration) -> Vec<ProgressPoint> {
        let mut samples = Vec::new();
        let mut begin = from;
        while begin < to && !step.is_zero() {
            let end = begin.checked_add(step).unwrap_or(to).min(to);
            let rates = (0..self.vcpus()).map(|vcpu| self.rate(vcpu, begin, end)).collect();
            samples.push(ProgressPoint { at: end.saturating_duration_since(from), rates });
            begin = end;
        }
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// Beats of vCPU 0 at these milliseconds after an origin.
    fn timeline(milliseconds: impl IntoIterator<Item = u64>) -> (Timeline, Instant) {
        let origin = Instant::now();
        let beats = milliseconds.into_iter().map(|ms| Beat { vcpu: 0, at: origin + MS(ms) });
        (Timeline::new(1, beats), origin)
    }

    #[test]
    fn a_guest_that_beats_as_usual_has_lost_nothing() {
        let (timeline, t) = timeline((0..=1000).step_by(2));
        let baseline = timeline.baseline(t, t + MS(500));
        assert_eq!(baseline.rate(0), Some(500.0));
        assert_eq!(timeline.total_work_lost(t, t + MS(1000), &baseline), Duration::ZERO);
        assert_eq!(timeline.longest_stall(t, t + MS(1000), &baseline), Duration::ZERO);
    }

    #[test]
    fn a_pause_is_lost_work_and_a_stall_of_its_length() {
        let (timeline, t) = timeline((0..=500).step_by(2).chain((802..=1300).step_by(2)));
        let baseline = timeline.baseline(t, t + MS(500));
        assert_eq!(timeline.work_lost(0, t, t + MS(1300), &baseline), Some(MS(300)));
        assert_eq!(timeline.longest_stall(t, t + MS(1300), &baseline), MS(300));
    }

    #[test]
    fn half_speed_for_a_second_is_half_a_second_lost_without_a_stall_to_speak_of() {
        let (timeline, t) = timeline((0..1000).step_by(2).chain((1000..=2000).step_by(4)));
        let baseline = timeline.baseline(t, t + MS(998));
        let lost = timeline.work_lost(0, t + MS(1000), t + MS(2000), &baseline).unwrap();
        assert!(lost.abs_diff(MS(500)) < MS(3), "{lost:?}");
        assert!(timeline.longest_stall(t, t + MS(2000), &baseline) <= MS(2));
    }

    #[test]
    fn a_stall_that_has_not_ended_counts_up_to_the_end_of_the_window() {
        let (timeline, t) = timeline((0..=100).step_by(10));
        let baseline = Baseline::new(vec![100.0]);
        assert_eq!(timeline.longest_stall(t, t + MS(600), &baseline), MS(490));
    }

    #[test]
    fn a_vcpu_without_a_baseline_is_left_out_not_counted_as_idle() {
        let (timeline, t) = timeline([]);
        let baseline = timeline.baseline(t, t + MS(1000));
        assert_eq!(timeline.work_lost(0, t, t + MS(1000), &baseline), None);
        assert_eq!(timeline.longest_stall(t, t + MS(1000), &baseline), Duration::ZERO);
    }

    #[test]
    fn beats_of_two_places_form_one_timeline() {
        let t = Instant::now();
        let at = |ms| Beat { vcpu: 1, at: t + MS(ms) };
        let timeline = Timeline::new(1, [at(30), at(10), at(20)]);
        assert_eq!(timeline.vcpus(), 2);
        assert_eq!(timeline.beats(1), [t + MS(10), t + MS(20), t + MS(30)]);
        assert!(timeline.beats(0).is_empty() && timeline.beats(7).is_empty());
    }

    proptest! {
        #[test]
        fn lost_work_and_stalls_never_exceed_the_window(
            beats in proptest::collection::vec(0u64..2000, 0..200),
            from in 0u64..2000, length in 0u64..2000, rate in 0.1f64..1000.0,
        ) {
            let (timeline, t) = timeline(beats);
            let (from, to) = (t + MS(from), t + MS(from + length));
            let baseline = Baseline::new(vec![rate]);
            prop_assert!(timeline.total_work_lost(from, to, &baseline) <= MS(length));
            prop_assert!(timeline.longest_stall(from, to, &baseline) <= MS(length));
            // A window the wrong way round is empty.
            prop_assert_eq!(timeline.total_work_lost(to, from, &baseline), Duration::ZERO);
            prop_assert!(timeline.beats_in(0, to, from).is_empty());
        }

        #[test]
        fn what_the_samples_count_is_what_the_window_counts(
            beats in proptest::collection::vec(0u64..2000, 0..200), step in 1u64..500,
        ) {
            let (timeline, t) = timeline(beats);
            let to = t + MS(2000);
            let samples = timeline.progress(t, to, MS(step));
            let mut begin = Duration::ZERO;
            let mut counted = 0.0;
            for sample in &samples {
                counted += sample.rates[0] * (sample.at - begin).as_secs_f64();
                begin = sample.at;
            }
            prop_assert_eq!(begin, MS(2000));
            prop_assert!((counted - timeline.beats_in(0, t, to).len() as f64).abs() < 1e-6);
        }

        #[test]
        fn dropping_beats_never_lessens_the_loss(
            beats in proptest::collection::vec(0u64..1000, 1..100), drop in any::<prop::sample::Index>(),
        ) {
            let mut fewer = beats.clone();
            fewer.remove(drop.index(beats.len()));
            let baseline = Baseline::new(vec![100.0]);
            let (all, t) = timeline(beats);
            let (fewer, u) = timeline(fewer);
            prop_assert!(
                fewer.total_work_lost(u, u + MS(1000), &baseline)
                    >= all.total_work_lost(t, t + MS(1000), &baseline)
            );
        }
    }
}
