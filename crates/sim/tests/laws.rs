//! What holds for every guest, link and policy.

use std::time::Duration;

use landfall_core::model::{Component, DirtyCurve};
use landfall_core::report::Outcome;
use landfall_core::report::losses::Losses;
use landfall_core::requirements::{Requirement, Requirements};
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Share};
use landfall_sim::{Guest, Link, Order, Qemu, Run, Seed, Setup, Writer, Writes, policies, run};
use proptest::prelude::*;

fn by(setup: &Setup, name: &str, seed: u64) -> Run {
    let mut choice = policies::by_name(name).unwrap();
    let qemu = Qemu { auto_converge: choice.auto_converge, ..setup.qemu };
    run(&Setup { qemu, ..setup.clone() }, &mut *choice.policy, Seed(seed))
}

fn setups() -> impl Strategy<Value = Setup> {
    let sets = proptest::collection::vec((1u64..60, 0.002f64..20.0), 0..4);
    let link = (5u64..400, 0.0f64..0.3);
    let asked = (0.0f64..0.6, 100u64..2000, any::<bool>(), any::<bool>(), any::<bool>());
    (sets, 1u32..4, 0.05f64..1.0, link, asked).prop_map(|(sets, vcpus, busy, link, asked)| {
        let part = |(mib, time)| Component { set: Bytes::mib(mib), time: CpuTime(time) };
        let curve = DirtyCurve::new(sets.into_iter().map(part));
        let guest = Guest {
            contents: Bytes::mib(200),
            vcpus,
            cpu_demand: CpuDemand(busy * f64::from(vcpus)),
            ..Guest::with_curve(Bytes::mib(256), curve)
        };
        let link = Link { jitter: link.1, ..Link::steady(ByteRate::mb(link.0)) };
        let setup = Setup::new(guest, link);
        let requirements = Requirements {
            min_cpu: Share::clamped(asked.0),
            max_stall: Duration::from_millis(asked.1),
            max_time: Some(Duration::from_secs(30)),
            give_way: if asked.2 { vec![Requirement::MaxStall] } else { Vec::new() },
            ..Requirements::default()
        };
        let mut levers = setup.levers;
        (levers.stop, levers.post_copy) = (asked.3, true);
        let qemu = Qemu { emulated: asked.4, ..setup.qemu };
        Setup { requirements, levers, qemu, ..setup }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_run_loses_more_than_there_was_or_lasts_longer_than_it_may(
        setup in setups(), seed in any::<u64>(),
    ) {
        for name in policies::names() {
            let run = by(&setup, name, seed);
            let measured = &run.measured;
            let lost = measured.losses.guest_cpu.unwrap().as_secs_f64();
            prop_assert!(lost <= setup.guest.cpu_demand.0 * measured.total.as_secs_f64() + 1e-6, "{name}");
            prop_assert!(measured.losses.longest_stall <= measured.total, "{name} {run:?}");
            prop_assert!(measured.losses.throttled <= measured.total, "{name}");
            if let Some(downtime) = measured.downtime {
                prop_assert!(measured.losses.longest_stall >= downtime, "{name} {run:?}");
            }
            // The guard ends it in time, and a final copy takes what it takes.
            prop_assert!(measured.total < Duration::from_secs(120), "{name} {run:?}");
        }
    }

    /// The session counts losses by the counters that it can see of a guest, the simulator by what it
    /// did to the guest. A vCPU that was not watched for long counts as one that always wants to run,
    /// so a loss may be overstated by that, and never understated. Two are left out: with post-copy,
    /// nothing at the source shows how long a vCPU waits for a page, and the QEMU of 2013 does not say
    /// that it throttles.
    #[test]
    fn what_the_session_counts_as_lost_is_what_the_guest_lost(
        setup in setups(), seed in any::<u64>(),
    ) {
        let at_least = |a: f64, b: f64| a >= 0.75 * b - 0.3;
        let busy = setup.guest.cpu_demand.0 / f64::from(setup.guest.vcpus);
        let unseen = ["post-copy", "auto-converge-2013"];
        for name in policies::names().into_iter().filter(|name| !unseen.contains(name)) {
            let run = by(&setup, name, seed);
            let lost = |losses: &Losses| losses.guest_cpu.unwrap_or(Duration::MAX).as_secs_f64();
            let (truth, counted) = (lost(&run.measured.losses), lost(&run.counted));
            let near = at_least(counted, truth) && at_least(truth, counted * busy);
            prop_assert!(near, "{name} lost {truth} s, {counted} s were counted");
            let stall = |losses: &Losses| losses.longest_stall.as_secs_f64();
            let (truth, counted) = (stall(&run.measured.losses), stall(&run.counted));
            // A gap of a hold just before the downtime is missed now and then.
            let gap = setup.requirements.max_stall.as_secs_f64();
            prop_assert!(at_least(counted + gap, truth), "{name} stood still for {truth} s, {counted} s were counted");
        }
    }

    #[test]
    fn everything_is_sent_at_least_once_when_it_lands(setup in setups(), seed in any::<u64>()) {
        for name in policies::names() {
            let run = by(&setup, name, seed);
            if run.outcome == Outcome::Landed {
                let sent = run.measured.transferred.unwrap();
                prop_assert!(sent >= setup.guest.contents, "{name} {run:?}");
            }
        }
    }

    #[test]
    fn a_guest_that_never_writes_is_never_throttled(
        setup in setups(), seed in any::<u64>(),
    ) {
        let idle = Guest::with_curve(setup.guest.memory, DirtyCurve::IDLE);
        let requirements = Requirements { max_time: None, ..setup.requirements.clone() };
        let setup = Setup { guest: idle, requirements, ..setup };
        for name in policies::names() {
            let losses = by(&setup, name, seed).measured.losses;
            prop_assert_eq!(losses.throttled, Duration::ZERO, "{}", name);
            prop_assert_eq!(losses.min_share, Share::FULL, "{}", name);
        }
    }
}

/// A whole migration by amounts, and the same page by page.
#[test]
fn a_migration_by_amounts_takes_what_one_page_by_page_takes() {
    let sets = [(Bytes::mib(24), 0.3), (Bytes::mib(48), 4.0)];
    let part = |(set, time)| Component { set, time: CpuTime(time) };
    let writer = |(set, time): (Bytes, f64)| Writer {
        set,
        pages: set.as_f64() / 4096.0 / time,
        order: Order::Random,
    };
    let fluid = Guest::with_curve(Bytes::mib(128), DirtyCurve::new(sets.map(part)));
    let paged = Guest { writes: Writes::Pages(sets.map(writer).to_vec()), ..fluid.clone() };
    let setup = |guest| Setup {
        requirements: Requirements {
            max_time: Some(Duration::from_secs(60)),
            give_way: vec![Requirement::MaxStall],
            ..Requirements::default()
        },
        ..Setup::new(guest, Link::steady(ByteRate::mb(30)))
    };
    for name in ["auto-converge", "progressive", "pause-and-ship"] {
        let [a, b] = [&fluid, &paged].map(|guest| by(&setup(guest.clone()), name, 1).measured);
        let near = |a: Duration, b: Duration| {
            let (a, b) = (a.as_secs_f64(), b.as_secs_f64());
            (a - b).abs() < 0.05 * a.max(b) + 0.1
        };
        assert!(near(a.total, b.total), "{name}: {:?} and {:?}", a.total, b.total);
        let lost = (a.losses.guest_cpu.unwrap(), b.losses.guest_cpu.unwrap());
        assert!(near(lost.0, lost.1), "{name}: {lost:?}");
    }
}
