//! Monitors that hold back, fall silent or close at the worst moment: the guest runs in one place, and the
//! report is true.

use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{
    Endpoint, GuestSpec, HeldBack, HoldRule, QmpRelay, RawQmp, RelayStep, Vm,
};
use rustix::process::{Pid, Signal, kill_process};
use std::thread::sleep;

use crate::scene::{PATIENCE, Run, Scene, migration_status, random, run_state, sweep, wait_until};

/// Options of a policy that stops the guest for good.
const STOPS: [&str; 8] = [
    "--policy",
    "rfc2011",
    "--aggression",
    "1.0",
    "--give-way",
    "max-stall",
    "--max-bandwidth",
    "10MB/s",
];

/// Longer than landfall waits for an answer.
const SILENCE: Duration = Duration::from_secs(7);

/// A scene whose monitors are reached through relays.
struct Relayed {
    scene: Scene,
    source: QmpRelay,
    destination: QmpRelay,
    _folder: tempfile::TempDir,
}

impl Relayed {
    fn boot(spec: &GuestSpec, rate: ByteRate) -> Option<Relayed> {
        Some(Relayed::of(Scene::boot(spec, rate)?))
    }

    fn of(scene: Scene) -> Relayed {
        let folder = tempfile::tempdir().unwrap();
        let front = |name| Endpoint::Unix(folder.path().join(name));
        let source = QmpRelay::start(front("source"), scene.pair.source.qmp_socket()).unwrap();
        // As a destination on another host is reached.
        let tcp = Endpoint::Tcp(([127, 0, 0, 1], 0).into());
        let destination = QmpRelay::start(tcp, scene.pair.destination.qmp_socket()).unwrap();
        Relayed { scene, source, destination, _folder: folder }
    }

    fn landfall(&self, knows_destination: bool, options: &[&str]) -> Run {
        let source = self.source.endpoint().to_string();
        let destination = self.destination.endpoint().to_string();
        let destination = knows_destination.then_some(destination.as_str());
        Run::start(self.scene.migrate_command(&source, destination, options))
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn is_over(vm: &Vm) -> bool {
    ["cancelled", "failed", "none", "completed"].contains(&migration_status(vm).as_str())
}

/// Waits until so much is sent and no more than so much remains.
fn wait_until_sent(probe: &mut RawQmp, sent: u64, remaining: u64) {
    wait_until("most of the guest is sent", || {
        let ram = &probe.run("query-migrate").unwrap()["ram"];
        ram["transferred"].as_u64() > Some(sent)
            && ram["remaining"].as_u64().is_some_and(|left| left < remaining)
    });
}

fn migration_word(probe: &mut RawQmp) -> String {
    probe.run("query-migrate").unwrap()["status"].as_str().unwrap_or("none").to_owned()
}

fn is_in_final_copy(probe: &mut RawQmp) -> bool {
    ["device", "completed"].contains(&migration_word(probe).as_str())
}

#[test]
fn a_migrate_command_that_is_taken_late_is_steered_or_ended_and_never_called_refused() {
    let Some(relayed) = Relayed::boot(&sweep(24), ByteRate::mb(10)) else { return };
    relayed.source.hold(HeldBack::Command, "migrate", HoldRule::once_for(SILENCE));
    let began = Instant::now();
    let run = relayed.landfall(true, &["--policy", "plain", "--max-bandwidth", "10MB/s"]);
    let delivered = relayed.source.wait_for("migrate", RelayStep::Delivered, began, PATIENCE);
    delivered.expect("the command is delivered in the end");
    let ended = run.ended();
    ended.assert(5, "failed", &[]);
    assert!(is_over(&relayed.scene.pair.source), "{ended:?}");
    relayed.scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_that_arrived_stopped_is_continued_however_long_the_destination_is_silent() {
    let Some(relayed) = Relayed::boot(&random(16, 500), ByteRate::mb(20)) else { return };
    let run = relayed.landfall(true, &["--policy", "plain", "--max-bandwidth", "20MB/s"]);
    let mut probe = relayed.scene.pair.source.raw_qmp().unwrap();
    wait_until_sent(&mut probe, 10_000_000, 1_200_000);
    // Too late to be cancelled: the command waits behind the final copy.
    relayed.source.hold(HeldBack::Command, "migrate_cancel", HoldRule::until_released());
    let asked = Instant::now();
    run.signal(Signal::INT);
    let step = RelayStep::Returned;
    let _ = relayed.destination.wait_for("stop", step, asked, Duration::from_secs(2));
    let _ =
        relayed.source.wait_for("migrate_cancel", RelayStep::Sent, asked, Duration::from_secs(2));
    // One that is fenced at the source need not complete.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until && migration_word(&mut probe) != "completed" {
        sleep(Duration::from_millis(5));
    }
    drop(probe);
    relayed.destination.hold(HeldBack::Answer, "query-status", HoldRule::until_released());
    relayed.source.release("migrate_cancel");
    sleep(Duration::from_secs(8));
    relayed.destination.heal();
    relayed.scene.assert_runs_once(PATIENCE);
    let ended = run.ended();
    println!("exit {:?}: {}", ended.code(), ended.reason());
    relayed.scene.assert_nothing_left();
}

#[test]
fn a_lost_monitor_of_the_destination_is_connected_again_and_sees_the_guest_arrive() {
    let Some(relayed) = Relayed::boot(&random(24, 500), ByteRate::mb(20)) else { return };
    let run = relayed.landfall(true, &["--policy", "plain", "--max-bandwidth", "20MB/s"]);
    let mut probe = relayed.scene.pair.source.raw_qmp().unwrap();
    wait_until_sent(&mut probe, 3_000_000, u64::MAX);
    drop(probe);
    let lost = Instant::now();
    relayed.destination.disconnect();
    let greeted =
        relayed.destination.wait_for("qmp_capabilities", RelayStep::Returned, lost, PATIENCE);
    greeted.expect("landfall connects again");
    let ended = run.ended();
    ended.assert(0, "landed", &[]);
    assert!(ended.stderr.contains("connected again"), "{}", ended.stderr);
    assert!(ended.number("longest_stall_s") > 0.0, "seen to its end: {:#}", ended.report);
    relayed.scene.assert_landed();
}

#[test]
fn a_guest_whose_stop_is_answered_late_is_continued() {
    let Some(relayed) = Relayed::boot(&sweep(24), ByteRate::mb(20)) else { return };
    relayed.source.hold(HeldBack::Command, "stop", HoldRule::once_for(Duration::from_secs(6)));
    let began = Instant::now();
    let run = relayed.landfall(true, &STOPS);
    let stopped = relayed.source.wait_for("stop", RelayStep::Delivered, began, PATIENCE);
    stopped.expect("the policy stops the guest");
    let ended = run.ended();
    println!("exit {:?}: {}", ended.code(), ended.reason());
    let place = relayed.scene.assert_runs_once(PATIENCE);
    assert_eq!(place == "destination", [Some(0), Some(3)].contains(&ended.code()), "{ended:?}");
    relayed.scene.assert_nothing_left();
}

#[test]
fn a_landfall_killed_before_it_continues_the_guest_at_the_destination_leaves_it_running() {
    let Some(relayed) = Relayed::boot(&sweep(24), ByteRate::mb(20)) else { return };
    relayed.destination.hold(HeldBack::Command, "cont", HoldRule::until_released());
    let began = Instant::now();
    let run = relayed.landfall(true, &STOPS);
    let continues = relayed.destination.wait_for("cont", RelayStep::Sent, began, PATIENCE);
    continues.expect("the guest arrives stopped");
    run.signal(Signal::KILL);
    // What landfall has sent last is lost with it.
    relayed.destination.disconnect();
    relayed.destination.heal();
    relayed.scene.assert_runs_once(PATIENCE);
    end(run);
    relayed.scene.assert_nothing_left();
}

/// Asks to end a migration without the destination's monitor, or with one that closes; has QEMU get
/// `migrate_cancel` when all is on the wire and the destination has not started it yet.
fn cancelled_when_all_is_sent(knows_destination: bool) {
    let Some(relayed) = Relayed::boot(&random(16, 500), ByteRate::mb(20)) else { return };
    let options = ["--policy", "plain", "--max-bandwidth", "20MB/s"];
    let run = relayed.landfall(knows_destination, &options);
    let pair = &relayed.scene.pair;
    let mut probe = pair.source.raw_qmp().unwrap();
    let cancel_is_sent = |since| {
        let (step, limit) = (RelayStep::Sent, Duration::from_secs(2));
        relayed.source.wait_for("migrate_cancel", step, since, limit)
    };
    if !knows_destination {
        wait_until_sent(&mut probe, 4_000_000, 11_000_000);
        relayed.source.hold(HeldBack::Command, "migrate_cancel", HoldRule::until_released());
        let asked = Instant::now();
        run.signal(Signal::INT);
        let _ = cancel_is_sent(asked);
    }
    wait_until("nearly all is sent", || {
        let answer = probe.run("query-migrate").unwrap();
        let [sent, left] =
            ["transferred", "remaining"].map(|key| answer["ram"][key].as_u64().unwrap_or(0));
        let is_ending = ["device", "completed"].map(|word| answer["status"] == word);
        is_ending.contains(&true) || sent > 10_000_000 && left < 1_200_000
    });
    signal(pair.destination.pid(), Signal::STOP);
    // A guest that is fenced at the source need not come this far.
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until && !is_in_final_copy(&mut probe) {
        sleep(Duration::from_millis(5));
    }
    drop(probe);
    if knows_destination {
        relayed.destination.set_refusing(true);
        relayed.destination.disconnect();
        let asked = Instant::now();
        run.signal(Signal::INT);
        let _ = cancel_is_sent(asked);
    }
    relayed.source.release("migrate_cancel");
    sleep(Duration::from_secs(1));
    signal(pair.destination.pid(), Signal::CONT);
    // The destination starts what it has, or not; both are asked all the time.
    let mut probes = [&pair.source, &pair.destination].map(|vm| vm.raw_qmp().unwrap());
    let until = Instant::now() + Duration::from_secs(4);
    while Instant::now() < until {
        let runs = probes.each_mut().map(|probe| {
            probe.run("query-status").is_ok_and(|status| status["status"] == "running")
        });
        assert_ne!(runs, [true, true], "the guest runs twice");
        sleep(Duration::from_millis(10));
    }
    drop(probes);
    relayed.destination.heal();
    let ended = run.ended();
    println!("exit {:?}: {}", ended.code(), ended.reason());
    let place = relayed.scene.assert_runs_once(PATIENCE);
    let landed = [Some(0), Some(3)].contains(&ended.code());
    let settled = ended.code() == Some(6) || landed == (place == "destination");
    assert!(settled, "it runs at the {place}: {ended:?}");
    relayed.scene.assert_nothing_left();
}

#[test]
fn a_cancel_that_waits_until_the_final_copy_does_not_let_the_guest_run_twice() {
    cancelled_when_all_is_sent(false);
}

#[test]
fn a_destination_whose_monitor_closes_counts_as_alive() {
    cancelled_when_all_is_sent(true);
}

/// QEMU itself lets a guest run twice that is cancelled when all of it is on the wire. landfall cannot see that
/// without the destination's monitor.
#[test]
fn a_cancel_of_another_program_in_the_final_copy_leaves_unknown_what_the_destination_does() {
    let Some(scene) = Scene::boot(&random(16, 500), ByteRate::mb(20)) else { return };
    let socket = scene.pair.source.qmp_socket().display().to_string();
    let options = ["--policy", "plain", "--max-bandwidth", "20MB/s"];
    let run = Run::start(scene.migrate_command(&socket, None, &options));
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    wait_until_sent(&mut probe, 10_000_000, 1_200_000);
    // It has the rest, and does not start the guest yet.
    signal(scene.pair.destination.pid(), Signal::STOP);
    wait_until("the final copy begins", || is_in_final_copy(&mut probe));
    probe.run("migrate_cancel").unwrap();
    drop(probe);
    wait_until("it is cancelled", || is_over(&scene.pair.source));
    signal(scene.pair.destination.pid(), Signal::CONT);
    let ended = run.ended();
    println!("{:?}: {:#}, runs at {:?}", ended.code(), ended.report, scene.runs_at());
    let says = ["runs at the source at full speed", "may run at the destination as well"];
    ended.assert(6, "unknown", &says);
    scene.assert_nothing_left();
}

/// Waits until landfall has stopped a guest that is still being moved.
fn wait_until_stopped(scene: &Scene) {
    wait_until("landfall stops the guest", || run_state(&scene.pair.source) == "paused");
}

/// How long a migration may last when landfall stands still: a promise to operators.
const LEFT_ALONE: Duration = Duration::from_secs(30);

#[test]
fn a_landfall_that_stays_stopped_leaves_no_migration_behind() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let mut run = scene.landfall(&["--policy", "rfc2011", "--max-bandwidth", "40MB/s"]);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    run.signal(Signal::STOP);
    let stopped = Instant::now();
    wait_until("the migration is over", || is_over(&scene.pair.source));
    assert!(stopped.elapsed() < LEFT_ALONE, "{:?}", stopped.elapsed());
    assert_eq!(scene.assert_runs_once(LEFT_ALONE), "source");
    end(run);
    wait_until("the settings are back", || {
        crate::scene::Found::of(&scene.pair.source).parameters == scene.before.parameters
    });
    scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_that_landfall_stopped_runs_again_when_landfall_stays_stopped() {
    let Some(scene) = Scene::boot(&sweep(64), ByteRate::mb(10)) else { return };
    let run = scene.landfall(&STOPS);
    wait_until_stopped(&scene);
    run.signal(Signal::STOP);
    scene.assert_runs_once(LEFT_ALONE);
    assert!(is_over(&scene.pair.source));
    end(run);
    scene.assert_nothing_left();
}

/// Starts a final copy of some twelve seconds, and returns when the guest has stopped for it.
fn in_long_final_copy() -> Option<(Scene, Run)> {
    let spec = GuestSpec { memory: Bytes::mib(160), ..sweep(120) };
    let scene = Scene::boot(&spec, ByteRate::mb(10))?;
    let probe = scene.pair.source.raw_qmp().unwrap();
    let began = Instant::now();
    let run = scene.landfall(&[
        "--policy",
        "pause-and-ship",
        "--max-bandwidth",
        "10MB/s",
        "--give-way",
        "max-stall",
    ]);
    let stopped = probe.event_within(PATIENCE, began, |event| event.name == "STOP");
    stopped.unwrap().expect("the final copy");
    drop(probe);
    Some((scene, run))
}

/// The time that the final copy takes, and the promise.
const AFTER_FINAL_COPY: Duration = Duration::from_secs(15 + LEFT_ALONE.as_secs());

#[test]
fn a_landfall_stopped_at_the_start_of_a_long_final_copy_leaves_the_guest_running_once() {
    let Some((scene, run)) = in_long_final_copy() else { return };
    run.signal(Signal::STOP);
    scene.assert_runs_once(AFTER_FINAL_COPY);
    assert!(is_over(&scene.pair.source));
    end(run);
    scene.assert_nothing_left();
}

#[test]
fn a_landfall_killed_at_the_start_of_a_long_final_copy_leaves_the_guest_running_once() {
    let Some((scene, run)) = in_long_final_copy() else { return };
    end(run);
    scene.assert_runs_once(AFTER_FINAL_COPY);
    assert!(is_over(&scene.pair.source));
    wait_until("the settings are back", || {
        crate::scene::Found::of(&scene.pair.source).parameters == scene.before.parameters
    });
    scene.assert_nothing_left();
}

/// Kills a landfall, or reaps one that its guardian has killed.
fn end(mut run: Run) {
    let _ = run.child.kill();
    run.wait();
}
