//! A recording as the steering loop makes it, replayed.

use std::time::Duration;

use landfall_core::model::CurvePoint;
use landfall_core::model::prior::Prior;
use landfall_core::policy;
use landfall_core::recording::{
    KIND, RecordedSample, RecordingHeader, RecordingLine, Replay, VERSION,
};
use landfall_core::report::Outcome;
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::telemetry::sample::{Migration, Ram, Sample, Status, VcpuCounters};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Moment};
use landfall_migration::policy_registry::NamedPolicy;
use landfall_migration::recording::Recording;
use proptest::prelude::*;

use super::check::{CheckResult, check};
use super::{ReplayStep, changes, replay_steps, what_if};

fn laws(names: &[&str]) -> Vec<NamedPolicy> {
    names.iter().map(|name| NamedPolicy::by_name(name, std::path::Path::new("")).unwrap()).collect()
}

fn head() -> RecordingHeader {
    let tick = Duration::from_millis(4);
    RecordingHeader {
        kind: KIND.to_owned(),
        version: VERSION,
        landfall: "0.0.1".to_owned(),
        policy: "progressive".to_owned(),
        script: None,
        aggression: Aggression::DEFAULT,
        requirements: Requirements {
            give_way: vec![Requirement::MaxStall],
            ..Requirements::default()
        },
        levers: Levers { quota: true, stop: true, post_copy: false, tick },
        vcpus: 1,
        prior: Prior::default(),
    }
}

/// A guest that dirties all of its memory in every pass of half a second, looked at ten times a
/// second, and what progressive does about it.
fn recording() -> Recording {
    const TOTAL: u64 = 50_000_000;
    let head = head();
    let mut replay = Replay::new(&head, policy::by_name(&head.policy).unwrap());
    let (mut holds, mut lines) = (Vec::new(), Vec::new());
    for n in 0u64..120 {
        let (pass, part) = (n / 5, n % 5);
        let sent = n * TOTAL / 5;
        let ram = Ram {
            total: Bytes(TOTAL),
            remaining: Bytes(TOTAL - part * TOTAL / 5),
            transferred: Bytes(sent),
            normal: Bytes(sent),
            duplicate: Bytes(0),
            syncs: pass + 1,
        };
        let migration = Migration {
            status: Status::Active,
            ram: Some(ram),
            own_throttle: None,
            downtime: None,
            error: None,
        };
        let cpu = Some(Duration::from_millis(100 * n));
        let vcpus = vec![VcpuCounters { cpu, ..VcpuCounters::default() }];
        let sample = Sample { at: Moment::ms(100 * n), migration: Some(migration), vcpus };
        let mut look = RecordedSample { sample, holds: Some(holds), decision: None };
        let line = RecordingLine::Look(Box::new(look.clone()));
        let decision = replay.read_line(&line).unwrap().decision;
        holds = decision.holds.clone();
        look.decision = Some(decision);
        lines.push((n as usize + 2, RecordingLine::Look(Box::new(look))));
    }
    Recording { head, lines, cut: false }
}

#[test]
fn the_same_policy_decides_the_same() {
    let recording = recording();
    let steps = replay_steps(&recording);
    let held = |step: &ReplayStep| step.recorded.as_ref().is_some_and(|it| !it.holds.is_empty());
    assert!(steps.iter().any(held), "there is something to compare");
    assert_eq!(check(&recording, &steps), CheckResult::Same(120));
}

#[test]
fn decisions_after_missing_lines_are_not_compared() {
    let mut recording = recording();
    for (_, line) in &mut recording.lines[70..] {
        let RecordingLine::Look(look) = line else { unreachable!() };
        look.decision.as_mut().unwrap().reason = "on what is missing here".into();
    }
    recording.lines.insert(70, (72, RecordingLine::Lost { lines: 3 }));
    let verdict = check(&recording, &replay_steps(&recording));
    assert_eq!(verdict, CheckResult::SameUntilGap { decisions: 70, line: 72, lost: 3 });
    assert!(verdict.to_text(&recording.head).contains("3 lines are missing"));
}

#[test]
fn the_first_decision_that_is_another_is_shown_with_both_texts() {
    let mut recording = recording();
    for (_, line) in &mut recording.lines[70..] {
        let RecordingLine::Look(look) = line else { unreachable!() };
        look.decision.as_mut().unwrap().reason = "a whim".into();
    }
    let verdict = check(&recording, &replay_steps(&recording));
    let CheckResult::Differs(difference) = &verdict else { panic!("{verdict:?}") };
    assert_eq!((difference.line, difference.at), (72, Moment::ms(7000)));
    let words = verdict.to_text(&recording.head);
    assert!(words.contains("a whim") && words.contains("line 72, 7.000 s"), "{words}");
    assert!(words.contains("recorded by landfall 0.0.1"), "{words}");
}

#[test]
fn a_policy_that_is_not_there_leaves_the_rest_to_be_shown() {
    let mut recording = recording();
    recording.head.policy = "wishful".to_owned();
    let steps = replay_steps(&recording);
    let verdict = check(&recording, &steps);
    assert_eq!(verdict, CheckResult::NoPolicy);
    assert!(verdict.to_text(&recording.head).contains("wishful"));
    assert!(!changes::changes(&steps).is_empty());
}

#[test]
fn what_happened_is_told_once_with_its_reason() {
    let recording = recording();
    let changes = changes::changes(&replay_steps(&recording));
    let told: Vec<&str> = changes.iter().map(|change| change.what.as_str()).collect();
    assert_eq!(told[0], "first pass");
    assert!(told[1].starts_with("later passes, sync 1"), "{told:?}");
    assert!(told.iter().any(|what| what.contains("held to")), "{told:?}");
    assert!(told.iter().any(|what| what.contains("pause and ship")), "{told:?}");
    let words = changes::table(&changes).to_string();
    assert!(words.contains("MB") && !words.contains("NaN"), "{words}");
}

#[test]
fn what_was_demanded_on_the_way_is_told_where_it_came_into_force() {
    let mut recording = recording();
    let requirements = Requirements { max_stall: Duration::from_secs(1), ..head().requirements };
    let aggression = Aggression::new(0.9);
    recording.lines.insert(50, (0, RecordingLine::Requirements { requirements, aggression }));
    let changes = changes::changes(&replay_steps(&recording));
    let change = changes.iter().find(|change| change.at == Moment::ms(5000)).unwrap();
    assert!(change.decided);
    for told in ["--max-stall 1s (was 300ms)", "--aggression 0.9 (was 0.5)"] {
        assert!(change.what.contains(told), "{}", change.what);
    }
}

#[test]
fn the_picture_shows_what_was_decided() {
    let recording = recording();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("picture.svg");
    super::chart::write(&path, &recording, &replay_steps(&recording)).unwrap();
    let picture = std::fs::read_to_string(&path).unwrap();
    assert!(picture.contains("pause and ship") && picture.contains("left to be sent"));
    let nothing = Recording { lines: Vec::new(), ..recording };
    super::chart::write(&path, &nothing, &[]).unwrap();
}

#[test]
fn another_policy_is_simulated_beside_the_recorded_one() {
    let recording = recording();
    let steps = replay_steps(&recording);
    let policies = laws(&["pause-and-ship", "plain"]);
    let courses = what_if::simulate(&recording, &steps, &policies).unwrap();
    let names: Vec<&str> = courses.iter().map(|course| course.report.policy.as_str()).collect();
    assert_eq!(names, ["progressive", "pause-and-ship", "plain"]);
    let landed = |course: &what_if::NamedReport| course.report.outcome == Outcome::Landed;
    assert!(landed(&courses[0]) && landed(&courses[1]) && !landed(&courses[2]));
    assert!(what_if::table(&courses).to_string().contains("pause-and-ship, simulated"));
    assert!(what_if::simulate(&recording, &[], &policies).is_err());
}

/// Recordings of real guests that landfall 0.1 made at 5f42052, the last build that wrote form 2.
#[test]
fn recordings_of_the_form_before_are_decided_the_same() {
    for (bytes, decisions) in [
        (&include_bytes!("recordings/form-2-predictive.jsonl")[..], 39),
        (include_bytes!("recordings/form-2-script.jsonl"), 21),
    ] {
        let recording = Recording::read(bytes).unwrap();
        let result = check(&recording, &replay_steps(&recording));
        assert_eq!(result, CheckResult::Same(decisions));
        let text = result.to_text(&recording.head);
        assert!(text.contains("reasons are not compared"), "{text}");
    }
}

proptest! {
    // A curve is fitted at every sync.
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_number_in_a_recording_makes_it_panic(
        line in any::<prop::sample::Index>(),
        number in any::<prop::sample::Index>(),
        value in prop_oneof!["-?[0-9]{1,19}", "-?[0-9]e-?[0-9]{1,3}", "0", "0\\.[0-9]{1,4}"],
        policy in prop::sample::select(policy::names()),
    ) {
        let mut recording = recording();
        let known = |cpu| CurvePoint { cpu: CpuTime(cpu), dirtied: Bytes(40_000_000), error: 0.1 };
        recording.head.prior = Prior {
            points: vec![known(0.1), known(1.0)],
            contents: Some(Bytes(50_000_000)),
            memory: Some(Bytes(50_000_000)),
            cpu_demand: Some(CpuDemand(1.0)),
            link: Some(ByteRate::mb(100)),
            emulated: true,
        };
        recording.head.policy = policy.to_owned();
        // The head, the first looks and the last are all there is to tell apart.
        recording.lines.truncate(16);
        let mut lines = vec![serde_json::to_string(&recording.head).unwrap()];
        lines.extend(recording.lines.iter().map(|(_, line)| serde_json::to_string(line).unwrap()));
        let line = &mut lines[line.index(17).min(recording.lines.len())];
        let begins: Vec<usize> =
            line.match_indices(':').map(|(at, _)| at + 1).filter(|at| line[*at..].starts_with(|c: char| c.is_ascii_digit())).collect();
        let begin = begins[number.index(begins.len())];
        let end = begin + line[begin..].find([',', '}', ']']).unwrap();
        line.replace_range(begin..end, &value);
        if let Ok(recording) = Recording::read((lines.join("\n") + "\n").as_bytes()) {
            let steps = replay_steps(&recording);
            check(&recording, &steps);
            changes::table(&changes::changes(&steps));
            let _ = what_if::simulate(&recording, &steps, &laws(&["plain"]));
            let directory = tempfile::tempdir().unwrap();
            super::chart::write(&directory.path().join("p.svg"), &recording, &steps).unwrap();
        }
    }
}
