//! What a run is: its guest, its policy, its monitors, and the faults that befall it, wholly from its seed.

use std::fmt;
use std::time::Duration;

use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};

use crate::scene::small;

/// A generator of the same numbers for the same seed (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        // Mixed, for the states of this generator are one row, and neighbours would walk in step.
        Dice(mix(seed))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.0)
    }

    /// A number from `from` up to and without `to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from)
    }

    pub fn is_one_in(&mut self, of: u64) -> bool {
        self.between(0, of) == 0
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.between(0, from.len() as u64);
        from[usize::try_from(at).unwrap()]
    }

    fn seconds(&mut self, from: f64, to: f64) -> Duration {
        let thousandths = |seconds: f64| (seconds * 1000.0) as u64;
        Duration::from_millis(self.between(thousandths(from), thousandths(to)))
    }
}

fn mix(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ mixed >> 31
}

/// One run.
#[derive(Debug, Clone)]
pub struct ChaosPlan {
    pub seed: u64,
    pub guest: GuestSpec,
    pub rate_mb: u64,
    pub policy: &'static str,
    pub stalls_allowed: bool,
    pub max_seconds: u64,
    pub knows_destination: bool,
    /// Whether landfall reaches the monitors through relays: source, destination.
    pub relayed: [bool; 2],
    /// Whether the first vCPU is in a group of its own that had a limit before.
    pub in_place: bool,
    /// Whether landfall runs in a cgroup v2 of its own.
    pub in_service_group: bool,
    pub faults: Vec<PlannedFault>,
}

/// A fault and its moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PlannedFault {
    pub from: Anchor,
    pub after: Duration,
    pub fault: Fault,
}

/// What a fault's moment is counted from. One that does not come to pass brings no fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// landfall was started.
    Launch,
    /// The migration is active.
    Active,
    /// A vCPU is held.
    Held,
    /// The guest was stopped at the source, by landfall or for the final copy.
    Stopped,
}

/// A monitor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// How a monitor behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorFault {
    Silent,
    Slow,
    Closed,
    Flooded,
}

/// What befalls a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    KillLandfall,
    KillGuardian,
    KillBoth,
    KillServiceGroup,
    /// SIGSTOP, for a while or for good.
    StopLandfall(Option<Duration>),
    /// SIGINT or SIGTERM, once or twice.
    Interrupt {
        terminate: bool,
        twice: bool,
    },
    Monitor(Side, MonitorFault, Duration),
    HoldBack {
        side: Side,
        answer: bool,
        command: &'static str,
        lasts: Duration,
        once: bool,
    },
    LinkStall(Duration),
    LinkBreak,
    KillDestination,
    StopDestination(Duration),
    OtherStop,
    OtherCancel,
    OtherQuota,
    OtherDowntimeLimit,
    /// The recording's disk has no room. From the start.
    FullDisk,
    /// The terminal takes nothing. From the start.
    StuckTerminal,
    BusyCpus(u64, Duration),
}

impl Fault {
    /// The kind, as the tables call it.
    pub fn kind(self) -> &'static str {
        match self {
            Fault::KillLandfall => "kill -9 landfall",
            Fault::KillGuardian => "kill -9 guardian",
            Fault::KillBoth => "kill -9 both",
            Fault::KillServiceGroup => "cgroup.kill",
            Fault::StopLandfall(Some(_)) => "SIGSTOP for a while",
            Fault::StopLandfall(None) => "SIGSTOP for good",
            Fault::Interrupt { twice: false, .. } => "SIGINT or SIGTERM",
            Fault::Interrupt { twice: true, .. } => "SIGINT or SIGTERM twice",
            Fault::Monitor(Side::Source, kind, _) => match kind {
                MonitorFault::Silent => "source's monitor silent",
                MonitorFault::Slow => "source's monitor slow",
                MonitorFault::Closed => "source's monitor closed",
                MonitorFault::Flooded => "source's monitor floods",
            },
            Fault::Monitor(Side::Destination, kind, _) => match kind {
                MonitorFault::Silent => "destination's monitor silent",
                MonitorFault::Slow => "destination's monitor slow",
                MonitorFault::Closed => "destination's monitor closed",
                MonitorFault::Flooded => "destination's monitor floods",
            },
            Fault::HoldBack { answer: false, .. } => "a command held back",
            Fault::HoldBack { answer: true, .. } => "an answer held back",
            Fault::LinkStall(_) => "link stalls",
            Fault::LinkBreak => "link breaks",
            Fault::KillDestination => "kill -9 destination",
            Fault::StopDestination(_) => "destination busy",
            Fault::OtherStop => "another program stops the guest",
            Fault::OtherCancel => "another program cancels",
            Fault::OtherQuota => "another program sets a quota",
            Fault::OtherDowntimeLimit => "another program sets downtime-limit",
            Fault::FullDisk => "disk full",
            Fault::StuckTerminal => "terminal stuck",
            Fault::BusyCpus(..) => "CPUs busy",
        }
    }

    /// Whether it takes a monitor away, so that an outcome may be unknown.
    pub fn loses_monitor(self) -> bool {
        matches!(
            self,
            Fault::Monitor(_, MonitorFault::Silent | MonitorFault::Slow | MonitorFault::Closed, _)
                | Fault::HoldBack { .. }
                | Fault::KillDestination
                | Fault::StopDestination(_)
                | Fault::LinkStall(_)
        )
    }

    /// Whether it may keep landfall and its guardian from ending for as long as it lasts.
    pub fn delays_end(self) -> bool {
        self.loses_monitor() || matches!(self, Fault::StopLandfall(Some(_)))
    }

    /// Whether it has to be there from the start to be of effect.
    fn is_early(self) -> bool {
        match self {
            Fault::FullDisk | Fault::StuckTerminal => true,
            Fault::HoldBack { command, .. } => ["migrate", "stop", "cont"].contains(&command),
            _ => false,
        }
    }

    fn needs_relay(self) -> Option<Side> {
        match self {
            Fault::Monitor(side, ..) | Fault::HoldBack { side, .. } => Some(side),
            _ => None,
        }
    }
}

const POLICIES: [&str; 6] =
    ["predictive", "rfc2011", "rfc2011-stop", "progressive", "pause-and-ship", "script"];

/// Commands of landfall to the source, those more often at which more can go wrong.
const TO_SOURCE: [&str; 10] = [
    "migrate",
    "migrate",
    "stop",
    "stop",
    "cont",
    "migrate_cancel",
    "migrate_cancel",
    "query-status",
    "query-migrate",
    "migrate-set-parameters",
];

/// Commands of landfall to the destination.
const TO_DESTINATION: [&str; 4] = ["stop", "cont", "query-status", "query-migrate"];

impl ChaosPlan {
    pub fn from_seed(seed: u64) -> ChaosPlan {
        let dice = &mut Dice::new(seed);
        let mib = dice.pick(&[8, 16, 24, 48, 96]);
        let workload = match dice.between(0, 5) {
            0 | 1 => Workload::Sweep,
            2 => Workload::Idle,
            _ => Workload::Random { rate: PagesPerSecond(dice.between(200, 20_000)) },
        };
        let vcpus = dice.pick(&[1, 1, 2]);
        let guest = GuestSpec { vcpus, dirtiers: vcpus, ..small(workload, mib) };
        let rate_mb = dice.between(20, 81);
        let policy = dice.pick(&POLICIES);
        let stalls_allowed = !dice.is_one_in(3);
        let max_seconds = dice.between(4, 13);
        let knows_destination = !dice.is_one_in(4);
        let mut relayed = [dice.is_one_in(3), dice.is_one_in(3)];
        let in_place = dice.is_one_in(4);
        let count = dice.pick(&[1, 1, 2, 2, 3]);
        let first_pass = guest.working_set.as_f64() / (rate_mb as f64 * 1e6);
        let faults: Vec<PlannedFault> =
            (0..count).map(|_| PlannedFault::cast(dice, knows_destination, first_pass)).collect();
        for side in faults.iter().filter_map(|it| it.fault.needs_relay()) {
            relayed[side as usize] = true;
        }
        let has = |fault| faults.iter().any(|it| it.fault == fault);
        let in_service_group = has(Fault::KillServiceGroup) || dice.is_one_in(4);
        let in_place = in_place || has(Fault::OtherQuota);
        ChaosPlan {
            seed,
            guest,
            rate_mb,
            policy,
            stalls_allowed,
            max_seconds,
            knows_destination,
            relayed,
            in_place,
            in_service_group,
            faults,
        }
    }

    /// Whether a fault of this kind is among them.
    pub fn has(&self, fits: impl Fn(Fault) -> bool) -> bool {
        self.faults.iter().any(|it| fits(it.fault))
    }
}

impl PlannedFault {
    fn cast(dice: &mut Dice, knows_destination: bool, first_pass: f64) -> PlannedFault {
        let fault = Fault::cast(dice, knows_destination);
        let (from, most) = match dice.between(0, 20) {
            _ if fault.is_early() => (Anchor::Launch, 0.001),
            0..3 => (Anchor::Launch, 1.5),
            // Few guests take longer; those that never converge do.
            3..7 => (Anchor::Active, first_pass * 1.5 + 0.2),
            7..9 => (Anchor::Active, 5.0),
            9..13 => (Anchor::Held, 2.0),
            // The narrow window in which a guest can be lost.
            _ => (Anchor::Stopped, 0.6),
        };
        PlannedFault { from, after: dice.seconds(0.0, most), fault }
    }
}

impl Fault {
    fn cast(dice: &mut Dice, knows_destination: bool) -> Fault {
        let side = match knows_destination && dice.is_one_in(2) {
            true => Side::Destination,
            false => Side::Source,
        };
        match dice.between(0, 24) {
            0..2 => Fault::KillLandfall,
            2 => Fault::KillGuardian,
            3..5 => Fault::KillBoth,
            5 => Fault::KillServiceGroup,
            6 => Fault::StopLandfall(Some(dice.seconds(3.0, 20.0))),
            7 => Fault::StopLandfall(None),
            8 => Fault::Interrupt { terminate: dice.is_one_in(2), twice: dice.is_one_in(3) },
            9..12 => {
                let kind = dice.pick(&[
                    MonitorFault::Silent,
                    MonitorFault::Slow,
                    MonitorFault::Closed,
                    MonitorFault::Flooded,
                ]);
                Fault::Monitor(side, kind, dice.seconds(1.0, 15.0))
            }
            12..15 => Fault::HoldBack {
                side,
                answer: dice.is_one_in(2),
                command: match side {
                    Side::Source => dice.pick(&TO_SOURCE),
                    Side::Destination => dice.pick(&TO_DESTINATION),
                },
                lasts: dice.seconds(1.0, 12.0),
                once: !dice.is_one_in(3),
            },
            15 => Fault::LinkStall(dice.seconds(3.0, 30.0)),
            16 => Fault::LinkBreak,
            17 => match dice.is_one_in(2) {
                true => Fault::KillDestination,
                false => Fault::StopDestination(dice.seconds(1.0, 12.0)),
            },
            18 => Fault::OtherStop,
            19 => Fault::OtherCancel,
            20 => Fault::OtherQuota,
            21 => Fault::OtherDowntimeLimit,
            22 => dice.pick(&[Fault::FullDisk, Fault::StuckTerminal]),
            _ => Fault::BusyCpus(dice.between(2, 5), dice.seconds(2.0, 10.0)),
        }
    }
}

impl fmt::Display for ChaosPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GuestSpec { memory, working_set, vcpus, kind, .. } = &self.guest;
        write!(f, "{} {working_set} of {memory} x{vcpus}, {} MB/s", kind.name(), self.rate_mb)?;
        write!(f, ", {}", self.policy)?;
        let flags = [
            (self.stalls_allowed, "give-way"),
            (self.knows_destination, "destination-qmp"),
            (self.relayed[0], "source-relay"),
            (self.relayed[1] && self.knows_destination, "destination-relay"),
            (self.in_place, "in-place"),
            (self.in_service_group, "service-group"),
        ];
        flags.iter().filter(|(on, _)| *on).try_for_each(|(_, name)| write!(f, ", {name}"))
    }
}

impl fmt::Display for PlannedFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fault.kind())?;
        match self.fault {
            Fault::HoldBack { command, lasts, .. } => write!(f, " {command} {lasts:?}")?,
            Fault::Monitor(_, _, lasts)
            | Fault::LinkStall(lasts)
            | Fault::StopDestination(lasts)
            | Fault::StopLandfall(Some(lasts)) => write!(f, " {lasts:?}")?,
            _ => {}
        }
        write!(f, " at {:?}+{:.2}s", self.from, self.after.as_secs_f64())
    }
}

#[test]
fn a_seed_always_rolls_the_same_and_every_kind_of_fault_comes_up() {
    let plans: Vec<ChaosPlan> = (0..1000).map(ChaosPlan::from_seed).collect();
    let kinds = plans.iter().flat_map(|plan| plan.faults.iter().map(|it| it.fault.kind()));
    let kinds: std::collections::BTreeSet<&str> = kinds.collect();
    assert_eq!(kinds.len(), 29, "{kinds:#?}");
    for plan in plans {
        assert_eq!(plan.faults, ChaosPlan::from_seed(plan.seed).faults);
        let needed = plan.faults.iter().filter_map(|it| it.fault.needs_relay());
        needed.for_each(|side| assert!(plan.relayed[side as usize], "{plan}"));
    }
}

#[test]
fn the_fixed_seeds_are_each_of_another_kind() {
    let plans = crate::FIXED_SEEDS.map(ChaosPlan::from_seed);
    let kinds = plans.iter().flat_map(|plan| plan.faults.iter().map(|it| it.fault.kind()));
    let kinds: std::collections::BTreeSet<&str> = kinds.collect();
    assert!(kinds.len() >= 9, "{kinds:#?}");
}
