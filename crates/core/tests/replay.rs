//! The same recorded samples give the same decisions, byte for byte, whoever reads them.

use std::time::Duration;

use landfall_core::guard::guard;
use landfall_core::observer::Observer;
use landfall_core::policy;
use landfall_core::prior::Prior;
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::sample::{Migration, Ram, Sample, Status, VcpuCounters};
use landfall_core::units::{Bytes, Moment, Share};
use landfall_core::view::Levers;
use proptest::prelude::*;

/// What a guest did in 100 ms: percent of the link's rate that it dirtied, and CPU time it had.
type Step = (u64, u64);

/// A migration of 50 MB over 100 MB/s, looked at every 100 ms.
fn course(steps: &[Step]) -> Vec<Sample> {
    const TOTAL: u64 = 50_000_000;
    const STEP: u64 = 10_000_000;
    let (mut remaining, mut sent, mut cpu, mut dirty, mut syncs) = (TOTAL, 0, 0, 0, 1);
    let mut look = |(n, &(dirtied, ran)): (usize, &Step)| {
        let leaves = remaining.min(STEP);
        remaining -= leaves;
        sent += leaves;
        dirty += dirtied * STEP / 100;
        cpu += ran;
        if remaining == 0 {
            (remaining, dirty, syncs) = (dirty.min(TOTAL), 0, syncs + 1);
        }
        let ram = Ram {
            total: Bytes(TOTAL),
            remaining: Bytes(remaining),
            transferred: Bytes(sent),
            normal: Bytes(sent),
            duplicate: Bytes(0),
            syncs,
            // A third is no round number in binary, and must survive being written down.
        };
        let migration = Migration {
            status: Status::Active,
            ram: Some(ram),
            own_throttle: Some(Share::clamped(ran as f64 / 300.0)),
            downtime: None,
            error: None,
        };
        let cpu = Some(Duration::from_millis(cpu));
        let vcpu = VcpuCounters { cpu, wait: Some(Duration::ZERO), held: None, holds: None };
        Sample { at: Moment::ms(100 * n as u64), migration: Some(migration), vcpus: vec![vcpu] }
    };
    steps.iter().enumerate().map(&mut look).collect()
}

/// Every decision of a policy over a course, as a recording has them.
fn decisions(policy: &str, samples: &[Sample]) -> Vec<String> {
    let requirements = Requirements {
        min_cpu: Share::clamped(0.01),
        give_way: vec![Requirement::MaxStall],
        ..Requirements::default()
    };
    let tick = Duration::from_millis(4);
    let levers = Levers { quota: true, stop: true, post_copy: true, tick };
    let mut observer = Observer::new(requirements, Aggression::DEFAULT, levers, &Prior::default());
    let mut policy = policy::by_name(policy).unwrap();
    let mut decide = |sample: &Sample| {
        let view = observer.observe(sample)?;
        let decision = guard(&view, policy.decide(&view));
        observer.held(&decision.holds);
        Some(serde_json::to_string(&decision).unwrap())
    };
    samples.iter().filter_map(&mut decide).collect()
}

fn written_and_read(samples: &[Sample]) -> Vec<Sample> {
    serde_json::from_str(&serde_json::to_string(samples).unwrap()).unwrap()
}

proptest! {
    #[test]
    fn the_same_samples_give_the_same_decisions_byte_for_byte(
        steps in prop::collection::vec((0u64..300, 1u64..=100), 1..60)
    ) {
        let samples = course(&steps);
        let read = written_and_read(&samples);
        for entry in policy::ALL {
            let first = decisions(entry.name, &samples);
            prop_assert_eq!(&first, &decisions(entry.name, &samples), "{}", entry.name);
            prop_assert_eq!(&first, &decisions(entry.name, &read), "{} read back", entry.name);
        }
    }

    #[test]
    fn a_sample_that_was_written_down_is_read_as_it_was(
        throttle in 0.0f64..=1.0,
    ) {
        let mut samples = course(&[(100, 100)]);
        let migration = samples[0].migration.as_mut().unwrap();
        migration.own_throttle = Some(Share::clamped(throttle));
        prop_assert_eq!(written_and_read(&samples), samples);
    }
}

#[test]
fn and_there_are_decisions_to_compare() {
    let samples = course(&[(96, 100); 40]);
    for policy in ["progressive", "rfc2011"] {
        let held = decisions(policy, &samples).iter().filter(|line| line.contains("quota")).count();
        assert!(held > 0, "{policy} holds nothing");
    }
}
