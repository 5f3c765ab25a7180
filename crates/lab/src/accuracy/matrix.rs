//! What is moved: guests whose dirty curve is known, for they were made so, over several links, by
//! the policies that make sense for them.

use std::time::Duration;

use landfall_core::model::prior::Prior;
use landfall_core::model::{Component, DirtyCurve};
use landfall_core::planner;
use landfall_core::report::Class;
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::telemetry::observer::Observer;
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Share};
use landfall_migration::preflight::all_levers;
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};

/// What may be used of the link.
const LINKS: [ByteRate; 2] = [ByteRate::mb(50), ByteRate::mb(90)];

/// Longest time for one migration.
const MAX_TIME: Duration = Duration::from_secs(90);

/// A guest, and its curve.
#[derive(Debug, Clone, Copy)]
pub struct KnownGuest {
    pub name: &'static str,
    pub spec: fn(ByteRate) -> GuestSpec,
    /// The sets of pages it writes at random.
    pub sets: fn(ByteRate) -> Vec<Component>,
    ways: &'static [PolicyVariant],
}

/// A way to move it.
#[derive(Debug, Clone, Copy)]
pub struct PolicyVariant {
    pub name: &'static str,
    pub policy: &'static str,
    /// The aggression.
    pub dial: f64,
    /// The floor, in per cent.
    floor: f64,
    /// The stall may be broken.
    may_pause: bool,
}

/// One migration to be made.
#[derive(Debug, Clone, Copy)]
pub struct MatrixCell {
    pub guest: KnownGuest,
    pub way: PolicyVariant,
    pub link: ByteRate,
}

const fn by(policy: &'static str) -> PolicyVariant {
    PolicyVariant { name: policy, policy, dial: 0.5, floor: 0.0, may_pause: true }
}

const fn strictly(name: &'static str, dial: f64, floor: f64) -> PolicyVariant {
    PolicyVariant { name, policy: "predictive", dial, floor, may_pause: false }
}

const CALM: &[PolicyVariant] =
    &[by("plain"), by("auto-converge"), strictly("predictive", 0.5, 0.0), by("progressive")];

const MIDDLE: &[PolicyVariant] = &[
    by("auto-converge"),
    strictly("predictive, aggression 0", 0.0, 0.0),
    strictly("predictive", 0.5, 0.0),
    strictly("predictive, aggression 1", 1.0, 0.0),
    strictly("predictive, floor 20 %", 0.5, 20.0),
    by("progressive"),
    by("pause-and-ship"),
];

const PATHOLOGICAL: &[PolicyVariant] = &[by("predictive"), by("progressive"), by("pause-and-ship")];

const GUESTS: &[KnownGuest] = &[
    KnownGuest {
        name: "idle",
        spec: |_| GuestSpec::new(Workload::Idle),
        sets: |_| vec![set(Bytes::mib(96), 1e4, 1.0)],
        ways: CALM,
    },
    KnownGuest {
        name: "random 96 MiB, 0.2 of the link",
        spec: |link| random(96, 0.2, link),
        sets: |link| vec![times(96, 0.2, link)],
        ways: CALM,
    },
    KnownGuest {
        name: "random 96 MiB, 0.6 of the link",
        spec: |link| random(96, 0.6, link),
        sets: |link| vec![times(96, 0.6, link)],
        ways: CALM,
    },
    KnownGuest {
        name: "random 96 MiB, twice the link",
        spec: |link| random(96, 2.0, link),
        sets: |link| vec![times(96, 2.0, link)],
        ways: MIDDLE,
    },
    KnownGuest {
        name: "random 160 MiB, 4 times the link",
        spec: |link| random(160, 4.0, link),
        sets: |link| vec![times(160, 4.0, link)],
        ways: MIDDLE,
    },
    KnownGuest {
        name: "hot 13 and cold 115 MiB, 3 times the link",
        spec: |link| GuestSpec {
            working_set: Bytes::mib(128),
            ..GuestSpec::new(Workload::HotCold {
                rate: pages(3.0, link),
                hot_writes: Share::clamped(0.8),
                hot_memory: Share::clamped(0.1),
            })
        },
        sets: |link| {
            let hot = Bytes(Bytes::mib(128).0 / 10);
            let cold = Bytes::mib(128).saturating_sub(hot);
            vec![set(hot, 2.4, link.0), set(cold, 0.6, link.0)]
        },
        ways: MIDDLE,
    },
    KnownGuest {
        name: "sweep 96 MiB, flat out",
        spec: |_| GuestSpec::new(Workload::Sweep),
        // It gets round in 7 ms (`docs/measurements/levers-qemu-10.0.md`).
        sets: |_| vec![set(Bytes::mib(96), 1.0, Bytes::mib(96).as_f64() / 0.005)],
        ways: PATHOLOGICAL,
    },
];

/// A set of which so many times a rate is written a second.
fn set(memory: Bytes, times: f64, rate: f64) -> Component {
    Component { set: memory, time: CpuTime(memory.as_f64() / (times * rate)) }
}

fn times(mib: u64, times: f64, link: ByteRate) -> Component {
    set(Bytes::mib(mib), times, link.0)
}

fn random(mib: u64, times: f64, link: ByteRate) -> GuestSpec {
    let kind = Workload::Random { rate: pages(times, link) };
    GuestSpec { working_set: Bytes::mib(mib), ..GuestSpec::new(kind) }
}

fn pages(times: f64, link: ByteRate) -> PagesPerSecond {
    PagesPerSecond((times * link.0 / 4096.0) as u64)
}

/// The whole matrix.
pub fn cases() -> Vec<MatrixCell> {
    let of_link = |link: ByteRate| {
        let of_guest = move |guest: &KnownGuest| {
            guest.ways.iter().map(|way| (*guest, *way)).collect::<Vec<_>>()
        };
        GUESTS.iter().flat_map(of_guest).map(move |(guest, way)| MatrixCell { guest, way, link })
    };
    LINKS.into_iter().flat_map(of_link).collect()
}

impl MatrixCell {
    /// What is demanded.
    pub fn asked(&self) -> Requirements {
        Requirements {
            max_bandwidth: Some(self.link),
            min_cpu: Share::clamped(self.way.floor / 100.0),
            max_time: Some(MAX_TIME),
            give_way: match self.way.may_pause && self.way.policy != "auto-converge" {
                true => vec![Requirement::MaxStall],
                false => Vec::new(),
            },
            ..Requirements::default()
        }
    }

    /// The class, from the curve the guest was made with.
    pub fn class(&self, curve: &DirtyCurve, prior: &Prior) -> Class {
        let known =
            Prior { link: Some(self.link), cpu_demand: Some(CpuDemand(1.0)), ..prior.clone() };
        let observer = Observer::new(self.asked(), Aggression::DEFAULT, all_levers(), &known);
        let view = observer.view_before_start(self.guest_memory(), 1);
        let terms = planner::Constraints::all(&self.asked()).plan_inputs_for(&view, curve, 0.0);
        terms.map_or(Class::Unknown, |terms| planner::classify(curve, &terms))
    }

    fn guest_memory(&self) -> Bytes {
        (self.guest.spec)(self.link).memory
    }
}
