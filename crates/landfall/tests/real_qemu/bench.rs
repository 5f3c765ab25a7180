//! `landfall bench`: Ctrl-C ends it and its guests.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use landfall_testguest::{Vm, VmError};
use rustix::process::Signal;

use crate::scene::{Run, landfall, sweep, take_turn, wait_until};

#[test]
fn ctrl_c_ends_the_whole_bench_and_its_guests() {
    let _turn = take_turn();
    if let Err(error @ VmError::NoQemu { .. }) = Vm::builder(&sweep(16)).start() {
        eprintln!("skipped: {error}");
        return;
    }
    let mut command = landfall();
    command.args(["bench", "middle", "--policy", "predictive", "--repeat", "3"]);
    let mut run = Run::start(command);
    wait_until("both guests are there", || children(&run).len() >= 2 || !run.is_running());
    let guests = children(&run);
    // The probe takes half of that time; then the migration runs.
    sleep(Duration::from_secs(7));
    run.signal(Signal::TERM);
    let ended = run.ended();
    assert_eq!(ended.code(), Some(5), "{}", ended.stderr);
    assert!(ended.stderr.contains("told to end (SIGTERM)"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("2 of 3"), "{}", ended.stderr);
    for guest in guests {
        wait_until("the guests have ended", || !fs::exists(format!("/proc/{guest}")).unwrap());
    }
}

/// Returns the child processes of a landfall.
fn children(run: &Run) -> Vec<i32> {
    let pid = run.child.id();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let children = |text: String| -> Vec<i32> {
        text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
    };
    texts.flat_map(children).collect()
}
