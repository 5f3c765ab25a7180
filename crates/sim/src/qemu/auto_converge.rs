//! QEMU's own throttle: that of today, and that of 2013.
//!
//! Both look at a sync of the bitmap, and only if more than a second has passed since the last look.

/// Which auto-converge a simulated QEMU has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AutoConvergeVersion {
    /// That of QEMU 2.4 to 10 (`migration_trigger_throttle`, `migration/ram.c`): it lets the vCPUs
    /// run for 10 ms at a time and makes them sleep for longer and longer between.
    #[default]
    Today,
    /// That of QEMU 1.6 to 2.3 (`check_guest_throttling`, `arch_init.c`): it makes every vCPU sleep for
    /// 30 ms every 40 ms, and never harder.
    Of2013,
}

/// Dirtied bytes beyond this part of those sent are too many: `throttle-trigger-threshold`, per cent.
const THRESHOLD: f64 = 0.5;
/// `cpu-throttle-initial`, `cpu-throttle-increment` and `max-cpu-throttle`, per cent.
const INITIAL: u32 = 20;
const INCREMENT: u32 = 10;
const MOST: u32 = 99;
/// A vCPU runs for so long between two sleeps (`CPU_THROTTLE_TIMESLICE_NS`).
const SLICE: f64 = 0.010;
/// Too many for the second time: the throttle tightens.
const TIMES: u32 = 2;
/// That of 2013: too many for the sixth time (`dirty_rate_high_cnt++ > 4`; its comment says four).
const TIMES_2013: u32 = 6;
/// A vCPU sleeps for so long (`mig_sleep_cpu`), whenever more than so long has passed.
const NAP: f64 = 0.030;
const NAP_EVERY: f64 = 0.040;

/// How the vCPUs are to sleep.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sleep {
    /// First they sleep for so long, ...
    pub(crate) sleep: f64,
    /// ... then they run for so long, and so on.
    pub(crate) run: f64,
    /// What QEMU reports of it, per cent; that of 2013 reports nothing.
    pub(crate) percentage: Option<u32>,
}

/// What it remembers from look to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throttle {
    kind: AutoConvergeVersion,
    high: u32,
    percentage: u32,
    napping: bool,
    /// `dirty_pages_rate` as of the last look; that of 2013 waits for the first.
    rate_known: bool,
}

impl Throttle {
    pub(crate) fn new(kind: AutoConvergeVersion) -> Throttle {
        Throttle { kind, high: 0, percentage: 0, napping: false, rate_known: false }
    }

    /// What a look shows: bytes dirtied and bytes on the wire since the last one. Gives the way in
    /// which the vCPUs are to sleep from now on, if that changes.
    ///
    /// `sending` is the part of a window in which QEMU sends, and does not wait for its limit.
    pub(crate) fn look(&mut self, dirtied: f64, wire: f64, sending: f64) -> Option<Sleep> {
        let high = dirtied > wire * THRESHOLD;
        match self.kind {
            AutoConvergeVersion::Today => {
                if !high {
                    return None;
                }
                self.high += 1;
                if self.high < TIMES {
                    return None;
                }
                self.high = 0;
                self.tighten()
            }
            AutoConvergeVersion::Of2013 => {
                let counts = std::mem::replace(&mut self.rate_known, dirtied > 0.0) && high;
                self.high += u32::from(counts);
                if !counts || self.high < TIMES_2013 {
                    return None;
                }
                self.high = 0;
                let first = !std::mem::replace(&mut self.napping, true);
                first.then(|| naps(sending))
            }
        }
    }

    fn tighten(&mut self) -> Option<Sleep> {
        let before = self.percentage;
        self.percentage = if before == 0 { INITIAL } else { (before + INCREMENT).min(MOST) };
        (self.percentage != before).then(|| {
            let part = f64::from(self.percentage) / 100.0;
            let sleep = SLICE * part / (1.0 - part);
            Sleep { sleep, run: SLICE, percentage: Some(self.percentage) }
        })
    }
}

/// The naps of 2013. They are asked for as pages are sent, so a QEMU that waits for its rate limit
/// most of the time asks once a window of 100 ms.
fn naps(sending: f64) -> Sleep {
    let in_window = (0.1 * sending / NAP_EVERY).ceil().max(1.0);
    let every = (0.1 / in_window).max(NAP_EVERY);
    Sleep { sleep: NAP, run: every - NAP, percentage: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percentages(throttle: &mut Throttle, looks: &[bool]) -> Vec<Option<u32>> {
        let look = |high: &bool| throttle.look(if *high { 60.0 } else { 50.0 }, 100.0, 1.0);
        looks.iter().map(look).map(|sleep| sleep.and_then(|sleep| sleep.percentage)).collect()
    }

    #[test]
    fn every_second_bad_period_tightens_from_20_by_10_to_99() {
        let mut throttle = Throttle::new(AutoConvergeVersion::Today);
        let seen: Vec<u32> =
            percentages(&mut throttle, &[true; 24]).into_iter().flatten().collect();
        assert_eq!(seen, [20, 30, 40, 50, 60, 70, 80, 90, 99]);
        let first = percentages(&mut Throttle::new(AutoConvergeVersion::Today), &[true; 4]);
        assert_eq!(first, [None, Some(20), None, Some(30)]);
    }

    #[test]
    fn a_good_period_between_two_bad_ones_does_not_count_and_does_not_forgive() {
        let mut throttle = Throttle::new(AutoConvergeVersion::Today);
        let seen = percentages(&mut throttle, &[true, false, false, true, false, true, true]);
        assert_eq!(seen, [None, None, None, Some(20), None, None, Some(30)]);
    }

    #[test]
    fn just_half_of_what_was_sent_is_not_too_much() {
        let mut throttle = Throttle::new(AutoConvergeVersion::Today);
        assert!((0..10).all(|_| throttle.look(50.0, 100.0, 1.0).is_none()));
    }

    #[test]
    fn at_99_per_cent_a_vcpu_sleeps_990_ms_for_every_10_it_runs() {
        let mut throttle = Throttle::new(AutoConvergeVersion::Today);
        let last = (0..18).filter_map(|_| throttle.look(1.0, 1.0, 1.0)).last().unwrap();
        assert!((last.sleep - 0.990).abs() < 1e-9 && (last.run - 0.010).abs() < 1e-12, "{last:?}");
    }

    #[test]
    fn that_of_2013_begins_at_the_sixth_bad_period_after_the_first_and_never_tightens() {
        let mut throttle = Throttle::new(AutoConvergeVersion::Of2013);
        let seen: Vec<bool> = (0..20).map(|_| throttle.look(60.0, 100.0, 1.0).is_some()).collect();
        assert_eq!(seen.iter().position(|began| *began), Some(6));
        assert_eq!(seen.iter().filter(|began| **began).count(), 1);
    }

    #[test]
    fn that_of_2013_leaves_a_quarter_of_the_cpu_where_the_link_is_the_bottleneck() {
        let (always, seldom) = (naps(1.0), naps(0.2));
        assert!((always.run / (always.run + always.sleep) - 0.25).abs() < 1e-9);
        assert!((seldom.run / (seldom.run + seldom.sleep) - 0.7).abs() < 1e-9);
    }
}
