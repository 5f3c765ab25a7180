//! What was written is read as it was, and whatever else is in a file is an error with its line.

use std::io::Write;
use std::time::Duration;

use landfall_core::decision::{Decision, Hold};
use landfall_core::model::prior::Prior;
use landfall_core::quota::Quota;
use landfall_core::recording::{KIND, RecordedSample, RecordingHeader, RecordingLine, VERSION};
use landfall_core::report::Report;
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::telemetry::sample::{Sample, VcpuCounters};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Moment, Share};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Recording, RecordingFollower};

pub fn head() -> RecordingHeader {
    let tick = Duration::from_millis(4);
    RecordingHeader {
        kind: KIND.to_owned(),
        version: VERSION,
        landfall: "0.1.0".to_owned(),
        policy: "progressive".to_owned(),
        script: None,
        aggression: Aggression::DEFAULT,
        requirements: Requirements::default(),
        levers: Levers { quota: true, stop: true, post_copy: false, tick },
        vcpus: 2,
        prior: Prior::default(),
    }
}

fn text(head: &RecordingHeader, lines: &[RecordingLine]) -> String {
    let lines = lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
    serde_json::to_string(head).unwrap() + "\n" + lines.collect::<String>().as_str()
}

fn look(ms: u64) -> RecordingLine {
    let cpu = Some(Duration::from_millis(ms));
    let vcpus = vec![VcpuCounters { cpu, ..VcpuCounters::default() }];
    RecordingLine::Look(Box::new(RecordedSample::only(Sample {
        at: Moment::ms(ms),
        migration: None,
        vcpus,
    })))
}

fn some_line() -> impl Strategy<Value = RecordingLine> {
    let quota = (1u64..100, 20u64..1000).prop_map(|(quota, period)| {
        Quota::new(Duration::from_micros(quota * 997), Duration::from_millis(period))
    });
    let hold = prop_oneof![Just(Hold::Free), quota.prop_map(Hold::Quota), Just(Hold::Stopped)];
    let decided = (prop::collection::vec(hold, 0..3), 0.0f64..1e12, any::<String>());
    let decided = prop::option::of(decided.prop_map(|(holds, rate, why)| {
        let mut decision = Decision { holds: holds.clone(), ..Decision::leave_alone(why) };
        decision.tuning.max_bandwidth = ByteRate::new(rate);
        (holds, decision)
    }));
    let looked = (any::<u32>(), any::<Option<u64>>(), decided).prop_map(|(ms, holds, decided)| {
        let vcpus = vec![VcpuCounters { nr_throttled: holds, ..VcpuCounters::default() }];
        let sample = Sample { at: Moment::ms(ms.into()), migration: None, vcpus };
        let (holds, decision) = decided.unzip();
        RecordingLine::Look(Box::new(RecordedSample { sample, holds, decision }))
    });
    let requirements =
        (0.0f64..1.0, any::<bool>()).prop_map(|(floor, dial)| RecordingLine::Requirements {
            requirements: Requirements {
                min_cpu: Share::clamped(floor),
                ..Requirements::default()
            },
            aggression: Aggression::new(floor).filter(|_| dial),
        });
    let report = any::<String>().prop_map(|reason| RecordingLine::Report {
        report: Box::new(Report::refused("progressive", reason)),
    });
    prop_oneof![8 => looked, 1 => requirements, 1 => report]
}

proptest! {
    #[test]
    fn what_was_written_is_read_as_it_was(lines in prop::collection::vec(some_line(), 0..20)) {
        let read = Recording::read(text(&head(), &lines).as_bytes()).unwrap();
        prop_assert_eq!(read.head, head());
        prop_assert!(!read.cut);
        let numbers: Vec<usize> = read.lines.iter().map(|(number, _)| *number).collect();
        prop_assert_eq!(numbers, (2..lines.len() + 2).collect::<Vec<_>>());
        prop_assert_eq!(read.lines.into_iter().map(|(_, line)| line).collect::<Vec<_>>(), lines);
    }

    #[test]
    fn a_file_cut_short_anywhere_after_its_first_line_is_read_up_to_there(
        lines in prop::collection::vec(some_line(), 1..10), cut in any::<prop::sample::Index>(),
    ) {
        let (whole, begin) = (text(&head(), &lines), text(&head(), &[]).len());
        let end = begin + cut.index(whole.len() - begin);
        let read = Recording::read(&whole.as_bytes()[..end]).unwrap();
        let lines: Vec<_> = lines.into_iter().enumerate().map(|(n, line)| (n + 2, line)).collect();
        prop_assert!(lines.starts_with(&read.lines));
        let ends = whole.as_bytes()[begin..end].iter().filter(|byte| **byte == b'\n').count();
        prop_assert!(read.lines.len() - ends <= 1, "at most the last one was whole but for its end");
    }

    #[test]
    fn followed_in_any_pieces_it_is_the_same(
        lines in prop::collection::vec(some_line(), 1..10), cut in any::<prop::sample::Index>(),
    ) {
        let whole = text(&head(), &lines);
        let (first, second) = whole.as_bytes().split_at(cut.index(whole.len()));
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut following = RecordingFollower::new(file.path());
        let mut read = Vec::new();
        for piece in [first, second] {
            (&mut file.as_file()).write_all(piece).unwrap();
            while let Some(lines) = following.read_next_lines().unwrap() {
                read.extend(lines);
            }
        }
        prop_assert_eq!(following.lines_read(), lines.len() + 1);
        prop_assert_eq!((following.head, read), (Some(head()), lines));
    }

    #[test]
    fn nothing_in_a_file_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Recording::read(&bytes);
        let _ = Recording::read(&[text(&head(), &[]).as_bytes(), &bytes].concat());
    }
}

#[test]
fn a_line_of_256_vcpus_takes_little_room() {
    let counters = |vcpu: u64| {
        let time = |ms: u64| Some(Duration::from_millis(ms) + Duration::from_nanos(vcpu * 999_983));
        let nr_throttled = Some(1234);
        VcpuCounters {
            cpu: time(3_600_000),
            run_delay: time(900),
            throttled: time(9000),
            nr_throttled,
        }
    };
    let quota = Quota::new(Duration::from_millis(7), Duration::from_millis(50));
    let holds = vec![Hold::Quota(quota); 256];
    let line = RecordingLine::Look(Box::new(RecordedSample {
        sample: Sample {
            at: Moment::ms(1234),
            migration: None,
            vcpus: (0..256).map(counters).collect(),
        },
        decision: Some(Decision { holds: holds.clone(), ..Decision::leave_alone("test") }),
        holds: Some(holds),
    }));
    let text = serde_json::to_string(&line).unwrap();
    println!("{} bytes", text.len());
    assert!(text.len() < 256 * 64, "{} bytes", text.len());
}

#[test]
fn a_line_of_an_unknown_kind_is_let_through() {
    let weather = json!({ "kind": "weather", "wind": { "from": "the west" } });
    let text = format!("{}{weather}\n{}\n", text(&head(), &[]), json!(look(1)));
    let read = Recording::read(text.as_bytes()).unwrap();
    assert_eq!(read.lines, [(2, RecordingLine::Unknown), (3, look(1))]);
}

#[test]
fn changed_requirements_of_a_landfall_that_could_not_change_the_aggression_are_read() {
    let mut line = json!(RecordingLine::Requirements {
        requirements: Requirements::default(),
        aggression: Some(Aggression::DEFAULT),
    });
    line.as_object_mut().unwrap().remove("aggression").unwrap();
    let read = Recording::read(format!("{}{line}\n", text(&head(), &[])).as_bytes()).unwrap();
    let requirements = Requirements::default();
    assert_eq!(read.lines, [(2, RecordingLine::Requirements { requirements, aggression: None })]);
}

#[test]
fn a_line_that_is_damaged_is_named() {
    let whole = text(&head(), &[look(1), look(2), look(3)]);
    let damaged = whole.replacen("\"secs\":0,\"nanos\":2000000", "\"secs\":0", 1);
    assert_ne!(damaged, whole);
    let error = Recording::read(damaged.as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("line 3: ") && error.contains("nanos"), "{error}");
}

#[test]
fn more_vcpus_than_the_guest_has_are_damage() {
    let line = |holds: Value| {
        let mut line = json!(look(1));
        line["holds"] = holds;
        format!("{}{line}\n", text(&head(), &[]))
    };
    assert!(Recording::read(line(json!([[2, "free"]])).as_bytes()).is_ok());
    let error = Recording::read(line(json!([[4000, "free"]])).as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("line 2: 4000 vCPUs, of a guest of 2"), "{error}");
}

#[test]
fn what_cannot_be_replayed_is_refused_with_the_remedy() {
    let with = |key: &str, value: Value| {
        let mut head = json!(head());
        head[key] = value;
        format!("{head}\n")
    };
    for (text, says) in [
        (String::new(), "had not begun"),
        ("a diary\n".to_owned(), "--record"),
        ("{}\n".to_owned(), "--record"),
        ("no line ends here".to_owned(), "--record"),
        (with("kind", json!("diary")), "--record"),
        (with("version", json!(1)), "Record another"),
        (with("version", json!(5)), "at least as new"),
        (with("version", json!("two")), "line 1"),
        (with("levers", json!(null)), "line 1"),
        (with("vcpus", json!(u64::MAX)), "line 1"),
    ] {
        let error = Recording::read(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}
