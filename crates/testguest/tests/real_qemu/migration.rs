//! A guest that is migrated through a link keeps its memory and its beat.

use crate::common::{
    PATIENCE, link_to, migrate, migration_status, random, small, start, wait_until,
    wait_until_still,
};
use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{
    GuestSpec, Incoming, LinkRelay, PageContent, Vm, Workload, agrees_once_in_three, claim,
};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// A guest at work and a destination that waits for it.
fn pair(spec: &GuestSpec) -> Option<(Vm, Vm)> {
    let source = start(Vm::builder(spec))?;
    let destination = source.destination().start().unwrap();
    source.heartbeats().ready(PATIENCE).unwrap();
    Some((source, destination))
}

#[test]
fn a_migrated_guest_beats_at_the_destination_with_its_memory_right() {
    for vcpus in [1, 2] {
        let spec = GuestSpec {
            vcpus,
            dirtiers: vcpus,
            cold: Bytes::mib(4),
            content: PageContent::Random,
            ..random(2_000)
        };
        let Some((source, destination)) = pair(&spec) else { return };
        let link = link_to(&destination);
        link.set_rate(Some(ByteRate::mb(200)));
        migrate(&source, &link.endpoint().to_string());
        let beats = source.heartbeats();
        let landed = beats.beat_from(destination.qemu_index(), None, PATIENCE).unwrap();
        wait_until("completion", || migration_status(&source) == "completed");
        assert!(link.passed() > Bytes::mib(20), "{}", link.passed());

        beats.beat_from(destination.qemu_index(), Some(landed), PATIENCE).unwrap();
        assert_eq!(beats.verify(PATIENCE).unwrap().errors, 0);
        assert_eq!(beats.qemu_index(), Some(destination.qemu_index()));
        // Every page has been visited and checked at least once more where the guest is now.
        let after = Some(landed + Duration::from_millis(300));
        beats.beat_from(destination.qemu_index(), after, PATIENCE).unwrap();
        assert_eq!(beats.corruptions(), []);
        for vcpu in 0..vcpus as usize {
            assert!(beats.timeline().beats(vcpu).last() > Some(&landed), "vCPU {vcpu} stopped");
        }
    }
}

#[test]
fn an_idle_guest_wakes_again_at_the_destination() {
    let Some((source, destination)) = pair(&small(Workload::Idle)) else { return };
    migrate(&source, destination.incoming().unwrap());
    let beats = source.heartbeats();
    let landed = beats.beat_from(destination.qemu_index(), None, PATIENCE).unwrap();
    beats.beat_from(destination.qemu_index(), Some(landed), PATIENCE).unwrap();
    assert_eq!(beats.verify(PATIENCE).unwrap().errors, 0);
}

#[test]
fn a_stalled_link_stops_the_migration_and_a_severed_one_ends_it() {
    let spec = GuestSpec { working_set: Bytes::mib(40), ..small(Workload::Sweep) };
    let Some((source, destination)) = pair(&spec) else { return };
    let link = link_to(&destination);
    link.set_rate(Some(ByteRate::mb(10)));
    migrate(&source, &link.endpoint().to_string());
    wait_until("the first bytes", || link.passed() > Bytes::mib(1));
    link.set_stalled(true);
    wait_until_still(&link);
    assert_eq!(migration_status(&source), "active");

    link.sever();
    wait_until("failure", || migration_status(&source) == "failed");
    // The guest is none the worse for it.
    let beats = source.heartbeats();
    beats.beat_from(source.qemu_index(), Some(Instant::now()), PATIENCE).unwrap();
    assert_eq!(beats.verify(PATIENCE).unwrap().errors, 0);
}

#[test]
fn a_pause_shows_as_lost_work_and_as_a_stall_of_its_length() {
    let Some(vm) = start(Vm::builder(&random(10_000))) else { return };
    let beats = vm.heartbeats();
    beats.ready(PATIENCE).unwrap();
    agrees_once_in_three(|| {
        let begin = Instant::now();
        sleep(Duration::from_secs(1));
        let baseline = beats.timeline().baseline(begin, Instant::now());
        let mut probe = vm.raw_qmp().unwrap();
        let from = Instant::now();
        probe.run("stop").unwrap();
        let stopped = Instant::now();
        sleep(Duration::from_millis(500));
        let paused = stopped.elapsed();
        probe.run("cont").unwrap();
        let to = beats.beat_from(vm.qemu_index(), Some(Instant::now()), PATIENCE).unwrap();
        let timeline = beats.timeline();
        let stall = timeline.longest_stall(from, to, &baseline);
        let lost = timeline.total_work_lost(from, to, &baseline);
        assert!(stall <= to - from && lost <= to - from, "stall {stall:?}, lost {lost:?}");
        let least = paused.mul_f64(0.9);
        let figures = format!("paused {paused:?}, stall {stall:?}, lost {lost:?}");
        Some(claim(stall >= least && lost >= least, figures))
    });
}

#[test]
fn a_guest_migrates_through_unix_sockets_too() {
    let Some(source) = start(Vm::builder(&random(1_000))) else { return };
    let destination = source.destination().incoming(Incoming::Unix).start().unwrap();
    source.heartbeats().ready(PATIENCE).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let from = format!("unix:{}", directory.path().join("link.sock").display());
    let to = destination.incoming().unwrap().parse().unwrap();
    let link = LinkRelay::from(from.parse().unwrap(), to, None).unwrap();
    migrate(&source, &from);
    source.heartbeats().beat_from(destination.qemu_index(), None, PATIENCE).unwrap();
    assert_eq!(source.heartbeats().verify(PATIENCE).unwrap().errors, 0);
    assert!(link.passed() > Bytes::mib(15));
}

#[test]
fn no_qemu_outlives_its_handle() {
    let Some(vm) = start(Vm::builder(&small(Workload::Idle))) else { return };
    let process = PathBuf::from(format!("/proc/{}", vm.pid()));
    assert!(process.exists() && vm.is_running());
    drop(vm);
    assert!(!process.exists());
}

#[test]
fn no_qemu_outlives_a_harness_that_is_killed() {
    const INNER: &str = "LANDFALL_TEST_TO_BE_KILLED";
    if let Some(directory) = std::env::var_os(INNER) {
        let vm = Vm::builder(&small(Workload::Idle)).run_directory(directory).start().unwrap();
        println!("\npid={}", vm.pid());
        loop {
            sleep(PATIENCE);
        }
    }
    let Some(_) = start(Vm::builder(&small(Workload::Idle))) else { return };
    // This very test again, in a process that can be killed, and that then leaves its files.
    let directory = tempfile::tempdir().unwrap();
    let name = "migration::no_qemu_outlives_a_harness_that_is_killed";
    let mut harness = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INNER, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(harness.stdout.take().unwrap()).lines();
    let mut pids = lines.filter_map(|line| line.ok()?.strip_prefix("pid=").map(str::to_owned));
    let process = PathBuf::from(format!("/proc/{}", pids.next().unwrap()));
    let runs = || {
        // It may be reaped or not; what counts is that it does not run.
        let state = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
        state.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    assert!(runs());
    harness.kill().unwrap();
    harness.wait().unwrap();
    wait_until("QEMU's end", || !runs());
}
