//! The guest's vCPUs: how they are held, what the kernel counts of them, and what they lost.
//!
//! The account kept here is the truth that a real migration's account (`landfall_core::report::losses`) has
//! to derive from counters: what a vCPU wanted and did not get is lost, and a stall is the time from the
//! moment it last ran to the moment it runs again. All times are seconds since the start.

use std::time::Duration;

use landfall_core::decision::Hold;
use landfall_core::report::losses::Losses;
use landfall_core::telemetry::sample::VcpuCounters;
use landfall_core::units::Share;

use crate::duty_cycle::Duty;
use crate::qemu::Sleep;

/// A share of a CPU is measured over this, and over this many periods of a quota; a hold that ends
/// sooner is measured over what there is of it, if that is at least a fifth. As in the account of a
/// real migration.
const SHARE_SPAN: f64 = 0.5;
const SHARE_PERIODS: f64 = 10.0;
const LEAST_OF_SPAN: f64 = 0.2;
/// Time is cut into no shorter steps for that, whatever rounding leaves.
const LEAST_STEP: f64 = 1e-3;

/// All vCPUs of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Vcpus {
    vcpus: Vec<Vcpu>,
    holds: Vec<Hold>,
    /// CPU seconds per second that each wants.
    appetite: f64,
    at: f64,
    /// QEMU's own throttle, and since when.
    sleeps: Option<(Sleep, f64)>,
    stopped: Option<Stopped>,
    lost: f64,
    longest_stall: f64,
    throttled: f64,
    min_share: f64,
}

/// The guest stands still as a whole.
#[derive(Debug, Clone, Copy)]
struct Stopped {
    since: f64,
    /// How long a held vCPU had already stood still by then.
    lead: f64,
}

#[derive(Debug, Clone, Copy)]
struct Vcpu {
    duty: Duty,
    /// What of this duty was counted already.
    used: f64,
    gaps: f64,
    /// The kernel's counters.
    cpu: f64,
    held: f64,
    holds: u64,
    /// Since the last measurement of its share.
    hindered: f64,
    got: f64,
    wanted: f64,
}

impl Vcpus {
    /// Free ones that have not run yet.
    pub(crate) fn new(count: usize, appetite: f64) -> Vcpus {
        let vcpu = Vcpu {
            duty: Duty::free(0.0, appetite),
            used: 0.0,
            gaps: 0.0,
            cpu: 0.0,
            held: 0.0,
            holds: 0,
            hindered: 0.0,
            got: 0.0,
            wanted: 0.0,
        };
        Vcpus {
            vcpus: vec![vcpu; count],
            holds: vec![Hold::Free; count],
            appetite,
            at: 0.0,
            sleeps: None,
            stopped: None,
            lost: 0.0,
            longest_stall: 0.0,
            throttled: 0.0,
            min_share: 1.0,
        }
    }

    /// Lets time pass until `to` and gives the CPU seconds that were used, all vCPUs together.
    pub(crate) fn advance(&mut self, to: f64) -> f64 {
        let span = to - self.at;
        if span <= 0.0 {
            return 0.0;
        }
        self.at = to;
        let wanted = self.appetite * span;
        if let Some(Stopped { since, lead }) = self.stopped {
            self.lost += wanted * self.vcpus.len() as f64;
            self.longest_stall = self.longest_stall.max(to - since + lead);
            return 0.0;
        }
        let asleep = self.sleeps.is_some();
        let mut hindered = asleep;
        let mut all = 0.0;
        for (vcpu, hold) in self.vcpus.iter_mut().zip(&self.holds) {
            if *hold == Hold::Free && !asleep {
                all += vcpu.run(to);
                continue;
            }
            hindered = true;
            let least = share_span(*hold);
            let mut at = to - span;
            while at < to {
                let until = to.min(at + (least - vcpu.hindered).max(LEAST_STEP));
                let (wanted, used) = (self.appetite * (until - at), vcpu.run(until));
                all += used;
                // What it makes up for after a sleep is not lost.
                self.lost += wanted - used;
                vcpu.hindered += until - at;
                vcpu.got += used;
                vcpu.wanted += wanted;
                self.min_share = self.min_share.min(vcpu.share(least));
                at = until;
            }
            self.longest_stall = self.longest_stall.max(vcpu.count_gaps(to, *hold));
        }
        if hindered {
            self.throttled += span;
        }
        all
    }

    /// Holds one vCPU by a quota, or frees it.
    pub(crate) fn set_hold(&mut self, vcpu: usize, hold: Hold) {
        self.set(vcpu, hold);
    }

    /// Lifts every hold.
    pub(crate) fn release_all(&mut self) {
        for index in 0..self.vcpus.len() {
            self.set(index, Hold::Free);
        }
    }

    /// Frees every vCPU and stops the guest as a whole.
    pub(crate) fn stop_guest(&mut self) {
        let (_, lead) = self.notices_stop();
        self.release_all();
        self.stop(lead);
        self.holds.fill(Hold::Stopped);
    }

    /// Continues a guest that was stopped.
    pub(crate) fn continue_guest(&mut self) {
        self.stopped = None;
        self.release_all();
    }

    /// From now on QEMU makes the vCPUs sleep, and first of all at once.
    pub(crate) fn sleep(&mut self, sleep: Sleep) {
        for index in 0..self.vcpus.len() {
            self.measure(index);
        }
        self.sleeps = Some((sleep, self.at));
        for index in 0..self.vcpus.len() {
            let duty = self.duty(self.holds[index]);
            self.vcpus[index].begin(duty, self.at);
        }
    }

    /// What QEMU says of its own throttle.
    pub(crate) fn own_throttle(&self) -> Option<Share> {
        let percentage = self.sleeps.and_then(|(sleep, _)| sleep.percentage);
        percentage.map(|per_cent| Share::clamped(f64::from(per_cent) / 100.0))
    }

    /// When QEMU's throttle takes its next turn, at `t` or later: a new setting counts from then on.
    pub(crate) fn next_turn(&self, t: f64) -> f64 {
        let Some((sleep, since)) = self.sleeps else { return t };
        let turn = sleep.sleep + sleep.run;
        since + ((t - since) / turn - 1e-9).ceil().max(0.0) * turn
    }

    /// When all vCPUs have noticed that they are to stop, and for how long the one that stood still
    /// longest will have done so by then.
    ///
    /// One that a quota keeps from running notices when it runs again, and does nothing else then; a
    /// sleep of QEMU's own making ends at once (`cpu_throttle_thread`).
    pub(crate) fn notices_stop(&self) -> (f64, f64) {
        let (mut stops, mut lead) = (self.at, 0.0f64);
        for Vcpu { duty, .. } in &self.vcpus {
            let still = duty.still(self.at);
            let runs = if self.sleeps.is_some() { self.at } else { duty.runs_next(self.at) };
            stops = stops.max(runs);
            if still > 0.0 || runs > self.at {
                lead = lead.max(still + runs - self.at);
            }
        }
        (stops, lead)
    }

    /// When each of them has run, if only for a moment; at once, where the guest stands still as a whole.
    pub(crate) fn all_have_run(&self) -> f64 {
        let runs = |vcpu: &Vcpu| vcpu.duty.runs_next(self.at);
        let all = if self.is_stopped() { &[] } else { &self.vcpus[..] };
        all.iter().map(runs).fold(self.at, f64::max)
    }

    /// The guest stands still from now on; a held vCPU's stall began so much earlier.
    pub(crate) fn stop(&mut self, lead: f64) {
        self.stopped.get_or_insert(Stopped { since: self.at, lead });
    }

    /// Whether the guest stands still as a whole.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// Records CPU time lost, and the longest stall, while the guest waits for pages of post-copy.
    pub(crate) fn lose(&mut self, cpu: f64, stall: f64) {
        self.lost += cpu;
        self.longest_stall = self.longest_stall.max(stall);
    }

    /// CPU seconds per second that all want together.
    pub(crate) fn cpu_demand(&self) -> f64 {
        self.appetite * self.vcpus.len() as f64
    }

    /// The kernel's counters.
    pub(crate) fn counters(&self, into: &mut Vec<VcpuCounters>) {
        let counters = |vcpu: &Vcpu| VcpuCounters {
            cpu: Some(duration(vcpu.cpu)),
            run_delay: Some(Duration::ZERO),
            throttled: Some(duration(vcpu.held)),
            nr_throttled: Some(vcpu.holds),
        };
        into.clear();
        into.extend(self.vcpus.iter().map(counters));
    }

    /// What was lost so far.
    pub(crate) fn losses(&self) -> Losses {
        Losses {
            guest_cpu: Some(duration(self.lost)),
            longest_stall: duration(self.longest_stall),
            throttled: duration(self.throttled),
            min_share: Share::clamped(self.min_share),
        }
    }

    fn set(&mut self, index: usize, hold: Hold) {
        if self.holds[index] == hold {
            return;
        }
        self.measure(index);
        self.holds[index] = hold;
        let duty = self.duty(hold);
        self.vcpus[index].begin(duty, self.at);
    }

    /// The share of a hold that ends, if it lasted long enough.
    fn measure(&mut self, index: usize) {
        let least = share_span(self.holds[index]) * LEAST_OF_SPAN;
        self.min_share = self.min_share.min(self.vcpus[index].share(least));
        let vcpu = &mut self.vcpus[index];
        (vcpu.hindered, vcpu.got, vcpu.wanted) = (0.0, 0.0, 0.0);
    }

    /// How a vCPU runs from now on under a hold, and under QEMU's own throttle.
    ///
    /// A quota is refilled when it is written, so what is held runs first. A guest that wants less than
    /// a whole CPU spreads what it wants evenly, and stands still once the quota is used up.
    fn duty(&self, hold: Hold) -> Duty {
        let by_quota = match hold {
            Hold::Quota(quota) if quota.share().get() < self.appetite => {
                let (on, period) = (quota.quota.as_secs_f64(), quota.period.as_secs_f64());
                let on = on / self.appetite;
                Duty::run_first(self.at, on, period - on, self.appetite)
            }
            _ => Duty::free(self.at, self.appetite),
        };
        let Some((Sleep { sleep, run, .. }, since)) = self.sleeps else { return by_quota };
        // What it could not do while it slept it does when it runs, as far as it comes.
        let rate = (self.appetite * (run + sleep) / run).min(1.0);
        let asleep = Duty::sleep_first(since, run, sleep, rate);
        if by_quota.mean() < asleep.mean() { by_quota } else { asleep }
    }
}

impl Vcpu {
    fn begin(&mut self, duty: Duty, now: f64) {
        self.duty = duty;
        self.used = duty.used(now);
        self.gaps = duty.gaps(now);
    }

    fn run(&mut self, to: f64) -> f64 {
        let used = self.duty.used(to);
        let more = used - self.used;
        self.used = used;
        self.cpu += more;
        more
    }

    /// Counts the gaps that have ended as the kernel does, and gives the longest it stood still.
    fn count_gaps(&mut self, to: f64, hold: Hold) -> f64 {
        let gap = self.duty.gap();
        if gap <= 0.0 {
            return 0.0;
        }
        let ended = self.duty.gaps(to) - self.gaps;
        if ended <= 0.0 {
            return self.duty.still(to);
        }
        self.gaps += ended;
        if let Hold::Quota(_) = hold {
            self.held += ended * gap;
            self.holds += ended as u64;
        }
        gap
    }

    /// The share it got since the last measurement, if that is at least so long ago; else all of it.
    fn share(&mut self, least: f64) -> f64 {
        if self.hindered < least || self.wanted <= 0.0 {
            return 1.0;
        }
        let share = (self.got / self.wanted).min(1.0);
        (self.hindered, self.got, self.wanted) = (0.0, 0.0, 0.0);
        share
    }
}

fn share_span(hold: Hold) -> f64 {
    match hold {
        Hold::Quota(quota) => SHARE_SPAN.max(quota.period.as_secs_f64() * SHARE_PERIODS),
        _ => SHARE_SPAN,
    }
}

/// Seconds as a duration; what is no time at all is none.
pub(crate) fn duration(seconds: f64) -> Duration {
    Duration::from_nanos((seconds.max(0.0) * 1e9 + 0.5) as u64)
}
