//! One kill for landfall and its guardian: `landfall release`, or a guardian outside the killed group, frees
//! the guest.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use rustix::process::{Pid, Signal, kill_process};

use super::sudden_death::{Random, kills};
use crate::scene::{
    Found, Run, Scene, landfall, limits, migration_status, run_state, sweep, wait_until,
};

const HOLD: &[&str] = &["--policy", "rfc2011", "--max-bandwidth", "40MB/s"];

/// After this time every quota must be what it was before.
const BOUND: Duration = Duration::from_secs(1);

/// Children of a process, whatever group they are in by now.
fn children(of: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether any thread of a process is there still, with its open files and the guest's lock. The process
/// may be a zombie: its parent, which may not reap it, is another now.
fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_gone =
        stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with(['Z', 'X']));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    !is_gone || threads > 1
}

/// Kills landfall and its guardian so that neither sees the other die. Returns once both are gone.
fn kill_both(run: &mut Run) {
    let landfall = run.child.id();
    let guardians = children(landfall);
    assert_eq!(guardians.len(), 1, "one guardian");
    let both = [landfall, guardians[0]].map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()));
    for signal in [Signal::STOP, Signal::KILL] {
        both.iter().flatten().for_each(|pid| kill_process(*pid, signal).unwrap());
    }
    run.wait();
    wait_until("the guardian is gone", || !is_alive(guardians[0]));
}

/// Runs `landfall release --json` and asserts that it has undone everything.
#[track_caller]
fn release() {
    let mut command = landfall();
    command.args(["release", "--json"]);
    let ended = Run::start(command).ended();
    println!("released: {}", ended.report);
    assert_eq!(ended.code(), Some(0), "{ended:?}");
}

#[track_caller]
fn assert_given_back(scene: &Scene) {
    let mut status = String::new();
    wait_until("the migration is over", || {
        let now = migration_status(&scene.pair.source);
        if now != status {
            println!("migration: {now}");
            status = now;
        }
        ["cancelled", "failed", "none"].contains(&status.as_str())
    });
    wait_until("the settings are back", || {
        Found::of(&scene.pair.source).parameters == scene.before.parameters
    });
    assert_eq!(run_state(&scene.pair.source), "running");
}

#[test]
fn release_frees_a_guest_whose_landfall_and_guardian_were_both_killed() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let mut run = scene.landfall(HOLD);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    sleep(Duration::from_millis(200));
    kill_both(&mut run);
    assert!(scene.is_held(), "nothing is left to release");
    release();
    assert!(!scene.is_held(), "still held after the release");
    assert_given_back(&scene);
    scene.assert_unharmed_at_source();
}

#[test]
fn release_gives_a_guest_held_in_its_own_group_the_limit_back_that_it_had() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let vcpu = scene.pair.source.vcpu_threads().unwrap()[0];
    let Some(group) = GivenGroup::with_quota(vcpu, "80000") else { return };
    let before = limits(scene.pid());
    let mut run = scene.landfall(HOLD);
    wait_until("the guest is held", || limits(scene.pid()) != before || !run.is_running());
    sleep(Duration::from_millis(200));
    kill_both(&mut run);
    assert_ne!(limits(scene.pid()), before, "nothing is left to release");
    release();
    let after = limits(scene.pid());
    let vcpu = i32::try_from(vcpu).unwrap();
    assert_eq!(after[&vcpu], before[&vcpu]);
    assert_given_back(&scene);
    drop(group);
    scene.assert_unharmed_at_source();
}

#[test]
fn release_frees_the_guest_after_a_double_kill_at_any_moment_of_a_held_migration() {
    let mut random = Random::seeded();
    // In groups of landfall's own, then in place.
    for in_place in [false, true] {
        let Some(mut scene) = Scene::boot(&sweep(16), ByteRate::mb(60)) else { return };
        let vcpu = scene.pair.source.vcpu_threads().unwrap()[0];
        let group = in_place.then(|| GivenGroup::with_quota(vcpu, "80000"));
        if group.as_ref().is_some_and(Option::is_none) {
            return;
        }
        let before = limits(scene.pid());
        let is_held = |scene: &Scene| limits(scene.pid()).values().ne(before.values());
        let mut while_held = 0;
        let kills = kills() / 2;
        for kill in 0..kills {
            let mut run = scene.landfall(HOLD);
            wait_until("the guest is held", || is_held(&scene) || !run.is_running());
            sleep(Duration::from_micros(random.below(500_000)));
            while_held += u64::from(is_held(&scene));
            kill_both(&mut run);
            release();
            let vcpu = i32::try_from(vcpu).unwrap();
            assert_eq!(limits(scene.pid())[&vcpu], before[&vcpu], "kill {kill}, {in_place}");
            assert_given_back(&scene);
            assert_eq!(scene.groups_left(), Vec::<PathBuf>::new());
            scene.new_destination();
        }
        println!("in place: {in_place}: {kills} double kills, {while_held} while it was held");
        assert!(while_held * 2 > kills, "most kills must come while the guest is held");
        drop(group);
        scene.assert_unharmed_at_source();
    }
}

/// A group of the cpu controller with one vCPU and a limit of its own, as libvirt makes it.
struct GivenGroup {
    path: PathBuf,
    vcpu: u32,
}

impl GivenGroup {
    fn with_quota(vcpu: u32, quota: &str) -> Option<GivenGroup> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/cpu/test-of-landfall-{vcpu}"));
        if fs::create_dir(&path).is_err() {
            eprintln!("skipped: no cgroup v1 cpu controller that can be written here");
            return None;
        }
        let group = GivenGroup { path, vcpu };
        fs::write(group.path.join("cpu.cfs_quota_us"), quota).unwrap();
        fs::write(group.path.join("tasks"), vcpu.to_string()).unwrap();
        Some(group)
    }
}

impl Drop for GivenGroup {
    fn drop(&mut self) {
        // The thread may have ended.
        let _ = fs::write("/sys/fs/cgroup/cpu/tasks", self.vcpu.to_string());
        let _ = fs::remove_dir(&self.path);
    }
}

/// A cgroup v2 of its own for landfall, as systemd gives a service.
struct ServiceGroup(PathBuf);

impl ServiceGroup {
    fn create() -> Option<ServiceGroup> {
        let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        let root = roots.into_iter().find(|root| root.join("cgroup.procs").exists());
        let path = root?.join(format!("test-of-landfall-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) if path.join("cgroup.kill").exists() => Some(ServiceGroup(path)),
            _ => None,
        }
    }

    fn kill(&self) {
        fs::write(self.0.join("cgroup.kill"), "1").unwrap();
    }
}

impl Drop for ServiceGroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn a_guardian_outside_the_killed_group_frees_the_guest_within_a_second() {
    let Some(scene) = Scene::boot(&sweep(24), ByteRate::mb(40)) else { return };
    let Some(group) = ServiceGroup::create() else {
        eprintln!("skipped: no cgroup v2 with cgroup.kill that can be written here");
        return;
    };
    let source = scene.pair.source.qmp_socket().display().to_string();
    let destination = scene.pair.destination.qmp_socket().display().to_string();
    let command = scene.migrate_command(&source, Some(&destination), HOLD);
    // It enters the group before it becomes landfall.
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&group.0);
    shell.arg(command.get_program()).args(command.get_args());
    shell.stdin(Stdio::null());
    let mut run = Run::start(shell);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    sleep(Duration::from_millis(200));
    assert!(scene.is_held());
    group.kill();
    let killed = Instant::now();
    run.wait();
    while scene.is_held() {
        let took = killed.elapsed();
        assert!(took <= BOUND, "a quota stayed for {took:?}");
        sleep(Duration::from_millis(5));
    }
    assert_given_back(&scene);
    scene.assert_unharmed_at_source();
}
