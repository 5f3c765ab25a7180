//! A script steers a real guest; one that fails does no harm.

use std::fs;
use std::path::{Path, PathBuf};

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};

use crate::scene::{Ended, Scene, landfall};

const LINK: ByteRate = ByteRate::mb(66);

/// Returns a guest that writes eight times the limit, so that it needs throttling on a busy machine too.
fn middle() -> GuestSpec {
    let rate = PagesPerSecond((8.0 * 60e6 / 4096.0) as u64);
    let memory = Bytes::mib(192);
    GuestSpec { memory, working_set: Bytes::mib(96), ..GuestSpec::new(Workload::Random { rate }) }
}

fn shipped(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Migrates a guest with a script as policy and records the migration.
fn moved_by(scene: &Scene, folder: &Path, script: &str) -> (Ended, PathBuf) {
    let (file, recording) = (folder.join("mine.rhai"), folder.join("recording.jsonl"));
    fs::write(&file, script).unwrap();
    let policy = format!("script:{}", file.display());
    let ended = scene.migrate(&[
        "--policy",
        &policy,
        "--max-bandwidth",
        "60MB/s",
        "--record",
        recording.to_str().unwrap(),
    ]);
    assert_eq!(ended.report["policy"], policy.as_str());
    (ended, recording)
}

#[test]
fn a_script_steers_a_middle_guest_to_its_landing_and_is_replayed_from_the_recording_alone() {
    let Some(scene) = Scene::boot(&middle(), LINK) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (ended, recording) = moved_by(&scene, folder.path(), &shipped("grip.rhai"));
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    assert!(ended.number("throttled_s") > 0.0, "it held the guest: {ended:?}");
    assert!(!ended.stderr.contains("failed"), "{}", ended.stderr);
    scene.assert_landed();
    println!("{:#}", ended.report);
    fs::write(folder.path().join("mine.rhai"), "nothing of a script any more").unwrap();
    let replay = landfall().arg("replay").arg(&recording).arg("--check").output().unwrap();
    let says = String::from_utf8_lossy(&replay.stdout);
    assert!(says.contains("decisions are the same again"), "{replay:?}");
    println!("{says}");
}

#[test]
fn a_script_that_loops_endlessly_harms_nothing_and_predictive_lands_the_guest() {
    let Some(scene) = Scene::boot(&middle(), LINK) else { return };
    let folder = tempfile::tempdir().unwrap();
    let script = "fn decide(view) {\n  if view.intervals > 0 { loop { } }\n  \
                  hold(0.5, \"half of it, to begin with\")\n}\n";
    let (ended, recording) = moved_by(&scene, folder.path(), script);
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    scene.assert_landed();
    println!("{}\n{:#}", ended.stderr, ended.report);
    for words in ["mine.rhai failed at", "Too many operations", "predictive steers from there"] {
        assert_eq!(ended.stderr.matches(words).count(), 1, "said at once, and once: {ended:?}");
        assert!(ended.reason().contains(words), "{ended:?}");
    }
    let lines = fs::read_to_string(recording).unwrap();
    assert!(lines.contains("half of it") && lines.contains("predictive steers from there: "));
}

#[test]
fn a_script_with_a_mistake_is_refused_before_the_start_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.rhai");
    fs::write(&file, "fn decide(view) {\n  hold(shrae, \"\")\n}").unwrap();
    let policy = format!("script:{}", file.display());
    let output = landfall()
        .args(["migrate", "unix:/no/socket", "tcp:127.0.0.1:1", "--policy", &policy])
        .output()
        .unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{says}");
    assert!(says.contains("mine.rhai: line 2, column 8: ") && says.contains("shrae"), "{says}");
    println!("{says}");
}
