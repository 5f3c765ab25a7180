//! `landfall replay` of recorded migrations of real guests: shows them and makes the same decisions.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use landfall_core::units::ByteRate;
use rustix::process::Signal;
use serde_json::Value;

use crate::scene::{Scene, landfall, random, sweep, wait_until};

fn replay(file: &Path, options: &[&str]) -> (Output, String) {
    let mut command: Command = landfall();
    let output = command.arg("replay").arg(file).args(options).output().unwrap();
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    (output, text)
}

#[test]
fn a_recorded_migration_is_decided_the_same_again_and_can_be_seen() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(60)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.jsonl");
    let ended = scene.migrate(&[
        "--policy",
        "progressive",
        "--max-bandwidth",
        "60MB/s",
        "--give-way",
        "max-stall",
        "--record",
        file.to_str().unwrap(),
    ]);
    assert_eq!(ended.report["outcome"], "landed", "{:#}", ended.report);
    scene.assert_landed();
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["kind"], "landfall-recording");
    assert_eq!((&lines[0]["policy"], &lines[0]["vcpus"]), (&"progressive".into(), &1.into()));
    assert!(lines.iter().any(|line| line["decision"]["holds"][0][1]["quota"].is_object()));
    assert!(lines.iter().any(|line| line["holds"][0][1]["quota"].is_object()), "what was in force");
    assert_eq!(lines.last().unwrap()["report"], ended.report);

    let (output, says) = replay(&file, &["--check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(says.starts_with("All ") && says.contains("decisions are the same again"), "{says}");

    let picture = directory.path().join("picture.svg");
    let (output, says) = replay(&file, &["--picture", picture.to_str().unwrap(), "--live", "100"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for word in ["first pass", "held to", "pause and ship", "landed", "longest stall"] {
        assert!(says.contains(word), "{word}: {says}");
    }
    assert!(std::fs::read_to_string(&picture).unwrap().contains("<svg"));

    let (output, says) = replay(&file, &["--policy", "pause-and-ship"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    println!("{says}");
    for row in ["progressive, recorded", "progressive, simulated", "pause-and-ship, simulated"] {
        assert!(says.contains(row), "{row}: {says}");
    }

    let (output, json) = replay(&file, &["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((&json["report"], &json["check"]["same"]), (&ended.report, &true.into()));

    // Another decision in one line: the check says which.
    let whim = text.replacen("\"finish\":\"ship\"", "\"finish\":\"cancel\"", 1);
    assert_ne!(whim, text);
    std::fs::write(&file, whim).unwrap();
    let (output, says) = replay(&file, &["--check"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(says.contains("the decision is another now"), "{says}");
}

#[test]
fn every_policy_that_holds_decides_the_same_again() {
    for policy in ["predictive", "rfc2011"] {
        let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(60)) else { return };
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("recording.jsonl");
        let limits = ["--max-bandwidth", "60MB/s", "--give-way", "max-stall", "--max-time", "4s"];
        let record = ["--policy", policy, "--record", file.to_str().unwrap()];
        let ended = scene.migrate(&[&limits[..], &record].concat());
        assert!([Some(0), Some(3), Some(5)].contains(&ended.code()), "{ended:?}");
        let (output, says) = replay(&file, &["--check"]);
        assert_eq!(output.status.code(), Some(0), "{policy}: {says}");
        assert!(says.contains("the same again"), "{policy}: {says}");
    }
}

#[test]
fn a_recording_that_a_kill_has_cut_short_is_replayed_up_to_there() {
    let Some(scene) = Scene::boot(&random(32, 1000), ByteRate::mb(10)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.jsonl");
    let record = ["--max-bandwidth", "10MB/s", "--record", file.to_str().unwrap()];
    let run = scene.landfall(&record);
    let written = || std::fs::read_to_string(&file).unwrap_or_default();
    wait_until("some looks", || written().lines().count() > 5);
    std::thread::sleep(Duration::from_millis(50));
    run.signal(Signal::KILL);
    let _ = run.ended();
    scene.assert_unharmed_at_source();
    let (output, says) = replay(&file, &[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(says.contains("landfall was ended, or killed"), "{says}");
}
