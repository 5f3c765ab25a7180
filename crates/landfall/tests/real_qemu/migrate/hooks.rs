//! Programs at set points run in order, get the facts, and cannot harm the guest.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use landfall_core::units::ByteRate;
use serde_json::Value;

use crate::scene::{Ended, Scene, sweep, wait_until};

/// Writes a shell script that saves its input in a folder and then runs `then`.
fn program(folder: &Path, name: &str, then: &str) -> String {
    let (path, folder) = (folder.join(name), folder.display());
    let text = format!(
        "#!/bin/sh\ncat > {folder}/{name}.json\necho $LANDFALL_POINT >> {folder}/order\n\
         readlink /proc/$$/fd/* >> {folder}/open\n{then}\nexit 0\n"
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// Migrates a guest that has to be paused, with a program at each point; the one `at` runs `then`.
fn moved(scene: &Scene, folder: &Path, at: &str, then: &str) -> Ended {
    let of = |point: &str| {
        let then = if point == at { then } else { "" };
        format!("{point}={}", program(folder, point, then))
    };
    let hooks = ["before-start", "before-switch-over", "landed", "failed"].map(of);
    let mut options = vec!["--policy", "progressive", "--max-bandwidth", "60MB/s"];
    options.extend(["--give-way", "max-stall"]);
    options.extend(hooks.iter().flat_map(|hook| ["--hook", hook]));
    scene.migrate(&options)
}

fn order(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string(folder.join("order")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn facts(folder: &Path, point: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(folder.join(format!("{point}.json"))).unwrap())
        .unwrap()
}

fn scene() -> Option<Scene> {
    Scene::boot(&sweep(48), ByteRate::mb(60))
}

#[test]
fn programs_run_in_their_order_with_the_facts_and_nothing_of_landfalls_open() {
    let Some(scene) = scene() else { return };
    let folder = tempfile::tempdir().unwrap();
    let ended = moved(&scene, folder.path(), "", "");
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    scene.assert_landed();
    assert_eq!(order(folder.path()), ["before-start", "before-switch-over", "landed"]);
    let start = facts(folder.path(), "before-start");
    assert_eq!(start["point"], "before-start");
    assert_eq!(start["destination"], scene.pair.uri());
    assert_eq!(start["policy"], "progressive");
    assert_eq!(start["requirements"]["max_bandwidth_bytes_per_second"], 60e6);
    assert_eq!(start["requirements"]["give_way"][0], "max-stall");
    assert_eq!((&start["now"], &start["report"]), (&Value::Null, &Value::Null));
    let near = facts(folder.path(), "before-switch-over");
    println!("{near:#}");
    assert!(near["now"]["remaining_bytes"].as_u64().unwrap() > 0, "{near}");
    assert!(near["now"]["why"].as_str().unwrap().contains("ship the rest"), "{near}");
    assert_eq!(facts(folder.path(), "landed")["report"], ended.report);
    let open = fs::read_to_string(folder.path().join("open")).unwrap();
    for of_landfall in ["socket:", "/run/landfall/", "cgroup", "eventpoll"] {
        assert!(!open.contains(of_landfall), "{open}");
    }
}

#[test]
fn a_program_that_says_no_before_the_start_refuses_the_migration_with_its_last_words() {
    let Some(scene) = scene() else { return };
    let folder = tempfile::tempdir().unwrap();
    let no = "echo looking >&2; echo 'the backup is running' >&2; exit 3";
    let ended = moved(&scene, folder.path(), "before-start", no);
    ended.assert(4, "refused", &["before-start=", "exit status: 3", ": the backup is running"]);
    assert!(!ended.reason().contains("looking"));
    assert_eq!(order(folder.path()), ["before-start", "failed"]);
    assert_eq!(facts(folder.path(), "failed")["report"]["outcome"], "refused");
    scene.assert_unharmed_at_source();
}

#[test]
fn a_program_that_fails_or_says_a_lot_afterwards_changes_nothing() {
    let Some(scene) = scene() else { return };
    let folder = tempfile::tempdir().unwrap();
    let loud = "yes 'too much' | head -n 300000 >&2; echo 'no more' >&2; exit 1";
    let ended = moved(&scene, folder.path(), "landed", loud);
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    assert!(ended.stderr.contains("landed=") && ended.stderr.contains(": no more"), "{ended:?}");
    scene.assert_landed();
}

#[test]
fn a_program_that_hangs_before_the_switch_over_holds_nothing_up_and_is_killed_with_its_children() {
    let Some(scene) = scene() else { return };
    let folder = tempfile::tempdir().unwrap();
    let pids = folder.path().join("pids");
    let hang = format!("sleep 1000 & echo $$ $! > {}; wait", pids.display());
    let ended = moved(&scene, folder.path(), "before-switch-over", &hang);
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    // Waiting for the program would have paused the guest for that long.
    assert!(ended.number("longest_stall_s") < 10.0, "{ended:?}");
    assert!(ended.stderr.contains("before-switch-over="), "{ended:?}");
    assert!(ended.stderr.contains("was not done after 10 s and was killed"), "{ended:?}");
    assert_eq!(order(folder.path()).last().unwrap(), "landed");
    for pid in fs::read_to_string(pids).unwrap().split_whitespace() {
        let process = PathBuf::from("/proc").join(pid);
        wait_until("killed", || !runs(&process));
    }
    scene.assert_landed();
}

/// Returns whether a process exists and is no zombie.
fn runs(process: &Path) -> bool {
    let state = fs::read_to_string(process.join("stat")).unwrap_or_default();
    state.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
