//! A guest, its way to a destination, and eyes on both ends.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes};
use landfall_qemu::cgroup::{CpuLever, Quota, find_cpu_lever};
use landfall_testguest::{GuestSpec, MigrationPair, RawEvent, RawQmp, Vm, VmBuilder, take_turn};
use serde_json::{Value, json};

use crate::Outcome;

/// Limit for whatever must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Limit for an answer of QEMU.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A downtime limit that no guest here ever falls below.
const NEVER: u64 = 1;

/// The most that QEMU takes as a downtime limit: whatever is left fits.
const ALWAYS: u64 = 2_000_000;

/// The speed of the link where nothing else is said.
pub const RATE: ByteRate = ByteRate::mb(100);

/// What is between source and destination.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wire {
    /// A relay at this rate.
    Link(ByteRate),
    /// A relay that only counts.
    Relay,
    /// Loopback itself.
    Bare,
}

/// A guest that can be moved. Other QEMU runs on this machine wait until it is dropped.
pub struct Stage {
    // In this order: QEMU ends first, then others may have their turn.
    pub pair: MigrationPair,
    pub source: RawQmp,
    pub destination: RawQmp,
    wire: Wire,
    tids: Vec<i32>,
    _turn: File,
}

/// A migration that has landed.
pub struct Landing {
    /// The source's STOP event.
    pub stop: Instant,
    /// The guest's last beat at the source.
    pub last_beat: Instant,
    /// Its first beat at the destination.
    pub first_beat: Instant,
    /// What the link let through from the STOP event to the first beat.
    pub over_link: Bytes,
    /// The blackout as QEMU has it.
    pub downtime: Duration,
    /// What QEMU says it sent in the blackout.
    pub downtime_bytes: Bytes,
}

impl Landing {
    /// How long the guest stood still.
    pub fn blackout(&self) -> Duration {
        self.first_beat - self.last_beat
    }

    /// The blackout beyond the time that so many bytes take at a rate: milliseconds.
    pub fn beyond(&self, bytes: Bytes, rate: ByteRate) -> f64 {
        (self.blackout().as_secs_f64() - bytes.as_f64() / rate.0) * 1e3
    }
}

impl Stage {
    /// Boots a guest that never lands by itself.
    pub fn boot(spec: &GuestSpec, wire: Wire) -> Outcome<Stage> {
        Self::with(Vm::builder(spec), wire)
    }

    /// The same on a QEMU with further arguments.
    pub fn with(source: VmBuilder, wire: Wire) -> Outcome<Stage> {
        let turn = take_turn()?;
        let rate = if let Wire::Link(rate) = wire { rate } else { RATE };
        let pair = MigrationPair::start(source.start()?, rate)?;
        if wire == Wire::Relay {
            pair.link.set_rate(None);
        }
        let tids = pair.source.vcpu_threads()?.into_iter().map(i32::try_from);
        let tids = tids.collect::<Result<_, _>>()?;
        let source = RawQmp::connect_oob(&pair.source.qmp_socket(), ANSWER_TIMEOUT)?;
        let destination = RawQmp::connect_oob(&pair.destination.qmp_socket(), ANSWER_TIMEOUT)?;
        let mut stage = Stage { pair, source, destination, wire, tids, _turn: turn };
        // As landfall has it: success is reported only once the destination has all.
        switch_on(&mut stage.source, &["events", "return-path"])?;
        stage.set(json!({ "downtime-limit": NEVER }))?;
        Ok(stage)
    }

    /// Sets parameters of migration at the source.
    pub fn set(&mut self, parameters: Value) -> Outcome {
        self.source.ask("migrate-set-parameters", parameters)?;
        Ok(())
    }

    /// Whether this QEMU knows a parameter of migration.
    pub fn knows(&mut self, parameter: &str) -> Outcome<bool> {
        let answer = self.source.ask("query-migrate-parameters", json!({}))?;
        Ok(answer.value.get(parameter).is_some())
    }

    /// Starts the migration.
    pub fn begin(&mut self) -> Outcome<Instant> {
        let bare = self.pair.destination.incoming().unwrap_or_default();
        let uri = if self.wire == Wire::Bare { bare.to_owned() } else { self.pair.uri() };
        Ok(self.source.ask("migrate", json!({ "uri": uri }))?.asked)
    }

    /// Has QEMU stop the guest and send what is left.
    pub fn ship(&mut self) -> Outcome<Instant> {
        let all = json!({ "downtime-limit": ALWAYS });
        Ok(self.source.ask("migrate-set-parameters", all)?.asked)
    }

    /// Waits until so many passes have begun; the bulk pass is the first.
    pub fn pass(&self, number: u64) -> Outcome<Instant> {
        let reached = |event: &RawEvent| {
            event.name == "MIGRATION_PASS" && event.data["pass"].as_u64() >= Some(number)
        };
        let begin = Instant::now() - PATIENCE;
        let event = self.source.event_within(PATIENCE, begin, reached)?;
        Ok(event.ok_or_else(|| format!("pass {number} does not begin"))?.at)
    }

    /// A number of `query-migrate`, its RAM figures included.
    pub fn counter(&mut self, name: &str) -> Outcome<Option<u64>> {
        let answer = self.source.ask("query-migrate", json!({}))?.value;
        Ok(answer[name].as_u64().or(answer["ram"][name].as_u64()))
    }

    /// The CPU lever on the guest at the source.
    pub fn lever(&self) -> Outcome<CpuLever> {
        Ok(find_cpu_lever(i32::try_from(self.pair.source.pid())?, &self.tids)?)
    }

    /// The lever, holding the guest already.
    pub fn held(&self, quota: Option<Quota>) -> Outcome<CpuLever> {
        let mut lever = self.lever()?;
        lever.hold_vcpu(0, quota)?;
        Ok(lever)
    }

    /// CPU time of all threads at the source but the vCPUs'.
    pub fn qemu_cpu(&self) -> Outcome<Duration> {
        cpu_time(self.pair.source.pid(), &self.tids)
    }

    /// Looks at the link every half millisecond until something is so.
    pub fn flow(&self, mut until: impl FnMut(&Stage) -> bool) -> Outcome<Vec<(Instant, Bytes)>> {
        let deadline = Instant::now() + PATIENCE;
        let mut flow = Vec::new();
        loop {
            flow.push((Instant::now(), self.pair.link.passed()));
            if until(self) {
                return Ok(flow);
            }
            if Instant::now() > deadline {
                return Err(format!("not over after {PATIENCE:?}").into());
            }
            sleep(Duration::from_micros(500));
        }
    }

    /// Waits until the guest runs at the destination. `since` is before its last stop.
    pub fn landed(&mut self, since: Instant) -> Outcome<Landing> {
        let there = self.pair.destination.qemu_index();
        let beats = self.pair.source.heartbeats().clone();
        let failed = |stage: &Stage| {
            stage.source.find_event(since, |event| event.is_migration_status("failed")).is_some()
        };
        let flow = self.flow(|stage| beats.qemu_index() == Some(there) || failed(stage))?;
        if failed(self) {
            let why = self.source.ask("query-migrate", json!({}))?.value["error-desc"].take();
            return Err(format!("the migration failed: {why}").into());
        }
        self.source.wait_for_status("completed", since)?;
        let stop = self.source.wait_for_event("STOP", since)?;
        let first_beat = beats.beat_from(there, None, PATIENCE)?;
        let at = |moment: Instant| {
            let before = flow.iter().take_while(|(at, _)| *at <= moment).last();
            before.or(flow.first()).map_or(Bytes(0), |(_, passed)| *passed)
        };
        let ms = self.counter("downtime")?.unwrap_or_default();
        Ok(Landing {
            stop,
            last_beat: self.last_beat_before(first_beat).ok_or("no beat at the source")?,
            first_beat,
            over_link: at(first_beat).saturating_sub(at(stop)),
            downtime: Duration::from_millis(ms),
            downtime_bytes: Bytes(self.counter("downtime-bytes")?.unwrap_or_default()),
        })
    }

    /// The guest's last beat before a moment, wherever it ran.
    pub fn last_beat_before(&self, moment: Instant) -> Option<Instant> {
        let timeline = self.pair.source.heartbeats().timeline();
        let beats = timeline.beats(0);
        beats[..beats.partition_point(|at| *at < moment)].last().copied()
    }

    /// The guest's first beat at the source after a moment.
    pub fn source_beat(&self, after: Instant) -> Outcome<Instant> {
        let place = self.pair.source.qemu_index();
        Ok(self.pair.source.heartbeats().beat_from(place, Some(after), PATIENCE)?)
    }

    /// The longest time without a beat in a window.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.pair.source.heartbeats().timeline().longest_gap(0, from, to)
    }

    /// Beats per second in a window.
    pub fn rate(&self, from: Instant, to: Instant) -> f64 {
        self.pair.source.heartbeats().timeline().rate(0, from, to)
    }
}

/// Switches capabilities on.
fn switch_on(monitor: &mut RawQmp, names: &[&str]) -> Outcome {
    let on = |name: &&str| json!({ "capability": name, "state": true });
    let list: Vec<Value> = names.iter().map(on).collect();
    monitor.ask("migrate-set-capabilities", json!({ "capabilities": list }))?;
    Ok(())
}

/// CPU time of a process's threads, some left out.
pub fn cpu_time(pid: u32, without: &[i32]) -> Outcome<Duration> {
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
        let tid: i32 = task.file_name().to_string_lossy().parse()?;
        // A thread may end while it is looked at.
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        let ran = text.split(' ').next().and_then(|number| number.parse().ok());
        sum += Duration::from_nanos(ran.filter(|_| !without.contains(&tid)).unwrap_or(0));
    }
    Ok(sum)
}

/// A wait that differs from turn to turn, spread evenly over `span`.
pub fn jitter(turn: usize, span: Duration) {
    const GOLDEN: f64 = 0.618_033_988_749_895;
    sleep(span.mul_f64((turn as f64 * GOLDEN).fract()));
}
