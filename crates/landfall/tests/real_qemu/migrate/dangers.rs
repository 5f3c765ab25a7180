//! Ways in which a guest could run twice, stay paused or be the wrong one; each was found by trying.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{GuestSpec, LinkRelay, Vm, agrees_once_in_three, claim};
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{Run, Scene, landfall, migration_status, random, run_state, sweep, wait_until};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Returns the number of QEMUs that run the guest.
fn runs_in(scene: &Scene) -> usize {
    let states = [run_state(&scene.pair.source), run_state(&scene.pair.destination)];
    states.iter().filter(|state| *state == "running").count()
}

/// Freezes the destination when nearly everything is sent, so that the source waits for its answer; asks
/// landfall to end by `ask`; then lets the destination continue.
fn given_up_when_all_is_sent(monitor: bool, ask: impl FnOnce(&Run)) -> Option<(Scene, Run)> {
    let scene = Scene::boot(&random(16, 500), ByteRate::mb(20))?;
    let mut command = landfall();
    command.args(["migrate", "--json", "--policy", "plain", "--max-bandwidth", "20MB/s"]);
    if monitor {
        command.arg("--destination-qmp").arg(scene.pair.destination.qmp_socket());
    }
    command.arg(scene.pair.source.qmp_socket()).arg(scene.pair.uri());
    let run = Run::start(command);
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    wait_until("nearly all is sent", || {
        let answer = probe.run("query-migrate").unwrap();
        let remaining = answer["ram"]["remaining"].as_u64();
        remaining.is_some_and(|remaining| remaining < 1_200_000)
            && answer["ram"]["transferred"].as_u64() > Some(10_000_000)
    });
    signal(scene.pair.destination.pid(), Signal::STOP);
    wait_until("the source waits", || {
        let state = probe.run("query-migrate").unwrap()["status"].to_string();
        state.contains("device") || state.contains("completed")
    });
    drop(probe);
    ask(&run);
    sleep(Duration::from_secs(1));
    signal(scene.pair.destination.pid(), Signal::CONT);
    Some((scene, run))
}

#[test]
fn a_guest_given_up_when_all_of_it_is_on_the_wire_runs_once() {
    for monitor in [true, false] {
        let asked = given_up_when_all_is_sent(monitor, |run| run.signal(Signal::INT));
        let Some((scene, run)) = asked else { return };
        let ended = run.ended();
        assert!([Some(0), Some(3), Some(5)].contains(&ended.code()), "{ended:?}");
        wait_until("the guest runs", || runs_in(&scene) > 0);
        sleep(Duration::from_millis(500));
        assert_eq!(runs_in(&scene), 1, "with the destination's monitor: {monitor}; {ended:?}");
        scene.assert_memory_right();
    }
}

#[test]
fn a_landfall_killed_when_all_of_the_guest_is_on_the_wire_leaves_it_running_once() {
    let Some((scene, run)) = given_up_when_all_is_sent(true, |run| run.signal(Signal::KILL)) else {
        return;
    };
    let ended = run.ended();
    wait_until("the guest runs", || runs_in(&scene) > 0);
    sleep(Duration::from_millis(500));
    assert_eq!(runs_in(&scene), 1, "{}", ended.stderr);
    scene.assert_memory_right();
}

#[test]
fn the_guardian_leaves_another_qemu_at_the_same_socket_alone() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("vm");
    let source = Vm::builder(&sweep(16)).run_directory(&place);
    let Some(scene) = Scene::with(source, ByteRate::mb(40)) else { return };
    let mut run = scene.landfall(&["--policy", "rfc2011", "--max-bandwidth", "40MB/s"]);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    run.signal(Signal::STOP);
    signal(scene.pair.source.pid(), Signal::KILL);
    wait_until("QEMU is gone", || !scene.pair.source.is_running());
    let other = Vm::builder(&sweep(16)).run_directory(&place).paused().start().unwrap();
    let before = run_state(&other);
    run.signal(Signal::KILL);
    let ended = run.ended();
    assert!(ended.stderr.contains("has ended"), "{}", ended.stderr);
    assert_eq!(run_state(&other), before);
}

#[test]
fn a_landfall_that_is_stopped_does_not_keep_the_guest_held() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let mut run = scene.landfall(&["--policy", "rfc2011", "--max-bandwidth", "40MB/s"]);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    run.signal(Signal::STOP);
    let stopped = Instant::now();
    wait_until("the guest is let go", || !scene.is_held());
    assert!(stopped.elapsed() < Duration::from_secs(15), "{:?}", stopped.elapsed());
    // Its guardian tries for two minutes to get QEMU's monitor, which this landfall has: neither of
    // them may wait for the other.
    run.signal(Signal::CONT);
    let moves = Instant::now();
    let ended = run.ended();
    assert!(moves.elapsed() < Duration::from_secs(30), "{:?}: {ended:?}", moves.elapsed());
    ended.assert(5, "failed", &["the guardian has ended its watch"]);
    assert!(ended.stderr.contains("moves again and has ended the migration itself"), "{ended:?}");
    scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_paused_by_another_stays_paused() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(10)) else { return };
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "10MB/s"]);
    wait_until("the migration", || migration_status(&scene.pair.source) == "active");
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    probe.run("stop").unwrap();
    probe.run("migrate_cancel").unwrap();
    drop(probe);
    run.ended().assert(6, "unknown", &["not landfall that stopped it"]);
    assert_eq!(run_state(&scene.pair.source), "paused");
}

#[test]
fn a_destination_started_stopped_runs_the_guest_once_it_is_there() {
    let Some(mut scene) = Scene::boot(&random(16, 500), ByteRate::mb(100)) else { return };
    let destination = scene.pair.source.destination().paused().start().unwrap();
    let to = destination.incoming().unwrap().parse().unwrap();
    scene.pair.link = LinkRelay::new(to, Some(ByteRate::mb(100))).unwrap();
    scene.pair.destination = destination;
    scene.migrate(&["--policy", "plain"]).assert(0, "landed", &[]);
    scene.assert_landed();
}

/// Starts a guest in post-copy over a link so slow that it stays in post-copy.
fn in_post_copy() -> Option<(Scene, Run)> {
    let scene = Scene::boot(&sweep(24), ByteRate::mb(40))?;
    let run = scene.landfall(&["--policy", "post-copy", "--post-copy", "allow"]);
    wait_until("the first pass", || migration_status(&scene.pair.source) == "active");
    sleep(Duration::from_millis(300));
    scene.pair.link.set_rate(Some(ByteRate(500_000.0)));
    wait_until("post-copy", || migration_status(&scene.pair.source) == "postcopy-active");
    Some((scene, run))
}

#[test]
fn post_copy_that_loses_its_link_is_not_waited_for_without_end() {
    let Some((scene, run)) = in_post_copy() else { return };
    scene.pair.link.sever();
    run.ended().assert(6, "unknown", &["post-copy has lost its link", "migrate-recover"]);
}

#[test]
fn a_guest_whose_pages_died_with_the_source_has_not_landed() {
    let Some((scene, run)) = in_post_copy() else { return };
    signal(scene.pair.source.pid(), Signal::KILL);
    run.ended().assert(6, "unknown", &["has ended"]);
}

#[test]
fn the_time_allowed_ends_even_a_policy_that_asks_for_what_it_may_not_have() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let mut command = landfall();
    command.args(["migrate", "--json", "--policy", "rfc2011", "--aggression", "1.0"]);
    command.args(["--max-time", "3s", "--max-bandwidth", "40MB/s"]);
    command.arg(scene.pair.source.qmp_socket()).arg(scene.pair.uri());
    let ended = Run::start(command).ended();
    ended.assert(5, "cancelled", &["--max-time 3.00 s is over"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn the_floor_for_the_guests_cpu_holds() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&sweep(24), ByteRate::mb(40))?;
        let free = scene.share_of_cpu(Duration::from_secs(1));
        let ended = scene.migrate(&[
            "--policy",
            "progressive",
            "--min-cpu",
            "20%",
            "--aggression",
            "1.0",
            "--max-bandwidth",
            "40MB/s",
        ]);
        ended.assert(5, "cancelled", &["the tightest grip is 20 %"]);
        scene.assert_unharmed_at_source();
        let share = ended.number("min_cpu_share");
        assert!(share > 0.17, "held to {share}");
        // A share of the CPU that the guest demanded and that other load on the machine left it.
        Some(claim(share * free < 0.26, format!("held to {share} of {free}")))
    });
}

#[test]
fn a_guest_larger_than_its_patience_is_still_shipped_whole() {
    // The final copy takes longer than a monitor may be silent.
    let spec = GuestSpec { memory: Bytes::mib(192), ..sweep(128) };
    let Some(scene) = Scene::boot(&spec, ByteRate::mb(10)) else { return };
    let ended = scene.migrate(&[
        "--policy",
        "rfc2011",
        "--aggression",
        "1.0",
        "--max-bandwidth",
        "10MB/s",
        "--give-way",
        "max-stall",
    ]);
    assert_eq!(ended.report["outcome"], "landed", "{:#}\n{}", ended.report, ended.stderr);
    assert!(ended.number("longest_stall_s") > 10.0);
    scene.assert_landed();
}
