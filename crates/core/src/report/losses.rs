//! What a migration took from the guest, from measurements alone.
//!
//! Three things keep a guest from running: a quota (the kernel counts it, per vCPU), the
//! hypervisor's own throttle (it makes the vCPU threads sleep, which shows as time in which a
//! thread neither ran nor waited, beyond what it slept before), and standing still as a whole (a
//! pause, the final downtime). [`LossMeter`] adds them up from samples and from the hypervisor's
//! events of stopping and resuming. Waiting for a CPU of a crowded host is not among them: the
//! migration did not cause it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decision::Hold;
use crate::telemetry::sample::{Sample, VcpuCounters};
use crate::units::{Moment, Share};

/// CPU time below which a thread counts as standing still between two looks: a thread kept asleep
/// is still woken for a few microseconds of housekeeping now and then.
const STIRRING: Duration = Duration::from_micros(200);

/// A guest watched unhindered for less than this has not shown how much CPU it wants.
const LEAST_WATCHED: Duration = Duration::from_millis(50);

/// A share of a CPU is measured over this, and over this many periods of a quota; a hold that ends
/// sooner is measured over what there is of it, if that is at least a fifth.
const SHARE_SPAN: Duration = Duration::from_millis(500);
const SHARE_PERIODS: u32 = 10;
const LEAST_OF_SPAN: u32 = 5;

/// The sums.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// vCPU time taken from the guest while it wanted to run, summed over vCPUs; `None` where the
    /// kernel's counters of a thread could not be read.
    pub guest_cpu: Option<Duration>,
    /// Longest time any vCPU stood still at a stretch though it wanted to run.
    pub longest_stall: Duration,
    /// Time for which a hold or the hypervisor's own throttle was in force.
    pub throttled: Duration,
    /// Lowest share that a vCPU got of the CPU it wanted, downtimes apart.
    pub min_share: Share,
}

/// Adds up what was taken.
#[derive(Debug, Clone, Default)]
pub struct LossMeter {
    vcpus: Vec<Vcpu>,
    last: Option<Moment>,
    holds: Vec<Hold>,
    own_throttle: Option<Share>,
    stopped: Option<Stopped>,
    longest_stall: Duration,
    lost: Duration,
    throttled: Duration,
    min_share: Option<Share>,
    /// The longest stall and the lowest share from before the requirements for them were tightened.
    before: (Duration, Option<Share>),
    unreadable: bool,
}

/// The guest stands still as a whole.
#[derive(Debug, Clone, Copy)]
struct Stopped {
    since: Moment,
    /// How long a held vCPU had already stood still by then.
    lead: Duration,
}

/// What is remembered of one vCPU.
#[derive(Debug, Clone, Default)]
struct Vcpu {
    last: VcpuCounters,
    /// When it was last seen to have run.
    ran: Option<Moment>,
    /// Time watched unhindered, and how much of it the thread ran or waited to.
    watched: Duration,
    wanted: Duration,
    /// Since the last measurement of its share: time, CPU got, CPU taken.
    hindered: Duration,
    got: Duration,
    taken: Duration,
}

impl Vcpu {
    /// Share of the time for which the thread wants to run when nothing hinders it. Unknown counts
    /// as always: a loss is rather over- than understated.
    fn appetite(&self) -> f64 {
        if self.watched < LEAST_WATCHED {
            return 1.0;
        }
        (self.wanted.as_secs_f64() / self.watched.as_secs_f64()).min(1.0)
    }

    /// Restarts the measurement of its share.
    fn measure_anew(&mut self) {
        (self.hindered, self.got, self.taken) = Default::default();
    }

    fn still(&self, at: Moment) -> Duration {
        self.ran.map_or(Duration::ZERO, |ran| at.since(ran))
    }
}

impl LossMeter {
    /// Restarts the sums and the time; keeps what was learnt of the vCPUs' demand.
    pub fn restart(&mut self) {
        let learnt = |vcpu: Vcpu| Vcpu { ran: Some(Moment::START), ..vcpu };
        *self = LossMeter {
            vcpus: std::mem::take(&mut self.vcpus).into_iter().map(learnt).collect(),
            ..LossMeter::default()
        };
    }

    /// Sets the holds that are in force from now on.
    pub fn on_holds(&mut self, holds: &[Hold]) {
        for index in 0..self.vcpus.len() {
            let (before, now) = (self.hold(index), holds.get(index).copied().unwrap_or_default());
            if before != now {
                let measured = self.measure_share(index, share_span(before) / LEAST_OF_SPAN);
                // What a hold was too short for is measured together with the next one.
                if measured || now == Hold::Free {
                    self.vcpus[index].measure_anew();
                }
            }
        }
        self.holds = holds.to_vec();
    }

    /// The hypervisor reported, at `at`, that the guest stands still.
    ///
    /// The stall of a vCPU that was hindered began when it last ran; that of a free one begins now.
    pub fn on_stop(&mut self, at: Moment) {
        let lead = self.lead(at);
        self.stopped.get_or_insert(Stopped { since: at, lead });
    }

    /// The hypervisor reported, at `at`, that the guest runs again, here or at the destination.
    pub fn on_resume(&mut self, at: Moment) {
        if let Some(Stopped { since, lead }) = self.stopped.take() {
            self.stood_still(at.since(since), lead);
            self.vcpus.iter_mut().for_each(|vcpu| vcpu.ran = Some(at));
        }
    }

    /// The final downtime where only the length that the hypervisor reports is known.
    pub fn on_reported_downtime(&mut self, length: Duration) {
        let lead = self.stopped.take().map_or(Duration::ZERO, |stopped| stopped.lead);
        self.stood_still(length, lead);
    }

    /// Returns since when the guest has stood still; `None` if it runs as far as is known.
    pub fn stopped_since(&self) -> Option<Moment> {
        self.stopped.map(|stopped| stopped.since - stopped.lead)
    }

    /// Takes in a sample.
    pub fn on_sample(&mut self, sample: &Sample) {
        if let Some(migration) = &sample.migration {
            self.own_throttle = migration.own_throttle.filter(|share| *share > Share::NONE);
        }
        let span = self.last.map_or(Duration::ZERO, |last| sample.at.since(last));
        self.last = Some(sample.at);
        if self.vcpus.len() != sample.vcpus.len() {
            let fresh = |counters: &VcpuCounters| Vcpu {
                last: *counters,
                ran: Some(sample.at),
                ..Vcpu::default()
            };
            self.vcpus = sample.vcpus.iter().map(fresh).collect();
            return;
        }
        if self.hindered() && self.stopped.is_none() {
            self.throttled += span;
        }
        for (index, now) in sample.vcpus.iter().enumerate() {
            self.take_vcpu(index, *now, sample.at, span);
        }
    }

    /// The sums so far.
    pub fn losses(&self) -> Losses {
        let (stall, share) = self.before;
        let judged = self.since_tightened();
        Losses {
            longest_stall: judged.longest_stall.max(stall),
            min_share: judged.min_share.min(share.unwrap_or(Share::FULL)),
            ..judged
        }
    }

    /// The same, with no stall and no share from before the requirement for it was last tightened.
    pub fn since_tightened(&self) -> Losses {
        Losses {
            guest_cpu: (!self.unreadable).then_some(self.lost),
            longest_stall: self.longest_stall,
            throttled: self.throttled,
            min_share: self.min_share.unwrap_or(Share::FULL),
        }
    }

    /// A shorter stall is required from now on.
    pub fn reset_stall_verdict(&mut self) {
        self.before.0 = self.before.0.max(std::mem::take(&mut self.longest_stall));
    }

    /// A higher share is required from now on; a measurement under way is of the time before, and
    /// ends here.
    pub fn reset_share_verdict(&mut self) {
        for index in 0..self.vcpus.len() {
            self.measure_share(index, share_span(self.hold(index)) / LEAST_OF_SPAN);
            self.vcpus[index].measure_anew();
        }
        let share = self.min_share.take();
        self.before.1 = self.before.1.into_iter().chain(share).reduce(Share::min);
    }

    fn take_vcpu(&mut self, index: usize, now: VcpuCounters, at: Moment, span: Duration) {
        let before = std::mem::replace(&mut self.vcpus[index].last, now);
        let (Some(ran), Some(waited)) =
            (rise(before.cpu, now.cpu), rise(before.run_delay, now.run_delay))
        else {
            self.unreadable = true;
            return;
        };
        let hold = self.hold(index);
        let vcpu = &mut self.vcpus[index];
        let still = vcpu.still(at);
        if ran >= STIRRING {
            vcpu.ran = Some(at);
        }
        let by_quota = rise(before.throttled, now.throttled).unwrap_or_default();
        if !by_quota.is_zero() {
            let gap =
                longest_gap(by_quota, risen_by(before.nr_throttled, now.nr_throttled), hold, span);
            self.longest_stall = self.longest_stall.max(gap);
        }
        let mut taken = by_quota;
        if self.own_throttle.is_some() && self.stopped.is_none() {
            let wanted = span.mul_f64(vcpu.appetite());
            taken += wanted.saturating_sub(ran + waited + by_quota);
            self.longest_stall = self.longest_stall.max(still);
        }
        self.lost += taken;
        if hold == Hold::Free && self.own_throttle.is_none() && self.stopped.is_none() {
            if by_quota.is_zero() {
                vcpu.watched += span;
                vcpu.wanted += (ran + waited).min(span);
            }
            vcpu.measure_anew();
            return;
        }
        if self.stopped.is_some() {
            return;
        }
        vcpu.hindered += span;
        vcpu.got += ran + waited;
        vcpu.taken += taken;
        self.measure_share(index, share_span(hold));
    }

    /// Takes the share that a vCPU got since the last measurement, if that is long enough ago.
    fn measure_share(&mut self, index: usize, least: Duration) -> bool {
        let vcpu = &mut self.vcpus[index];
        let all = (vcpu.got + vcpu.taken).as_secs_f64();
        if vcpu.hindered < least || all == 0.0 {
            return false;
        }
        let share = Share::clamped(vcpu.got.as_secs_f64() / all);
        vcpu.measure_anew();
        self.min_share = Some(self.min_share.map_or(share, |least| least.min(share)));
        true
    }

    fn hold(&self, index: usize) -> Hold {
        self.holds.get(index).copied().unwrap_or_default()
    }

    fn stood_still(&mut self, length: Duration, lead: Duration) {
        self.longest_stall = self.longest_stall.max(length + lead);
        let appetite: f64 = self.vcpus.iter().map(Vcpu::appetite).sum();
        self.lost += length.mul_f64(appetite);
    }

    fn lead(&self, at: Moment) -> Duration {
        if !self.hindered() {
            return Duration::ZERO;
        }
        self.vcpus.iter().map(|vcpu| vcpu.still(at)).max().unwrap_or_default()
    }

    fn hindered(&self) -> bool {
        self.own_throttle.is_some() || self.holds.iter().any(|hold| *hold != Hold::Free)
    }
}

/// The longest gap of a quota between two samples.
///
/// The kernel adds a gap to its counter when it ends, whole, even one over several periods. Samples
/// closer together than two periods see one gap at a time; of samples further apart only the mean gap
/// is known, from the number of periods that ended in one.
fn longest_gap(kept: Duration, times: Option<u32>, hold: Hold, span: Duration) -> Duration {
    match (hold, times) {
        (Hold::Quota(quota), Some(times)) if span > quota.period.saturating_mul(2) => kept / times,
        _ => kept,
    }
}

/// Over how long the share under a hold is measured.
fn share_span(hold: Hold) -> Duration {
    match hold {
        Hold::Quota(quota) => SHARE_SPAN.max(quota.period.saturating_mul(SHARE_PERIODS)),
        _ => SHARE_SPAN,
    }
}

fn rise(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    Some(now?.saturating_sub(before?))
}

/// How often a counter rose, if it did.
fn risen_by(before: Option<u64>, now: Option<u64>) -> Option<u32> {
    u32::try_from(now?.saturating_sub(before?)).ok().filter(|times| *times > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;
    use crate::telemetry::sample::{Migration, Status};

    fn look(at_ms: u64, cpu_ms: u64, held_ms: u64, holds: u64, own_throttle: f64) -> Sample {
        let ms = Duration::from_millis;
        Sample {
            at: Moment::ms(at_ms),
            migration: Some(Migration {
                status: Status::Active,
                ram: None,
                own_throttle: Some(Share::clamped(own_throttle)),
                downtime: None,
                error: None,
            }),
            vcpus: vec![VcpuCounters {
                cpu: Some(ms(cpu_ms)),
                run_delay: Some(Duration::ZERO),
                throttled: Some(ms(held_ms)),
                nr_throttled: Some(holds),
            }],
        }
    }

    fn quota() -> Hold {
        Hold::Quota(Quota { quota: Duration::from_millis(5), period: Duration::from_millis(50) })
    }

    #[test]
    fn what_a_quota_keeps_back_is_lost_and_each_gap_is_a_stall() {
        let mut account = LossMeter::default();
        account.on_sample(&look(0, 0, 0, 0, 0.0));
        account.on_holds(&[quota()]);
        for n in 1..=20 {
            account.on_sample(&look(50 * n, 5 * n, 45 * n, n, 0.0));
        }
        let losses = account.losses();
        assert_eq!(losses.guest_cpu, Some(Duration::from_millis(900)));
        assert_eq!(losses.longest_stall, Duration::from_millis(45));
        assert_eq!(losses.throttled, Duration::from_secs(1));
        assert!((losses.min_share.get() - 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_guest_nobody_hinders_loses_nothing_however_little_it_runs() {
        let mut account = LossMeter::default();
        for n in 0..20 {
            account.on_sample(&look(100 * n, n, 0, 0, 0.0));
        }
        let losses = account.losses();
        assert_eq!(losses.guest_cpu, Some(Duration::ZERO));
        assert_eq!((losses.longest_stall, losses.min_share), (Duration::ZERO, Share::FULL));
    }

    #[test]
    fn sleeping_under_the_hypervisors_own_throttle_is_lost_beyond_the_guests_own_sleep() {
        let mut account = LossMeter::default();
        for n in 0..=10 {
            account.on_sample(&look(100 * n, 50 * n, 0, 0, 0.0));
        }
        // It ran half the time; now it runs a tenth of it, in two bursts a second apart.
        account.on_sample(&look(1500, 550, 0, 0, 0.9));
        account.on_sample(&look(2000, 600, 0, 0, 0.9));
        let losses = account.losses();
        assert_eq!(losses.guest_cpu, Some(Duration::from_millis(400)));
        assert_eq!(losses.longest_stall, Duration::from_millis(500));
    }

    #[test]
    fn a_downtime_after_a_gap_of_a_held_guest_is_one_stall() {
        let mut account = LossMeter::default();
        account.on_sample(&look(0, 0, 0, 0, 0.0));
        account.on_sample(&look(100, 100, 0, 0, 0.0));
        account.on_holds(&[quota()]);
        account.on_sample(&look(110, 105, 0, 0, 0.0));
        account.on_sample(&look(150, 105, 0, 1, 0.0));
        account.on_stop(Moment::ms(155));
        account.on_resume(Moment::ms(255));
        assert_eq!(account.losses().longest_stall, Duration::from_millis(145));
    }

    #[test]
    fn a_downtime_counts_for_every_vcpu_as_much_as_it_wanted_to_run() {
        let mut account = LossMeter::default();
        for n in 0..=10 {
            account.on_sample(&look(100 * n, 25 * n, 0, 0, 0.0));
        }
        account.on_stop(Moment::ms(1000));
        account.on_reported_downtime(Duration::from_millis(200));
        let losses = account.losses();
        assert_eq!(losses.longest_stall, Duration::from_millis(200));
        assert_eq!(losses.guest_cpu, Some(Duration::from_millis(50)));
    }

    #[test]
    fn what_was_before_a_requirement_was_tightened_is_lost_and_not_held_against_it() {
        let mut account = LossMeter::default();
        account.on_sample(&look(0, 0, 0, 0, 0.0));
        account.on_holds(&[quota()]);
        (1..=20).for_each(|n| account.on_sample(&look(50 * n, 5 * n, 45 * n, n, 0.0)));
        account.reset_stall_verdict();
        account.reset_share_verdict();
        let half = Quota { quota: Duration::from_millis(25), period: Duration::from_millis(50) };
        account.on_holds(&[Hold::Quota(half)]);
        for n in 1..=20 {
            account.on_sample(&look(1000 + 50 * n, 100 + 25 * n, 900 + 25 * n, 20 + n, 0.0));
        }
        let (all, judged) = (account.losses(), account.since_tightened());
        assert_eq!(judged.longest_stall, Duration::from_millis(25));
        assert!((judged.min_share.get() - 0.5).abs() < 1e-9, "{judged:?}");
        assert_eq!(all.longest_stall, Duration::from_millis(45));
        assert!((all.min_share.get() - 0.1).abs() < 1e-9, "{all:?}");
        assert_eq!(
            (all.guest_cpu, judged.guest_cpu),
            (Some(Duration::from_millis(1400)), all.guest_cpu)
        );
    }

    #[test]
    fn counters_that_cannot_be_read_make_the_loss_unknown_not_zero() {
        let mut account = LossMeter::default();
        let mut blind = look(0, 0, 0, 0, 0.0);
        blind.vcpus[0] = VcpuCounters::default();
        account.on_sample(&blind);
        blind.at = Moment::ms(100);
        account.on_sample(&blind);
        assert_eq!(account.losses().guest_cpu, None);
    }
}
