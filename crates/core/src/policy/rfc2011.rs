//! The law of the 2011 thread, literally (qemu-devel, 19 to 21 December 2011, "RFC: Migration
//! convergence - a suggestion").
//!
//! > The aggressionLevel should determine the targetGuest%CPU (how much CPU time we want to
//! > allocate to the guest).
//! > With aggressionLevel = 1.0, the guest gets no CPU-resources (stalled).
//! > With aggressionLevel = 0.0, the guest gets minGuest%CPU, such that
//! > migrationRate == dirtyPagesRate. This minGuest%CPU is continuously updated based on the
//! > running average of the recent samples.
//!
//! Between its two ends the dial is linear here, the thread leaves that open:
//! `target = (1 - aggression) * minGuest%CPU`.
//!
//! > minGuest%CPU is easy to calculate as a running average of
//! > (migrationRate / dirtyPagesRate * guest%CPU) [...] IIR, where, roughly speaking,
//! > newVal = 0.99 * oldVal + 0.01 * newSample
//!
//! > I would use two measures to ensure that there are more migrated pages than "dirty" pages.
//! > 1. The running average (based on recent samples) of the migrated pages is larger than that of
//! >    the new dirty pages
//! > 2. The total number of migrated pages so far is larger than the total number of new dirty pages.
//!
//! "To ensure" is taken at its word: each measure has a CPU share at which it just holds, the
//! running average above for the first and the same quotient of the totals for the second, and
//! minGuest%CPU is the smaller of the two. Until there are figures the guest is left alone.
//!
//! The first dial, migration speed, is `--max-bandwidth`.

use super::{Needs, Policy};
use crate::decision::{Decision, Finish, Hold};
use crate::telemetry::view::{Phase, View};
use crate::units::{ByteRate, Bytes, Share};

/// Weight of the old value in the running average; the new sample has the rest. From the thread.
/// There is a sample at every look, ten a second, so that the average follows within ten seconds.
const KEEP: f64 = 0.99;

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rfc2011 {
    recent: Average,
    migrated: Average,
    dirtied: Average,
    cpu: Mean,
}

/// The running average of the thread. Its first sample is its first value.
#[derive(Debug, Clone, Copy, Default)]
struct Average(Option<f64>);

impl Average {
    fn take(&mut self, sample: f64) -> f64 {
        *self.0.insert(self.0.map_or(sample, |old| KEEP * old + (1.0 - KEEP) * sample))
    }
}

/// The plain mean of all samples.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    samples: f64,
}

impl Mean {
    fn take(&mut self, sample: f64) -> f64 {
        self.sum += sample;
        self.samples += 1.0;
        self.sum / self.samples
    }
}

/// The thread's two measures of convergence at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Converging {
    /// Of late more was migrated than dirtied.
    pub recently: bool,
    /// Since the start more was migrated than dirtied.
    pub in_total: bool,
}

impl Rfc2011 {
    /// Takes one sample of the thread's quantities in and gives minGuest%CPU and the two measures.
    ///
    /// Rates are of distinct guest memory; a guest that dirties nothing needs no hold.
    fn min_guest_cpu(
        &mut self,
        migration: ByteRate,
        dirty: ByteRate,
        guest_cpu: Share,
        totals: (Bytes, Bytes),
    ) -> (Share, Converging) {
        let quotient = |migrated: f64, dirtied: f64, cpu: f64| {
            if dirtied > 0.0 { (migrated / dirtied * cpu).min(1.0) } else { 1.0 }
        };
        let sample = quotient(migration.0, dirty.0, guest_cpu.get());
        let recent = self.recent.take(sample);
        let (migrated, dirtied) = (totals.0.as_f64(), totals.1.as_f64());
        let total = quotient(migrated, dirtied, self.cpu.take(guest_cpu.get()));
        let converging = Converging {
            recently: self.migrated.take(migration.0) > self.dirtied.take(dirty.0),
            in_total: migrated > dirtied,
        };
        (Share::clamped(recent.min(total)), converging)
    }
}

impl Policy for Rfc2011 {
    fn name(&self) -> &'static str {
        "rfc2011"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        if !matches!(view.phase, Phase::FirstPass | Phase::Iterating) {
            return Decision::leave_alone("nothing to hold in this phase");
        }
        if view.aggression.get() == 1.0 {
            return stalled(view);
        }
        let known = (view.link, view.dirty_rate(), view.mean_used_share_of_pass());
        let (Some(link), Some(dirty), Some(cpu)) = known else {
            return Decision::leave_alone("no rates yet");
        };
        let totals = (view.migrated, view.dirtied);
        let (min_guest, converging) = self.min_guest_cpu(link, dirty, cpu, totals);
        let target = Share::clamped((1.0 - view.aggression.get()) * min_guest.get());
        let why = format!(
            "minGuest%CPU {min_guest}, target {target}; converging of late: {}, in total: {}",
            yes(converging.recently),
            yes(converging.in_total)
        );
        let hold = view.quota_for(target).map_or(Hold::Free, Hold::Quota);
        Decision::hold_all(view.vcpus.len(), hold, why)
    }
}

/// The upper end of the dial: no CPU at all.
///
/// Stopping the guest while pre-copy goes on under its bandwidth limit is what the thread says; it
/// needs a way to resume the guest at the destination. Without that, shipping the rest stalls
/// it as well, as soon as it is known how long that takes. Where neither is allowed, the tightest
/// hold is next to it.
fn stalled(view: &View) -> Decision {
    let why = "aggression 1.0: the guest gets no CPU";
    if view.levers.stop {
        return Decision::hold_all(view.vcpus.len(), Hold::Stopped, why);
    }
    let tightest = view.quota_for(Share::NONE).map_or(Hold::Free, Hold::Quota);
    let hold = Decision::hold_all(view.vcpus.len(), tightest, why);
    Decision { finish: view.link.map(|_| Finish::Ship), ..hold }
}

fn yes(value: bool) -> &'static str {
    if value { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{interval, view};
    use crate::requirements::{Aggression, Requirement};
    use crate::units::Moment;

    /// The share asked for once the running average has settled, for a guest that dirties in
    /// proportion to its CPU, `twice` the link's rate at full speed.
    fn settled(aggression: f64) -> f64 {
        let (mut policy, mut view) = (Rfc2011::default(), view());
        view.aggression = Aggression::new(aggression).unwrap();
        let mut share = 1.0;
        for step in 1..2000u64 {
            view.now = Moment::ms(1000 + 100 * step);
            let mut last = interval(1000, (200.0 * share) as u64, 100);
            last.cpu = last.cpu.map(|cpu| cpu.mul_f64(share));
            view.last_sync = Some(last);
            view.vcpus[0].used = Some(Share::clamped(share));
            view.dirtied += Bytes((20e6 * share) as u64);
            view.migrated += Bytes(10_000_000);
            share = policy.decide(&view).hold(0).share().get();
        }
        share
    }

    #[test]
    fn at_aggression_0_a_guest_twice_as_fast_as_the_link_gets_half_a_cpu() {
        assert!((settled(0.0) - 0.5).abs() < 0.02, "{}", settled(0.0));
    }

    #[test]
    fn between_the_ends_the_dial_is_linear() {
        assert!((settled(0.5) - 0.25).abs() < 0.02, "{}", settled(0.5));
    }

    #[test]
    fn at_aggression_1_the_guest_is_stalled() {
        let mut view = view();
        view.aggression = Aggression::new(1.0).unwrap();
        assert_eq!(Rfc2011::default().decide(&view).finish, Some(Finish::Ship));
        view.levers.stop = true;
        view.requirements.give_way = vec![Requirement::MaxStall];
        assert_eq!(Rfc2011::default().decide(&view).hold(0), Hold::Stopped);
    }

    #[test]
    fn a_guest_that_dirties_less_than_the_link_carries_is_not_held_at_aggression_0() {
        let mut view = view();
        view.aggression = Aggression::new(0.0).unwrap();
        view.last_sync = Some(interval(1000, 50, 100));
        assert_eq!(Rfc2011::default().decide(&view).hold(0), Hold::Free);
    }

    #[test]
    fn one_sample_moves_the_average_by_a_hundredth() {
        let mut policy = Rfc2011::default();
        let totals = (Bytes(1_000_000), Bytes(1));
        let mut min = |dirty| {
            policy
                .min_guest_cpu(ByteRate::mb(100), ByteRate::mb(dirty), Share::FULL, totals)
                .0
                .get()
        };
        assert!((min(200) - 0.5).abs() < 1e-9);
        assert!((min(1000) - (0.99 * 0.5 + 0.01 * 0.1)).abs() < 1e-9);
    }

    #[test]
    fn more_dirtied_than_migrated_in_total_tightens_even_where_the_recent_average_is_calm() {
        let mut policy = Rfc2011::default();
        let (min, converging) = policy.min_guest_cpu(
            ByteRate::mb(100),
            ByteRate::mb(50),
            Share::FULL,
            (Bytes(1_000_000), Bytes(4_000_000)),
        );
        assert!((min.get() - 0.25).abs() < 1e-9);
        assert_eq!(converging, Converging { recently: true, in_total: false });
    }
}
