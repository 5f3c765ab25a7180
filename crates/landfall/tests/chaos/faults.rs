//! Brings the faults of a plan about, each at its moment, and ends those that last for a while.

use std::fs;
use std::time::{Duration, Instant};

use landfall_testguest::{HeldBack, HoldRule, RawEvent};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::plan::{Anchor, ChaosPlan, Fault, MonitorFault, PlannedFault, Side};
use crate::stage::Stage;

/// The downtime limit that another program sets, in milliseconds.
pub const OTHER_DOWNTIME: u64 = 4321;
/// The quota that another program sets, in microseconds.
pub const OTHER_QUOTA: &str = "70000";
/// Events a second of a monitor that floods.
const FLOOD: u64 = 100_000;
/// Of a monitor that is slow, each line.
const SLOW: Duration = Duration::from_millis(700);

/// The processes that landfall consists of.
#[derive(Debug, Clone, Copy)]
pub struct Processes {
    pub landfall: u32,
    pub guardian: Option<u32>,
}

/// The faults of a run on their way.
pub struct Course {
    launched: Instant,
    active: Option<Instant>,
    held: Option<Instant>,
    stopped: Option<Instant>,
    waiting: Vec<PlannedFault>,
    /// What ends when.
    lasting: Vec<(Instant, Fault)>,
    /// What befell, and when after the start.
    pub befell: Vec<(Fault, Duration)>,
}

impl Course {
    pub fn new(plan: &ChaosPlan) -> Course {
        let launched = Instant::now();
        let mut course = Course {
            launched,
            active: None,
            held: None,
            stopped: None,
            waiting: plan.faults.clone(),
            lasting: Vec::new(),
            befell: Vec::new(),
        };
        // These are part of the stage.
        let is_staged = |fault| matches!(fault, Fault::FullDisk | Fault::StuckTerminal);
        course.waiting.retain(|it| !is_staged(it.fault));
        let staged = plan.faults.iter().filter(|it| is_staged(it.fault));
        course.befell.extend(staged.map(|it| (it.fault, Duration::ZERO)));
        course
    }

    /// Whether a fault that has not come may come yet without landfall.
    pub fn has_more(&self) -> bool {
        let anchor = |it: &&PlannedFault| self.anchor(it.from).is_some();
        self.waiting.iter().any(|it| anchor(&it))
    }

    /// Whether the migration was ever active.
    pub fn has_begun(&self) -> bool {
        self.active.is_some()
    }

    /// Whether the migration was over at a moment, by the events of the source; `true` where they were
    /// lost.
    pub fn is_over_at(&self, stage: &Stage, moment: Instant) -> bool {
        let Some(witness) = &stage.witnesses[Side::Source as usize] else { return true };
        let is_end = |event: &RawEvent| {
            ["completed", "failed", "cancelled"].iter().any(|it| event.is_migration_status(it))
        };
        witness.find_event(self.launched, is_end).is_some_and(|event| event.at <= moment)
    }

    pub fn has_befallen(&self, fits: impl Fn(Fault) -> bool) -> bool {
        self.befell.iter().any(|(fault, _)| fits(*fault))
    }

    fn anchor(&self, anchor: Anchor) -> Option<Instant> {
        match anchor {
            Anchor::Launch => Some(self.launched),
            Anchor::Active => self.active,
            Anchor::Held => self.held,
            Anchor::Stopped => self.stopped,
        }
    }

    /// Looks at the clock and the witnesses; brings about what is due, and ends what is over.
    pub fn go_on(&mut self, stage: &mut Stage, processes: Processes) {
        if let Some(witness) = &stage.witnesses[0] {
            let at = |fits: &dyn Fn(&RawEvent) -> bool| {
                witness.find_event(self.launched, fits).map(|event| event.at)
            };
            self.active = self.active.or_else(|| at(&|it| it.is_migration_status("active")));
            self.stopped = self.stopped.or_else(|| at(&|it| it.name == "STOP"));
        }
        if self.held.is_none() && stage.scene.is_held() {
            self.held = Some(Instant::now());
        }
        let now = Instant::now();
        let is_due = |it: &PlannedFault| {
            let from = self.anchor(it.from);
            from.is_some_and(|from| from + it.after <= now)
        };
        let (due, waiting): (Vec<_>, Vec<_>) = self.waiting.iter().copied().partition(is_due);
        self.waiting = waiting;
        for PlannedFault { fault, .. } in due {
            self.befell.push((fault, now - self.launched));
            begin(fault, stage, processes);
            if let Some(lasts) = lasts(fault) {
                self.lasting.push((now + lasts, fault));
            }
        }
        let is_over = |(until, _): &(Instant, Fault)| *until <= now;
        let (over, lasting): (Vec<_>, Vec<_>) = self.lasting.iter().partition(|it| is_over(it));
        self.lasting = lasting;
        over.into_iter().for_each(|(_, fault)| end(fault, stage, processes));
    }

    /// Whether a fault lasts still.
    pub fn is_calm(&self) -> bool {
        self.lasting.is_empty()
    }

    /// Ends every fault of the environment. A landfall that was stopped for good stays stopped.
    pub fn lift_all(&mut self, stage: &mut Stage, processes: Processes) {
        for (_, fault) in std::mem::take(&mut self.lasting) {
            end(fault, stage, processes);
        }
        self.waiting.clear();
        stage.relays.iter().flatten().for_each(|relay| relay.heal());
        stage.scene.pair.link.set_stalled(false);
        stage.free_terminal();
        stage.calm_cpus();
    }
}

/// Sends a signal to a QEMU of this run; it may have ended.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Sends a signal to a landfall or guardian of this run, unless its number is another's by now.
pub fn send_to_landfall(pid: u32, signal: Signal) {
    let program = env!("CARGO_BIN_EXE_landfall");
    // The shell that starts it has its path among its arguments.
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&arguments).contains(program) {
        send_signal(pid, signal);
    }
}

fn lasts(fault: Fault) -> Option<Duration> {
    match fault {
        Fault::StopLandfall(lasts) => lasts,
        Fault::Monitor(_, _, lasts)
        | Fault::LinkStall(lasts)
        | Fault::StopDestination(lasts)
        | Fault::BusyCpus(_, lasts)
        // One line is held for that long from when it comes.
        | Fault::HoldBack { lasts, once: false, .. } => Some(lasts),
        _ => None,
    }
}

fn begin(fault: Fault, stage: &mut Stage, processes: Processes) {
    let Processes { landfall, guardian } = processes;
    match fault {
        Fault::KillLandfall => send_to_landfall(landfall, Signal::KILL),
        Fault::KillGuardian => {
            guardian.into_iter().for_each(|it| send_to_landfall(it, Signal::KILL));
        }
        Fault::KillBoth => {
            // Neither sees the other die.
            for signal in [Signal::STOP, Signal::KILL] {
                send_to_landfall(landfall, signal);
                guardian.into_iter().for_each(|it| send_to_landfall(it, signal));
            }
        }
        Fault::KillServiceGroup => stage.service_group.iter().for_each(|group| group.kill()),
        Fault::StopLandfall(_) => send_to_landfall(landfall, Signal::STOP),
        Fault::Interrupt { terminate, twice } => {
            let signal = if terminate { Signal::TERM } else { Signal::INT };
            send_to_landfall(landfall, signal);
            if twice {
                std::thread::sleep(Duration::from_millis(100));
                send_to_landfall(landfall, signal);
            }
        }
        Fault::Monitor(side, kind, _) => {
            let Some(relay) = &stage.relays[side as usize] else { return };
            match kind {
                MonitorFault::Silent => relay.set_silent(true),
                MonitorFault::Slow => relay.set_delay(SLOW),
                MonitorFault::Closed => {
                    relay.set_refusing(true);
                    relay.disconnect();
                }
                MonitorFault::Flooded => {
                    relay.flood(r#"{"event":"RTC_CHANGE","data":{"offset":1}}"#, FLOOD);
                }
            }
        }
        Fault::HoldBack { side, answer, command, lasts, once } => {
            let Some(relay) = &stage.relays[side as usize] else { return };
            let what = if answer { HeldBack::Answer } else { HeldBack::Command };
            let lines = once.then_some(1);
            relay.hold(what, command, HoldRule { lasts: Some(lasts), lines, overtaken: false });
        }
        Fault::LinkStall(_) => stage.scene.pair.link.set_stalled(true),
        Fault::LinkBreak => stage.scene.pair.link.sever(),
        Fault::KillDestination => send_signal(stage.scene.pair.destination.pid(), Signal::KILL),
        Fault::StopDestination(_) => send_signal(stage.scene.pair.destination.pid(), Signal::STOP),
        Fault::OtherStop => tell_source(stage, "stop", json!({})),
        Fault::OtherCancel => tell_source(stage, "migrate_cancel", json!({})),
        Fault::OtherDowntimeLimit => {
            let arguments = json!({ "downtime-limit": OTHER_DOWNTIME });
            tell_source(stage, "migrate-set-parameters", arguments);
        }
        Fault::OtherQuota => {
            stage.vcpu_group.iter().for_each(|group| group.set_quota(OTHER_QUOTA));
        }
        Fault::BusyCpus(count, _) => stage.busy_cpus(count),
        // Parts of the stage.
        Fault::FullDisk | Fault::StuckTerminal => {}
    }
}

fn end(fault: Fault, stage: &mut Stage, processes: Processes) {
    match fault {
        Fault::StopLandfall(Some(_)) => send_to_landfall(processes.landfall, Signal::CONT),
        Fault::Monitor(side, kind, _) => {
            let Some(relay) = &stage.relays[side as usize] else { return };
            match kind {
                MonitorFault::Silent => relay.set_silent(false),
                MonitorFault::Slow => relay.set_delay(Duration::ZERO),
                MonitorFault::Closed => relay.set_refusing(false),
                MonitorFault::Flooded => relay.flood("", 0),
            }
        }
        Fault::HoldBack { side, command, .. } => {
            stage.relays[side as usize].iter().for_each(|relay| relay.release(command));
        }
        Fault::LinkStall(_) => stage.scene.pair.link.set_stalled(false),
        Fault::StopDestination(_) => send_signal(stage.scene.pair.destination.pid(), Signal::CONT),
        Fault::BusyCpus(..) => stage.calm_cpus(),
        _ => {}
    }
}

/// What another program says to the source, over a monitor of its own.
fn tell_source(stage: &mut Stage, command: &str, arguments: Value) {
    if let Some(witness) = &mut stage.witnesses[Side::Source as usize] {
        // An answer may come late: nothing waits for it.
        let _ = witness.send(command, arguments);
    }
}

/// The children of a process.
pub fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether any thread of a process is there, with its open files; one that has ended and was not reaped is
/// not.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    threads > 1 || !(state.is_empty() || state.starts_with(['Z', 'X']))
}
