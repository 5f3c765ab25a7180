//! The same recorded samples give the same decisions, byte for byte, in live steering and in a replay.

use std::time::Duration;

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::Prior;
use landfall_core::policy;
use landfall_core::recording::{
    KIND, RecordedSample, RecordingHeader, RecordingLine, Replay, VERSION, look_ahead,
};
use landfall_core::requirements::{Aggression, Requirement, Requirements, Setting, Settings};
use landfall_core::session::{Session, SessionConfig};
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status, VcpuCounters};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Moment, Share};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

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
        let vcpu = VcpuCounters {
            cpu,
            run_delay: Some(Duration::ZERO),
            throttled: None,
            nr_throttled: None,
        };
        Sample { at: Moment::ms(100 * n as u64), migration: Some(migration), vcpus: vec![vcpu] }
    };
    steps.iter().enumerate().map(&mut look).collect()
}

/// A recording of a policy that steers such a course, made as the steering loop makes it.
fn recorded(policy: &str, samples: &[Sample]) -> (RecordingHeader, Vec<RecordingLine>) {
    let tick = Duration::from_millis(4);
    let head = RecordingHeader {
        kind: KIND.to_owned(),
        version: VERSION,
        landfall: "test".to_owned(),
        policy: policy.to_owned(),
        script: None,
        aggression: Aggression::DEFAULT,
        requirements: Requirements {
            min_cpu: Share::clamped(0.01),
            give_way: vec![Requirement::MaxStall],
            ..Requirements::default()
        },
        levers: Levers { quota: true, stop: true, post_copy: true, tick },
        vcpus: 1,
        prior: Prior {
            points: vec![CurvePoint { cpu: CpuTime(0.3), dirtied: Bytes(40_000_000), error: 0.1 }],
            contents: Some(Bytes(50_000_000)),
            memory: Some(Bytes(50_000_000)),
            cpu_demand: Some(CpuDemand(1.0 / 3.0)),
            link: Some(ByteRate(1e8 / 3.0)),
            ..Prior::default()
        },
    };
    let mut policy = policy::by_name(policy).unwrap();
    look_ahead(&mut *policy, &head);
    let config = SessionConfig {
        settings: head.settings(),
        levers: head.levers,
        prior: &head.prior,
        forecast: None,
        vcpus: head.vcpus,
    };
    let mut session = Session::new(config, policy);
    let mut lines = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        if n == samples.len() / 2 {
            // The operator changes the settings on the way.
            let changes = [("min-cpu", "10%"), ("max-bandwidth", "60MB/s"), ("aggression", "0.9")];
            let changes = changes.map(|(name, text)| Setting::parse(name, text).unwrap());
            if let Ok(proposal) = session.propose(changes, Status::Active) {
                session.accept(&proposal, sample.at);
                let Settings { requirements, aggression } = proposal.after;
                let aggression = Some(aggression);
                lines.push(RecordingLine::Requirements { requirements, aggression });
            }
        }
        let holds = session.observed_holds().to_vec();
        let decision = session.on_sample(sample).map(|observation| observation.decision);
        while let Some(action) = session.poll_action() {
            session.on_action_done(action);
        }
        let holds = decision.is_some().then_some(holds);
        let sample = sample.clone();
        lines.push(RecordingLine::Look(Box::new(RecordedSample { sample, holds, decision })));
    }
    (head, lines)
}

/// The decisions a recording has, and those that its policy makes on its samples again, as JSON.
fn then_and_now(
    (head, lines): &(RecordingHeader, Vec<RecordingLine>),
) -> (Vec<String>, Vec<String>) {
    let mut policy = policy::by_name(&head.policy).unwrap();
    look_ahead(&mut *policy, head);
    let mut replay = Replay::new(head, policy);
    let text = |decision: &_| serde_json::to_string(decision).unwrap();
    let recorded = lines.iter().filter_map(|line| match line {
        RecordingLine::Look(look) => look.decision.as_ref().map(text),
        _ => None,
    });
    let again = lines.iter().filter_map(|line| replay.read_line(line));
    (recorded.collect(), again.map(|observation| text(&observation.decision)).collect())
}

fn written_and_read<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

proptest! {
    // Each fits a curve at every sync, for every policy, three times.
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_same_samples_give_the_same_decisions_byte_for_byte(
        steps in prop::collection::vec((0u64..300, 1u64..=100), 1..60)
    ) {
        let samples = course(&steps);
        for entry in policy::ALL {
            let recording = recorded(entry.name, &samples);
            let (then, now) = then_and_now(&recording);
            prop_assert_eq!(then.len(), samples.len());
            prop_assert_eq!(&then, &now, "{}", entry.name);
            let read = written_and_read(&recording);
            prop_assert_eq!(&recording, &read);
            prop_assert_eq!((then, now), then_and_now(&read), "{} read back", entry.name);
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
        let (then, _) = then_and_now(&recorded(policy, &samples));
        let held = then.iter().filter(|line| line.contains("quota")).count();
        assert!(held > 0, "{policy} holds nothing");
    }
}

#[test]
fn a_kind_of_line_that_nobody_knows_yet_is_let_through() {
    let line = r#"{"kind":"weather","wind":"from the west"}"#;
    assert_eq!(serde_json::from_str::<RecordingLine>(line).unwrap(), RecordingLine::Unknown);
}
