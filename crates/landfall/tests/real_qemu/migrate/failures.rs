//! Failures during a migration: the guest ends unharmed, or landfall says what it does not know.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::decision::{Decision, Hold};
use landfall_core::policy::{Needs, Policy};
use landfall_core::quota::Quota;
use landfall_core::requirements::Settings;
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::ByteRate;
use landfall_qemu::driver::{Interrupts, MigrationRequest, migrate};
use landfall_qemu::qmp::QmpAddress;
use landfall_testguest::Vm;
use rustix::process::{Pid, Signal, kill_process};

use crate::scene::{
    Found, Run, Scene, landfall, limits, migration_status, random, run_state, sweep, wait_until,
};

/// Grips a guest that never converges, for as long as it is let.
const HOLD: &[&str] = &["--policy", "rfc2011", "--max-bandwidth", "40MB/s"];

/// Boots a guest and starts a landfall that throttles it.
fn held() -> Option<(Scene, Run)> {
    let scene = Scene::boot(&sweep(24), ByteRate::mb(40))?;
    let mut run = scene.landfall(HOLD);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    assert!(run.is_running(), "{:?}", run.ended());
    Some((scene, run))
}

/// No signal arrives.
fn no_stops() -> Interrupts {
    tokio::sync::mpsc::unbounded_channel().1
}

fn pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

#[test]
fn ctrl_c_gives_the_guest_back() {
    let Some((scene, run)) = held() else { return };
    run.signal(Signal::INT);
    run.ended().assert(5, "cancelled", &["Ctrl-C", "at the source at full speed"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn sigterm_gives_the_guest_back() {
    let Some((scene, run)) = held() else { return };
    run.signal(Signal::TERM);
    run.ended().assert(5, "cancelled", &["SIGTERM"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_migration_cancelled_by_another_is_reported_as_that() {
    let Some((scene, run)) = held() else { return };
    scene.pair.source.raw_qmp().unwrap().run("migrate_cancel").unwrap();
    let ended = run.ended();
    assert_eq!(ended.code(), Some(5), "{:#}", ended.report);
    // QEMU calls one cancel of ten failed: docs/measurements/levers-qemu-10.0.md.
    let says = match ended.report["outcome"] == "failed" {
        true => "QEMU gave the migration up",
        false => "another program cancelled",
    };
    assert!(ended.reason().contains(says), "{:#}", ended.report);
    scene.assert_unharmed_at_source();
}

/// QEMU 7.2 is being cancelled for as long as the kernel tries to connect, which is two minutes.
#[test]
fn a_guest_does_not_stand_still_while_a_cancel_waits_for_the_kernel() {
    let Some(oldest) = Vm::builder(&sweep(16)).on_oldest_qemu() else { return };
    let oldest = oldest.accel("tcg,thread=single");
    let Some(scene) = Scene::with(oldest, ByteRate::mb(40)) else { return };
    let unanswered = UnansweredPort::open();
    let mut command = landfall();
    command.args(["migrate", "--json", "--probe", "0s", "--policy", "plain"]);
    command.arg(scene.pair.source.qmp_socket()).arg(unanswered.uri());
    let run = Run::start(command);
    wait_until("QEMU connects", || migration_status(&scene.pair.source) == "setup");
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    let asked = Instant::now();
    run.signal(Signal::INT);
    let stopped = probe.wait_for_event("STOP", asked).expect("it is stopped, as a fence");
    probe.wait_for_event("RESUME", stopped).expect("it is continued");
    assert_eq!(probe.run("query-migrate").unwrap()["status"], "cancelling");
    assert_eq!(probe.run("query-status").unwrap()["status"], "running");
    drop(probe);
    drop(unanswered);
    run.ended().assert(5, "cancelled", &["Ctrl-C", "at the source at full speed"]);
    scene.assert_unharmed_at_source();
}

/// A port that accepts no connection: its queue is full, and the kernel drops what comes.
struct UnansweredPort {
    listener: std::net::TcpListener,
    /// They fill the queue.
    _waiting: Vec<OwnedFd>,
}

impl UnansweredPort {
    fn open() -> UnansweredPort {
        use rustix::net::{AddressFamily, SocketFlags, SocketType};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let connect = |_| {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let family = AddressFamily::INET;
            let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None).unwrap();
            // The first ones fill the queue, the others wait.
            let _ = rustix::net::connect(&socket, &address);
            socket
        };
        UnansweredPort { _waiting: (0..4).map(connect).collect(), listener }
    }

    fn uri(&self) -> String {
        format!("tcp:{}", self.listener.local_addr().unwrap())
    }
}

#[test]
fn a_destination_that_dies_leaves_the_guest_where_it_was() {
    let Some((scene, run)) = held() else { return };
    kill_process(pid(scene.pair.destination.pid()), Signal::KILL).unwrap();
    run.ended().assert(5, "failed", &["at the source at full speed"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_that_dies_with_the_guest_is_not_waited_for_without_end() {
    let Some(scene) = Scene::boot(&random(16, 500), ByteRate::mb(20)) else { return };
    let began = Instant::now();
    let probe = scene.pair.source.raw_qmp().unwrap();
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "20MB/s"]);
    probe.wait_for_event("STOP", began).expect("the final copy begins");
    drop(probe);
    // So that it does not see the guest arrive.
    run.signal(Signal::STOP);
    wait_until("it arrives", || run_state(&scene.pair.destination) == "running");
    kill_process(pid(scene.pair.destination.pid()), Signal::KILL).unwrap();
    run.signal(Signal::CONT);
    let says = ["nothing listens at the destination's monitor", "QMP cont"];
    run.ended().assert(6, "unknown", &says);
    assert_eq!(Found::of(&scene.pair.source).parameters, scene.before.parameters);
    scene.assert_nothing_left();
}

#[test]
fn a_link_that_breaks_leaves_the_guest_where_it_was() {
    let Some((scene, run)) = held() else { return };
    scene.pair.link.sever();
    run.ended().assert(5, "failed", &["at the source at full speed"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_that_takes_no_more_data_is_given_up() {
    let Some((scene, run)) = held() else { return };
    scene.pair.link.set_stalled(true);
    run.ended().assert(5, "failed", &["takes no more data"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_that_falls_silent_in_the_final_copy_is_given_up_and_the_guest_goes_on() {
    let Some(scene) = Scene::boot(&sweep(96), ByteRate::mb(40)) else { return };
    let run = scene.landfall(&[
        "--policy",
        "pause-and-ship",
        "--max-bandwidth",
        "40MB/s",
        "--give-way",
        "max-stall",
    ]);
    // The guest falls silent for the final copy, which takes two and a half seconds, and for no
    // other load on the machine for half of that.
    let beats = scene.pair.source.heartbeats();
    wait_until("the migration", || migration_status(&scene.pair.source) == "active");
    wait_until("the final copy", || {
        let last = beats.timeline().beats(0).last().copied();
        last.is_some_and(|last| last.elapsed() > Duration::from_millis(1200))
    });
    scene.pair.link.set_stalled(true);
    let ended = run.ended();
    ended.assert(5, "failed", &["at the source at full speed"]);
    assert!(ended.number("longest_stall_s") > 5.0, "the wait counts: {:#}", ended.report);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_that_does_not_listen_is_a_failure_with_the_guest_unharmed() {
    let Some(scene) = Scene::boot(&sweep(16), ByteRate::mb(40)) else { return };
    let mut command = crate::scene::landfall();
    command.args(["migrate", "--json"]).arg(scene.pair.source.qmp_socket()).arg("tcp:127.0.0.1:1");
    let ended = Run::start(command).ended();
    assert!([Some(4), Some(5)].contains(&ended.code()), "{ended:?}");
    assert!(ended.reason().contains("refused"), "{}", ended.reason());
    scene.assert_unharmed_at_source();
}

#[test]
fn a_source_that_dies_is_reported_with_all_that_is_known() {
    let Some((scene, run)) = held() else { return };
    kill_process(pid(scene.pair.source.pid()), Signal::KILL).unwrap();
    let ended = run.ended();
    ended.assert(6, "unknown", &["has ended, and the guest with it", "destination"]);
    scene.assert_nothing_left();
}

#[test]
fn a_monitor_that_hangs_gets_the_vcpus_let_go_and_the_rest_said() {
    let Some((scene, mut run)) = held() else { return };
    kill_process(pid(scene.pair.source.pid()), Signal::STOP).unwrap();
    wait_until("the vCPUs are let go", || !scene.is_held());
    run.wait();
    kill_process(pid(scene.pair.source.pid()), Signal::CONT).unwrap();
    let ended = run.ended();
    ended.assert(6, "unknown", &["has not answered", "not held by landfall any more"]);
    // The guardian, which got no message that all is done, finishes once QEMU answers.
    wait_until("the migration is over", || {
        ["cancelled", "failed"].contains(&migration_status(&scene.pair.source).as_str())
    });
    wait_until("the guest runs", || run_state(&scene.pair.source) == "running");
    wait_until("settings are back", || {
        crate::scene::Found::of(&scene.pair.source).parameters == scene.before.parameters
    });
    scene.assert_unharmed_at_source();
}

#[test]
fn nothing_is_held_without_a_guardian() {
    let Some((scene, run)) = held() else { return };
    let guardian = children(run.child.id());
    assert_eq!(guardian.len(), 1);
    kill_process(pid(guardian[0]), Signal::KILL).unwrap();
    run.ended().assert(5, "failed", &["the guardian has ended its watch"]);
    scene.assert_unharmed_at_source();
}

fn children(of: u32) -> Vec<u32> {
    let text =
        std::fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// A policy that throttles the guest and then panics.
struct BreaksDown(u32);

impl Policy for BreaksDown {
    fn name(&self) -> &'static str {
        "breaks-down"
    }

    fn needs(&self) -> Needs {
        Needs { quota: true, ..Needs::default() }
    }

    fn decide(&mut self, view: &View) -> Decision {
        if view.phase == Phase::Iterating {
            self.0 += 1;
            assert!(self.0 < 5, "a bug in a policy");
        }
        let quota = Quota { quota: Duration::from_millis(5), period: Duration::from_millis(50) };
        Decision::hold_all(view.vcpus.len(), Hold::Quota(quota), "test")
    }
}

#[test]
fn a_policy_that_panics_ends_the_migration_and_not_the_guest() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let request = MigrationRequest {
        source: QmpAddress::Unix(scene.pair.source.qmp_socket()),
        destination: scene.pair.uri(),
        destination_qmp: None,
        qemu_pid: None,
        settings: Settings::default(),
        policy: Box::new(BreaksDown(0)),
        post_copy: false,
        prior: landfall_core::model::prior::Prior::default(),
        forecast: None,
        gate: None,
        switch_over_deadline: Duration::from_secs(30),
        guardian: PathBuf::from(env!("CARGO_BIN_EXE_landfall")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let report = runtime.block_on(migrate(request, &mut no_stops(), &mut |_| {}));
    assert_eq!(report.exit_status(), 5, "{report:?}");
    assert!(report.reason.unwrap().contains("panicked"));
    scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_in_a_group_with_a_limit_of_its_own_gets_that_limit_back() {
    let group = std::path::Path::new("/sys/fs/cgroup/cpu/test-of-landfall-vcpu0");
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    if std::fs::create_dir(group).is_err() {
        eprintln!("skipped: no cgroup v1 cpu controller that can be written here");
        return;
    }
    let vcpu = scene.pair.source.vcpu_threads().unwrap()[0];
    std::fs::write(group.join("cpu.cfs_quota_us"), "80000").unwrap();
    std::fs::write(group.join("tasks"), vcpu.to_string()).unwrap();
    let before = limits(scene.pid());
    let run = scene.landfall(HOLD);
    wait_until("the guest is held", || limits(scene.pid()) != before);
    sleep(Duration::from_millis(200));
    run.signal(Signal::INT);
    run.ended().assert(5, "cancelled", &[]);
    let after = limits(scene.pid());
    std::fs::write("/sys/fs/cgroup/cpu/tasks", vcpu.to_string()).unwrap();
    std::fs::remove_dir(group).unwrap();
    let vcpu = i32::try_from(vcpu).unwrap();
    assert_eq!(after[&vcpu], before[&vcpu]);
}
