//! `landfall replay` of recordings of an older build, which are kept beside the source.

use std::fs;
use std::path::{Path, PathBuf};

use crate::landfall_process::landfall;

fn kept_recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/replay/recordings").join(name)
}

#[test]
fn a_recording_of_an_older_build_is_decided_the_same_again() {
    for name in ["form-2-predictive.jsonl", "form-2-script.jsonl"] {
        let recording = kept_recording(name);
        let output = landfall().arg("replay").arg(recording).arg("--check").output().unwrap();
        let says = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{name}: {output:?}");
        assert!(says.contains("decisions are the same again"), "{name}: {says}");
    }
}

#[test]
fn a_file_that_is_no_recording_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("notes.txt");
    fs::write(&file, "buy milk\n").unwrap();
    let output = landfall().arg("replay").arg(&file).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{says}");
    assert!(says.contains("notes.txt"), "{says}");
}
