//! QEMU's pre-copy as it is in 10.0 (`migration/migration.c` and `ram.c`), seen from outside.
//!
//! The migration thread runs a loop. Each time it compares what remains with a threshold, syncs the
//! bitmap if that is met, and if it still is, stops the guest and completes. If not,
//! it sends: for at most 50 ms, until the budget of the current window of 100 ms is spent, or until
//! nothing is left. When a window is over, the threshold becomes what went in that window, per second,
//! times the downtime limit. With auto-converge on, a sync is forced where there was none for 5 s.
//! All times are seconds since the start, all amounts bytes.

mod auto_converge;

use landfall_core::model::prior::Prior;
use landfall_core::telemetry::sample::Ram;
use landfall_core::units::{ByteRate, Bytes};

use crate::link::Link;
use crate::memory::{Memory, PAGE_BYTES, WIRE_PAGE};
use crate::rng::Seed;
pub use auto_converge::AutoConvergeVersion;
pub(crate) use auto_converge::{Sleep, Throttle};

/// QEMU's settings and version, as far as they are not the policy's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Qemu {
    /// Most it puts on the wire, unless a requirement says otherwise.
    pub max_bandwidth: ByteRate,
    /// Its own throttle, for policies that ask for it.
    pub auto_converge: AutoConvergeVersion,
    /// The vCPUs are emulated (TCG). After a sync QEMU then waits until each of them has
    /// run (`tcg_log_global_after_sync`, `system/physmem.c`): one that it makes sleep writes again before
    /// anything more is sent, and auto-converge may never land a guest that KVM would have landed.
    pub emulated: bool,
}

impl Qemu {
    /// QEMU's own defaults, of the kind that was found before.
    pub fn of(prior: &Prior) -> Qemu {
        Qemu { emulated: prior.emulated, ..Qemu::default() }
    }
}

impl Default for Qemu {
    /// QEMU's own defaults: 128 MiB/s.
    fn default() -> Self {
        let max_bandwidth = ByteRate(Bytes::mib(128).as_f64());
        Qemu { max_bandwidth, auto_converge: AutoConvergeVersion::Today, emulated: false }
    }
}

/// A window of the rate limit (`BUFFER_DELAY`).
const WINDOW: f64 = 0.1;
/// Longest time it sends before it looks up (`MAX_WAIT` in `ram.c`).
const SLICE: f64 = 0.05;
/// Least time between two checks of auto-converge.
const LOOK: f64 = 1.0;
/// A sync is forced where there was none for so long (`CPU_THROTTLE_DIRTY_SYNC_TIMEOUT_MS`, since 9.2).
const FORCED_SYNC: f64 = 5.0;
/// The highest downtime limit it takes (`MAX_MIGRATE_DOWNTIME`).
const LONGEST_DOWNTIME: f64 = 2000.0;
/// A moment is taken to be reached when it is nearer than this: sums of times round.
const TINY: f64 = 1e-9;

/// The outcome of one step of the migration thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on.
    On,
    /// It stops the guest to send the rest.
    SwitchOver,
    /// It lets the guest run at the destination.
    PostCopy,
}

/// Why it stops sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// The window's budget is spent.
    Budget,
    /// It looks up, or nothing is left.
    LooksUp,
    /// The link changes.
    Link,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Doing {
    Sending { rate: f64, until: Until },
    Waiting,
    Stretch(Stretch),
}

/// Whole windows one after the other, in which nothing happens but sending. What was sent by any
/// moment of them is a formula.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stretch {
    began: f64,
    bound: Bound,
}

/// What holds up the sending.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    /// The limit: so much goes in each window, at this rate, and then it waits.
    Limit { budget: f64, rate: f64 },
    /// The link.
    Link,
}

/// A pre-copy migration under way.
#[derive(Debug, Clone)]
pub(crate) struct Precopy<'a> {
    link: &'a Link,
    seed: Seed,
    pub(crate) memory: Memory,
    total: Bytes,
    at: f64,
    doing: Doing,
    /// When the thread does something else.
    next: f64,
    looks_up: f64,
    window_began: f64,
    window_sent: f64,
    threshold: f64,
    limit: f64,
    downtime_limit: f64,
    switchover_bandwidth: Option<f64>,
    wire: f64,
    contents: f64,
    zero: f64,
    syncs: u64,
    /// How things stood right before the last sync.
    before_sync: Option<Ram>,
    throttle: Option<Throttle>,
    sleep: Option<Sleep>,
    looked: f64,
    looked_wire: f64,
    dirtied: f64,
    /// When the timer of forced syncs goes off, and the syncs there were when it did last.
    timer: f64,
    timer_syncs: u64,
    pub(crate) post_copy_asked: bool,
}

impl<'a> Precopy<'a> {
    /// A migration whose thread starts at `begins`.
    pub(crate) fn new(
        link: &'a Link,
        seed: Seed,
        memory: Memory,
        throttle: Option<AutoConvergeVersion>,
        begins: f64,
    ) -> Precopy<'a> {
        Precopy {
            link,
            seed,
            total: Bytes(memory.unsent().round() as u64),
            memory,
            at: begins,
            doing: Doing::Waiting,
            next: begins,
            looks_up: begins,
            window_began: begins,
            window_sent: 0.0,
            threshold: 0.0,
            limit: f64::INFINITY,
            downtime_limit: 0.0,
            switchover_bandwidth: None,
            wire: 0.0,
            contents: 0.0,
            zero: 0.0,
            syncs: 1,
            before_sync: None,
            throttle: throttle.map(Throttle::new),
            sleep: None,
            looked: begins,
            looked_wire: 0.0,
            dirtied: 0.0,
            timer: if throttle == Some(AutoConvergeVersion::Today) {
                begins + FORCED_SYNC
            } else {
                f64::INFINITY
            },
            timer_syncs: 0,
            post_copy_asked: false,
        }
    }

    /// Most it puts on the wire per second; 0 is no limit, as for QEMU.
    pub(crate) fn set_limit(&mut self, rate: ByteRate) {
        let limit = if rate.0 > 0.0 { rate.0 } else { f64::INFINITY };
        if limit != self.limit {
            self.leave_stretch();
            self.limit = limit;
        }
    }

    pub(crate) fn set_downtime_limit(&mut self, seconds: f64) {
        let limit = seconds.min(LONGEST_DOWNTIME);
        if limit != self.downtime_limit {
            self.leave_stretch();
            self.downtime_limit = limit;
        }
    }

    pub(crate) fn set_switchover_bandwidth(&mut self, rate: ByteRate) {
        let rate = (rate.0 > 0.0).then_some(rate.0);
        if rate != self.switchover_bandwidth {
            self.leave_stretch();
            self.switchover_bandwidth = rate;
        }
    }

    /// Post-copy is to begin as soon as the thread looks up.
    pub(crate) fn ask_for_post_copy(&mut self) {
        self.leave_stretch();
        self.post_copy_asked = true;
    }

    /// When something happens next.
    pub(crate) fn next(&self) -> f64 {
        self.next.min(self.timer)
    }

    /// Sends until `to`, which is no later than [`Precopy::next`].
    pub(crate) fn send_until(&mut self, to: f64) {
        let wire = match self.doing {
            Doing::Sending { rate, .. } => rate * (to - self.at),
            Doing::Waiting => 0.0,
            Doing::Stretch(stretch) => self.sent_within(stretch, self.at, to),
        };
        if wire > 0.0 {
            self.send(wire.min(self.memory.unsent_on_wire()));
        }
        self.at = self.at.max(to);
    }

    /// What the thread does when its moment has come.
    pub(crate) fn wake(&mut self) -> Turn {
        if self.at + TINY >= self.timer {
            self.timer_rings();
        }
        if self.at + TINY < self.next {
            return Turn::On;
        }
        if let Doing::Sending { until: Until::Link, .. } = self.doing {
            self.plan();
            return Turn::On;
        }
        self.leave_stretch();
        self.close_window();
        if let Doing::Sending { until: Until::Budget, .. } = self.doing
            && self.window_began < self.at
        {
            self.doing = Doing::Waiting;
            self.next = self.window_began + WINDOW;
            return Turn::On;
        }
        self.iterate()
    }

    /// Does nothing until then.
    pub(crate) fn hold_up(&mut self, until: f64) {
        self.leave_stretch();
        self.doing = Doing::Waiting;
        self.next = until;
    }

    /// The way in which the vCPUs are to sleep, if that was changed.
    pub(crate) fn take_sleep(&mut self) -> Option<Sleep> {
        self.sleep.take()
    }

    /// QEMU's counters as they were right before a sync, if there was one since this was last asked.
    pub(crate) fn take_before_sync(&mut self) -> Option<Ram> {
        self.before_sync.take()
    }

    /// The rest goes, once the guest stands still: gives the bytes on the wire.
    pub(crate) fn complete(&mut self) -> f64 {
        self.sync();
        let wire = self.memory.unsent_on_wire();
        self.send(wire);
        wire
    }

    /// Sends so much of the rest: for post-copy.
    pub(crate) fn send(&mut self, wire: f64) {
        let sent = self.memory.send(wire);
        self.wire += wire;
        self.contents += sent.contents;
        self.zero += sent.zero;
    }

    /// Syncs the bitmap.
    pub(crate) fn sync(&mut self) {
        self.before_sync = Some(self.ram());
        self.syncs += 1;
        self.dirtied += self.memory.sync();
        if self.at <= self.looked + LOOK + TINY {
            return;
        }
        let (dirtied, wire) = (self.dirtied, self.wire - self.looked_wire);
        (self.looked, self.looked_wire, self.dirtied) = (self.at, self.wire, 0.0);
        if let Some(throttle) = &mut self.throttle {
            let sending = (self.limit / self.link.at(self.at, self.seed).0).min(1.0);
            self.sleep = throttle.look(dirtied, wire, sending).or(self.sleep);
        }
    }

    /// Bytes on the wire so far.
    pub(crate) fn transferred(&self) -> Bytes {
        bytes(self.wire)
    }

    /// QEMU's counters.
    pub(crate) fn ram(&self) -> Ram {
        Ram {
            total: self.total,
            remaining: bytes(self.memory.unsent()),
            transferred: bytes(self.wire),
            normal: bytes(self.contents),
            duplicate: bytes(self.zero),
            syncs: self.syncs,
        }
    }

    /// Most it puts on the wire per second.
    pub(crate) fn limit(&self) -> f64 {
        self.limit
    }

    fn timer_rings(&mut self) {
        if self.syncs > 1 && self.syncs == self.timer_syncs {
            self.leave_stretch();
            self.sync();
            if let Doing::Sending { .. } = self.doing {
                self.plan();
            }
        }
        self.timer_syncs = self.syncs;
        self.timer += FORCED_SYNC;
    }

    /// Takes stock of a window that is over.
    fn close_window(&mut self) {
        let lasted = self.at - self.window_began;
        if lasted + TINY < WINDOW {
            return;
        }
        let bandwidth = (self.wire - self.window_sent) / lasted;
        self.threshold = self.switchover_bandwidth.unwrap_or(bandwidth) * self.downtime_limit;
        (self.window_began, self.window_sent) = (self.at, self.wire);
    }

    fn iterate(&mut self) -> Turn {
        if self.memory.unsent() < self.threshold {
            self.sync();
        }
        if self.post_copy_asked {
            return Turn::PostCopy;
        }
        let unsent = self.memory.unsent();
        if unsent == 0.0 || unsent < self.threshold {
            return Turn::SwitchOver;
        }
        self.looks_up = self.at + SLICE;
        if !self.begin_stretch() {
            self.plan();
        }
        Turn::On
    }

    /// Advances by whole windows, if a window begins now and there is enough to send for several. They
    /// end so early that within them nothing runs out and no threshold is met, however the link
    /// jitters.
    fn begin_stretch(&mut self) -> bool {
        if self.window_began < self.at {
            return false;
        }
        let steady = self.link.steady_from(self.at, self.seed);
        let (most, bound) = if steady.least >= self.limit {
            let (rate, _) = self.link.at(self.at, self.seed);
            (self.limit, Bound::Limit { budget: self.limit * WINDOW, rate })
        } else {
            (steady.most, Bound::Link)
        };
        if most > self.limit || most <= 0.0 {
            return false;
        }
        let rate = self.switchover_bandwidth.unwrap_or(most);
        let threshold = self.threshold.max(rate * self.downtime_limit) * WIRE_PAGE / PAGE_BYTES;
        let spare = (self.memory.unsent_on_wire() - threshold) / (most * WINDOW) - 1.0;
        let windows = spare.min((steady.until - self.at) / WINDOW).floor();
        if windows < 2.0 {
            return false;
        }
        self.next = self.at + windows * WINDOW;
        self.doing = Doing::Stretch(Stretch { began: self.at, bound });
        true
    }

    /// Advances step by step from where a stretch has come to.
    fn leave_stretch(&mut self) {
        let Doing::Stretch(stretch) = self.doing else { return };
        let windows = ((self.at - stretch.began) / WINDOW + TINY) as u64 as f64;
        let window = stretch.began + windows * WINDOW;
        if windows > 0.0 {
            // The last whole window has set the threshold.
            let sent = self.sent_within(stretch, window - WINDOW, window);
            self.threshold =
                self.switchover_bandwidth.unwrap_or(sent / WINDOW) * self.downtime_limit;
        }
        self.window_began = window.min(self.at);
        self.window_sent = self.wire - self.sent_within(stretch, self.window_began, self.at);
        let slices = ((self.at - window) / SLICE + TINY).floor() + 1.0;
        self.looks_up = window + slices * SLICE;
        self.plan();
    }

    /// Bytes on the wire between two moments of a stretch.
    fn sent_within(&self, stretch: Stretch, from: f64, to: f64) -> f64 {
        let Bound::Limit { budget, rate } = stretch.bound else {
            return self.link.carried(from, to, self.seed);
        };
        let by = |t: f64| {
            let windows = ((t - stretch.began) / WINDOW + TINY) as u64 as f64;
            let within = (t - stretch.began - windows * WINDOW).max(0.0);
            windows * budget + (within * rate).min(budget)
        };
        by(to) - by(from)
    }

    /// Starts to send, and calculates until when.
    fn plan(&mut self) {
        let (rate, link_changes) = self.link.at(self.at, self.seed);
        let budget = self.limit * WINDOW - (self.wire - self.window_sent);
        let left = self.memory.unsent_on_wire().min(budget.max(0.0));
        let why = if left < budget { Until::LooksUp } else { Until::Budget };
        let spent = (self.at + left / rate, why);
        let ends = [spent, (self.looks_up, Until::LooksUp), (link_changes, Until::Link)];
        let first = |a: (f64, Until), b: (f64, Until)| if b.0 < a.0 { b } else { a };
        let (next, until) = ends.into_iter().fold((f64::INFINITY, Until::Link), first);
        self.next = next;
        self.doing = Doing::Sending { rate, until };
    }
}

fn bytes(amount: f64) -> Bytes {
    Bytes((amount + 0.5) as u64)
}
