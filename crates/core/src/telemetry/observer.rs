//! Makes views of samples: rates over a sliding window, intervals between syncs of the dirty bitmap.

use std::collections::VecDeque;
use std::time::Duration;

use crate::decision::Hold;
use crate::model::prior::Prior;
use crate::model::{LazyEstimate, SyncObservation};
use crate::requirements::{Aggression, Requirements, Settings};
use crate::telemetry::bandwidth::{BandwidthEstimator, LEAST_SPAN};
use crate::telemetry::sample::{Ram, Sample, Status, VcpuCounters};
use crate::telemetry::view::{Levers, Phase, SyncInterval, VcpuView, View};
use crate::units::{Bytes, CpuDemand, CpuTime, Moment, Share};

/// Rates are taken over this much of the past: ten of QEMU's 100 ms rate-limiting windows, in each
/// of which it sends as fast as it can and then sleeps.
const WINDOW: Duration = Duration::from_millis(1000);

/// Least relative error of a point of the dirty curve.
const POINT_ERROR: f64 = 0.02;

/// How exactly the moment of a sync is known, in seconds.
const SYNC_ERROR: f64 = 0.015;

/// Keeps what a [`View`] of a new [`Sample`] needs of the earlier ones.
#[derive(Debug, Clone)]
pub struct Observer {
    settings: Settings,
    levers: Levers,
    holds: Vec<Hold>,
    window: VecDeque<Look>,
    /// Memory of a dropped sample, reused for the next.
    spare: Vec<VcpuCounters>,
    at_sync: Option<AtSync>,
    interval: Option<SyncInterval>,
    intervals: u64,
    dirtied: Bytes,
    meter: BandwidthEstimator,
    known: LazyEstimate,
    contents: Option<Bytes>,
    pace: Option<CpuDemand>,
    /// What each vCPU used when it was last free, and when it was last held.
    free: Vec<(Option<Share>, Option<Moment>)>,
}

/// The part of a sample that rates are made of.
#[derive(Debug, Clone)]
struct Look {
    at: Moment,
    ram: Option<Ram>,
    vcpus: Vec<VcpuCounters>,
}

/// A sync of the dirty bitmap.
#[derive(Debug, Clone, Copy)]
struct AtSync {
    at: Moment,
    cpu: Option<Duration>,
    ram: Ram,
}

impl Look {
    /// CPU time of all vCPUs; `None` unless every one is known.
    fn cpu(&self) -> Option<Duration> {
        (!self.vcpus.is_empty()).then(|| self.vcpus.iter().map(|vcpu| vcpu.cpu).sum()).flatten()
    }
}

impl Observer {
    /// Starts to observe a guest whose vCPUs are all free and of which the prior is known.
    pub fn new(
        requirements: Requirements,
        aggression: Aggression,
        levers: Levers,
        prior: &Prior,
    ) -> Self {
        Observer {
            settings: Settings { requirements, aggression },
            levers,
            holds: Vec::new(),
            window: VecDeque::new(),
            spare: Vec::new(),
            at_sync: None,
            interval: None,
            intervals: 0,
            dirtied: Bytes(0),
            meter: BandwidthEstimator::new(prior.link),
            known: LazyEstimate::new(prior),
            contents: prior.contents,
            pace: prior.cpu_demand,
            free: Vec::new(),
        }
    }

    /// Returns the view before the start, of a guest with `contents` to send and this many vCPUs.
    pub fn view_before_start(&self, memory: Bytes, vcpus: usize) -> View {
        let link = self.meter.estimate();
        View {
            now: Moment::START,
            requirements: self.settings.requirements.clone(),
            aggression: self.settings.aggression,
            phase: Phase::Setup,
            total: memory,
            remaining: memory,
            link: link.map(|link| link.rate),
            link_error: link.and_then(|link| link.error),
            last_sync: None,
            syncs: 0,
            cpu_since_sync: None,
            migrated: Bytes(0),
            zeros: Bytes(0),
            dirtied: Bytes(0),
            curve_estimate: self.known.clone(),
            contents: self.contents,
            cpu_demand: self.pace,
            vcpus: vec![VcpuView::unobserved(Hold::Free); vcpus],
            levers: self.levers,
        }
    }

    /// What the operator asks for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The operator changed the settings from here on.
    pub fn set_settings(&mut self, settings: Settings) {
        let limit = settings.requirements.max_bandwidth;
        if limit != self.settings.requirements.max_bandwidth {
            self.meter.on_limit_changed(limit);
        }
        self.settings = settings;
    }

    /// The holds in force; empty before any was set.
    pub fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// The levers there are.
    pub fn levers(&self) -> Levers {
        self.levers
    }

    /// Sets the holds that are in force from now on.
    pub fn on_holds(&mut self, holds: &[Hold]) {
        self.holds.clear();
        self.holds.extend_from_slice(holds);
    }

    /// Takes in a sample and returns the view; `None` for a sample of the kernel's counters alone, which
    /// only adds to what is known of the vCPUs.
    pub fn on_sample(&mut self, sample: &Sample) -> Option<View> {
        self.add_sample(sample);
        let migration = sample.migration.as_ref()?;
        self.meter.update();
        let link = self.meter.estimate();
        let ram = self.window.iter().rev().find_map(|look| look.ram);
        Some(View {
            now: sample.at,
            requirements: self.settings.requirements.clone(),
            aggression: self.settings.aggression,
            phase: phase(migration.status, ram),
            total: ram.map_or(Bytes(0), |ram| ram.total),
            remaining: ram.map_or(Bytes(0), |ram| ram.remaining),
            link: link.map(|link| link.rate),
            link_error: link.and_then(|link| link.error),
            last_sync: self.interval,
            syncs: self.intervals,
            cpu_since_sync: self.cpu_since_sync(sample),
            migrated: ram.map_or(Bytes(0), |ram| ram.sent()),
            zeros: ram.map_or(Bytes(0), |ram| ram.duplicate),
            dirtied: self.dirtied,
            curve_estimate: self.known.clone(),
            contents: self.contents,
            cpu_demand: self.pace,
            vcpus: self.vcpus(sample),
            levers: self.levers,
        })
    }

    /// Takes in a sample of which no view is needed.
    pub fn add_sample(&mut self, sample: &Sample) {
        let ram = sample.migration.as_ref().and_then(|m| m.ram);
        let mut look = Look { at: sample.at, ram, vcpus: std::mem::take(&mut self.spare) };
        look.vcpus.clone_from(&sample.vcpus);
        if let Some(ram) = ram {
            let status = sample.migration.as_ref().map(|migration| migration.status);
            self.note_sync(&look, ram, status == Some(Status::Active));
            self.meter.on_ram(sample.at, ram);
        }
        self.window.push_back(look);
        let horizon = sample.at - WINDOW;
        while self.window.get(1).is_some_and(|second| second.at <= horizon) {
            self.spare = self.window.pop_front().map(|look| look.vcpus).unwrap_or_default();
        }
    }

    /// Closes an interval if the hypervisor synced its bitmap since the last sample.
    ///
    /// `remaining` falls by what is sent and rises by what a sync finds, and by nothing else, so
    /// a sync found its rise plus what was sent between the two samples around it. A pass ends when
    /// nothing remains, so what remained before tells when between the two samples the sync was.
    fn note_sync(&mut self, look: &Look, ram: Ram, active: bool) {
        let Some(start) = self.at_sync else {
            self.at_sync = (ram.syncs > 0).then(|| AtSync { at: look.at, cpu: look.cpu(), ram });
            return;
        };
        let syncs = ram.syncs.saturating_sub(start.ram.syncs);
        if syncs == 0 {
            return;
        }
        let (then, before) = self.last_with_ram().unwrap_or((start.at, start.ram));
        let sent_between = ram.sent().saturating_sub(before.sent());
        let dirtied = (ram.remaining + sent_between).saturating_sub(before.remaining);
        let part = before.remaining.as_f64() / sent_between.as_f64().max(1.0);
        let at = then + look.at.since(then).mul_f64(part.min(1.0));
        let cpu = self.cpu_at(at, look);
        let interval = SyncInterval {
            ended: look.at,
            length: at.since(start.at),
            dirtied,
            sent: ram.normal.saturating_sub(start.ram.normal),
            remaining_after: ram.remaining,
            cpu: cpu.zip(start.cpu).map(|(now, then)| now.saturating_sub(then)),
        };
        // A sync after the guest has stopped tells nothing about how it writes.
        if syncs == 1 && active {
            self.learn(&interval, before.remaining.saturating_sub(sent_between), ram.total);
        }
        self.interval = Some(interval);
        self.intervals += 1;
        self.dirtied += dirtied;
        self.at_sync = Some(AtSync { at, cpu, ram });
    }

    /// Adds an interval to what is known of the dirty curve; `remaining` was unsent at its end.
    fn learn(&mut self, interval: &SyncInterval, unsent: Bytes, total: Bytes) {
        let Some(cpu) = interval.cpu.map(CpuTime::from).filter(|cpu| cpu.0 > 0.0) else { return };
        let seconds = interval.length.as_secs_f64();
        self.known = self.known.and(SyncObservation {
            cpu,
            dirtied: interval.dirtied,
            error: POINT_ERROR + SYNC_ERROR / seconds.max(SYNC_ERROR),
            unsent,
            written: if self.intervals == 0 { total } else { interval.remaining_after },
        });
    }

    fn last_with_ram(&self) -> Option<(Moment, Ram)> {
        self.window.iter().rev().find_map(|look| Some((look.at, look.ram?)))
    }

    /// CPU time of the vCPUs at a moment since the last sample, interpolated between the two around it.
    fn cpu_at(&self, at: Moment, now: &Look) -> Option<Duration> {
        let before = self.window.iter().rev().find(|look| look.at <= at)?;
        let after = self.window.iter().find(|look| look.at > at).unwrap_or(now);
        let (from, to) = (before.cpu()?, after.cpu()?);
        let part = at.since(before.at).as_secs_f64() / after.at.since(before.at).as_secs_f64();
        Some(
            from + to.saturating_sub(from).mul_f64(if part.is_finite() {
                part.min(1.0)
            } else {
                0.0
            }),
        )
    }

    fn cpu_since_sync(&self, sample: &Sample) -> Option<CpuTime> {
        let now: Option<Duration> = sample.vcpus.iter().map(|vcpu| vcpu.cpu).sum();
        Some(now?.saturating_sub(self.at_sync?.cpu?).into())
    }

    fn vcpus(&mut self, sample: &Sample) -> Vec<VcpuView> {
        self.free.resize(sample.vcpus.len(), (None, None));
        let oldest = self.window.front();
        let share = |from: Option<Duration>, to: Option<Duration>, span: Duration| {
            let used = to?.saturating_sub(from?).as_secs_f64();
            (span >= LEAST_SPAN).then(|| used / span.as_secs_f64())
        };
        type Past = (Option<Share>, Option<Moment>);
        let view = |((index, now), (free, last)): ((usize, &VcpuCounters), &mut Past)| {
            let hold = self.holds.get(index).copied().unwrap_or_default();
            let before = oldest.and_then(|look| Some((look.at, look.vcpus.get(index)?)));
            let Some((at, before)) = before else {
                return VcpuView { unthrottled: *free, ..VcpuView::unobserved(hold) };
            };
            let span = sample.at.since(at);
            let used = share(before.cpu, now.cpu, span);
            let waited = share(before.run_delay, now.run_delay, span).unwrap_or(0.0);
            let held = share(before.throttled, now.throttled, span).unwrap_or(0.0);
            let wanted = used.map(|used| used + waited + held);
            // A limit set by someone else applies whether or not landfall holds the vCPU.
            if hold != Hold::Free {
                *last = Some(sample.at);
            } else if last.is_none_or(|last| last < at) {
                *free = used.map(Share::clamped).or(*free);
            }
            // As before the hold, as far as the counters allow: the kernel counts a gap when it ends.
            let unheld = used.zip(wanted).map_or(*free, |(used, wanted)| {
                let most = wanted + gap(hold).div_duration_f64(span);
                Some(Share::clamped(free.map_or(wanted, |free| free.get().clamp(used, most))))
            });
            VcpuView {
                hold,
                used: used.map(Share::clamped),
                demand: wanted.map(Share::clamped),
                unthrottled: unheld,
            }
        };
        sample.vcpus.iter().enumerate().zip(&mut self.free).map(view).collect()
    }
}

/// How long a held vCPU may have stood still before the kernel counts it.
fn gap(hold: Hold) -> Duration {
    match hold {
        Hold::Quota(quota) => quota.gap(),
        Hold::Free => Duration::ZERO,
        Hold::Stopped => Duration::MAX,
    }
}

fn phase(status: Status, ram: Option<Ram>) -> Phase {
    match status {
        Status::Active if ram.is_none_or(|ram| ram.syncs <= 1) => Phase::FirstPass,
        Status::Active | Status::Cancelling | Status::Unknown => Phase::Iterating,
        Status::PreSwitchOver | Status::SwitchOver => Phase::SwitchOver,
        Status::PostCopy | Status::PostCopyPaused => Phase::PostCopy,
        Status::Setup => Phase::Setup,
        Status::None | Status::Cancelled | Status::Failed | Status::Completed => Phase::Over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;
    use crate::telemetry::sample::Migration;
    use crate::units::ByteRate;

    fn levers() -> Levers {
        Levers { quota: true, stop: false, post_copy: false, tick: Duration::from_millis(4) }
    }

    fn observer() -> Observer {
        Observer::new(Requirements::default(), Aggression::DEFAULT, levers(), &Prior::default())
    }

    fn sample(ms: u64, syncs: u64, remaining: u64, normal: u64) -> Sample {
        let ram = Ram {
            total: Bytes(1000),
            remaining: Bytes(remaining),
            transferred: Bytes(normal),
            normal: Bytes(normal),
            duplicate: Bytes(0),
            syncs,
        };
        Sample {
            at: Moment::ms(ms),
            migration: Some(Migration {
                status: Status::Active,
                ram: Some(ram),
                own_throttle: None,
                downtime: None,
                error: None,
            }),
            vcpus: vec![VcpuCounters {
                cpu: Some(Duration::from_millis(ms / 2)),
                run_delay: Some(Duration::from_millis(ms / 4)),
                ..VcpuCounters::default()
            }],
        }
    }

    #[test]
    fn a_sync_between_two_looks_is_found_in_what_remains() {
        let mut observer = observer();
        observer.on_sample(&sample(0, 1, 1000, 0));
        observer.on_sample(&sample(100, 1, 100, 900));
        // The last 100 left, a sync found 400 dirty, 50 of them left as well.
        let view = observer.on_sample(&sample(200, 2, 350, 1050)).unwrap();
        let interval = view.last_sync.unwrap();
        assert_eq!(interval.dirtied, Bytes(400));
        assert_eq!(interval.sent, Bytes(1050));
        assert_eq!(interval.remaining_after, Bytes(350));
        // The 100 were gone when two thirds of the time was.
        assert_eq!(interval.length.as_micros(), 166_666);
        assert_eq!(interval.cpu.unwrap().as_micros(), 83_333);
        assert_eq!((view.syncs, view.phase), (1, Phase::Iterating));
    }

    #[test]
    fn rates_are_unknown_until_seen_for_a_while() {
        let mut observer = observer();
        let view = observer.on_sample(&sample(0, 1, 1000, 0)).unwrap();
        assert_eq!((view.link, view.vcpus[0].used), (None, None));
        let view = observer.on_sample(&sample(100, 1, 900, 100)).unwrap();
        assert_eq!(view.link, None);
        let view = observer.on_sample(&sample(500, 1, 500, 500)).unwrap();
        assert_eq!(view.link, Some(ByteRate(1000.0)));
        assert_eq!(view.vcpus[0].used, Some(Share::clamped(0.5)));
        assert_eq!(view.vcpus[0].demand, Some(Share::clamped(0.75)));
    }

    #[test]
    fn a_hold_does_not_change_what_a_guest_is_taken_to_use_without_one() {
        let mut observer = observer();
        let quota = Quota { quota: Duration::from_millis(5), period: Duration::from_millis(135) };
        let (mut cpu, mut held) = (0, 0);
        let mut unheld = |observer: &mut Observer, ms: u64, ran: u64, gaps: u64| {
            (cpu, held) = (cpu + ran, held + gaps);
            let counters = VcpuCounters {
                cpu: Some(Duration::from_millis(cpu)),
                throttled: Some(Duration::from_millis(held)),
                ..VcpuCounters::default()
            };
            let seen =
                observer.on_sample(&Sample { vcpus: vec![counters], ..sample(ms, 1, 1000, 0) });
            seen.unwrap().vcpus[0].unthrottled.map(Share::get)
        };
        unheld(&mut observer, 0, 0, 0);
        for ms in (100..=1000).step_by(100) {
            unheld(&mut observer, ms, 90, 0);
        }
        observer.on_holds(&[Hold::Quota(quota)]);
        // The first gap is not counted before it is over.
        assert_eq!(unheld(&mut observer, 1100, 5, 0), Some(0.9));
        for ms in (1235..=2315).step_by(135) {
            assert_eq!(unheld(&mut observer, ms, 5, 130), Some(0.9), "{ms}");
        }
        observer.on_holds(&[Hold::Free]);
        assert_eq!(
            unheld(&mut observer, 2400, 80, 130),
            Some(0.9),
            "what it did when held is past"
        );
        for ms in (2500..=3900).step_by(100) {
            unheld(&mut observer, ms, 60, 0);
        }
        let now = unheld(&mut observer, 4000, 60, 0).unwrap();
        assert!((now - 0.6).abs() < 1e-9, "it takes less by now: {now}");
    }

    #[test]
    fn what_others_hold_a_vcpu_to_is_what_it_uses_unheld() {
        let mut observer = observer();
        let mut unheld = None;
        for n in 0..20 {
            let counters = VcpuCounters {
                cpu: Some(Duration::from_millis(50 * n)),
                throttled: Some(Duration::from_millis(50 * n)),
                ..VcpuCounters::default()
            };
            let sample = Sample { vcpus: vec![counters], ..sample(100 * n, 1, 1000, 0) };
            unheld = observer.on_sample(&sample).unwrap().vcpus[0].unthrottled;
        }
        assert_eq!(unheld, Some(Share::clamped(0.5)));
    }

    #[test]
    fn a_look_at_the_kernel_alone_makes_no_view() {
        let mut kernel_only = sample(50, 1, 0, 0);
        kernel_only.migration = None;
        assert!(observer().on_sample(&kernel_only).is_none());
    }
}
