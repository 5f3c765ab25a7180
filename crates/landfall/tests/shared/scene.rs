//! A guest that can be moved, and landfall moving it, called as its users call it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{
    GuestSpec, MemoryCheck, MigrationPair, PagesPerSecond, RawQmp, Vm, VmBuilder, VmError, Workload,
};
use serde_json::Value;

pub use crate::landfall_process::{Ended, Run, landfall};

/// How long to wait for what must happen: long, because the machine may be busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A guest, its way to a destination, and its state before anything touched it.
pub struct Scene {
    pub pair: MigrationPair,
    pub before: Found,
    /// Two QEMUs and landfall fill two cores: one scene at a time on a machine.
    _turn: fs::File,
}

/// What must be the same after a migration as before it.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The control group of each QEMU thread with its limits; `None` for a thread that has ended.
    pub limits: BTreeMap<i32, Option<String>>,
    pub parameters: Value,
    pub capabilities: Value,
}

impl Scene {
    /// Boots a guest that works; `None`, with the reason printed, where there is no QEMU.
    pub fn boot(spec: &GuestSpec, rate: ByteRate) -> Option<Scene> {
        Self::with(Vm::builder(spec), rate)
    }

    pub fn with(source: VmBuilder, rate: ByteRate) -> Option<Scene> {
        let turn = take_turn();
        let source = match source.start() {
            Ok(source) => source,
            Err(error @ VmError::NoQemu { .. }) => {
                eprintln!("skipped: {error}");
                return None;
            }
            Err(error) => panic!("{error}"),
        };
        let pair = MigrationPair::start(source, rate).unwrap();
        let before = Found::of(&pair.source);
        Some(Scene { pair, before, _turn: turn })
    }

    /// `landfall migrate` of this guest, with the destination's monitor, as JSON.
    pub fn landfall(&self, options: &[&str]) -> Run {
        let [source, destination] = [&self.pair.source, &self.pair.destination];
        let to_destination = destination.qmp_socket().display().to_string();
        let source = source.qmp_socket().display().to_string();
        Run::start(self.migrate_command(&source, Some(&to_destination), options))
    }

    /// `landfall migrate` of this guest, its monitors reached by these addresses, as JSON.
    pub fn migrate_command(
        &self,
        source: &str,
        destination: Option<&str>,
        options: &[&str],
    ) -> Command {
        let mut command = landfall();
        command.args(["migrate", source, &self.pair.uri(), "--json"]);
        // A relay in front of the source's monitor is vouched for here, and nowhere else.
        if !source.ends_with(&self.pair.source.qmp_socket().display().to_string()) {
            command.args(["--qemu-pid", &self.pid().to_string()]);
        }
        if let Some(destination) = destination {
            command.args(["--destination-qmp", destination]);
        }
        command.args(options);
        if !options.contains(&"--probe") {
            // What is to be known of the guest before costs seconds each time.
            command.args(["--probe", "0s"]);
        }
        command
    }

    /// Runs `landfall migrate` to its end.
    pub fn migrate(&self, options: &[&str]) -> Ended {
        self.landfall(options).ended()
    }

    /// Starts a second destination like the first, for another migration.
    pub fn new_destination(&mut self) {
        self.pair.destination = self.pair.source.destination().start().unwrap();
        let rate = ByteRate::mb(1000);
        let to = self.pair.destination.incoming().unwrap().parse().unwrap();
        self.pair.link = landfall_testguest::LinkRelay::new(to, Some(rate)).unwrap();
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.pair.source.pid()).unwrap()
    }

    /// The share of a CPU that the guest's first vCPU gets over a while.
    pub fn share_of_cpu(&self, over: Duration) -> f64 {
        let thread = self.pair.source.vcpu_threads().unwrap()[0];
        let cpu = || self.pair.source.cpu_time(thread).unwrap();
        let (from, before) = (Instant::now(), cpu());
        sleep(over);
        cpu().saturating_sub(before).as_secs_f64() / from.elapsed().as_secs_f64()
    }

    /// Returns whether any thread has another limit than before landfall.
    pub fn is_held(&self) -> bool {
        let now = limits(self.pid());
        now != self.before.limits_as_they_were(&now)
    }

    /// Returns where the guest runs, by the word of both QEMUs; a QEMU that does not answer is not there.
    pub fn runs_at(&self) -> Vec<&'static str> {
        let places = [("source", &self.pair.source), ("destination", &self.pair.destination)];
        let runs = |vm: &Vm| {
            let status = vm.raw_qmp().ok().and_then(|mut probe| probe.run("query-status").ok());
            status.is_some_and(|status| status["status"] == "running")
        };
        places.into_iter().filter(|(_, vm)| runs(vm)).map(|(place, _)| place).collect()
    }

    /// Asserts that the guest comes to run in one place within a limit, is never seen in two, and that its
    /// memory is right; returns the place.
    #[track_caller]
    pub fn assert_runs_once(&self, within: Duration) -> &'static str {
        let until = Instant::now() + within;
        let place = loop {
            let places = self.runs_at();
            assert!(places.len() < 2, "the guest runs twice");
            if let Some(place) = places.first() {
                break *place;
            }
            assert!(Instant::now() < until, "the guest runs nowhere for {within:?}");
            sleep(Duration::from_millis(50));
        };
        let settled = Instant::now() + Duration::from_secs(2);
        while Instant::now() < settled {
            assert_eq!(self.runs_at(), [place]);
            sleep(Duration::from_millis(50));
        }
        let vm = if place == "source" { &self.pair.source } else { &self.pair.destination };
        let beats = vm.heartbeats();
        beats.beat_from(vm.qemu_index(), Some(Instant::now()), PATIENCE).expect("the guest beats");
        self.assert_memory_right();
        place
    }

    /// Asserts that the guest runs at the source at full speed with its old limits, its memory is right,
    /// and no control group of landfall is left.
    #[track_caller]
    pub fn assert_unharmed_at_source(&self) {
        assert_eq!(run_state(&self.pair.source), "running");
        let now = Found::of(&self.pair.source);
        let were = self.before.limits_as_they_were(&now.limits);
        assert_eq!(now.limits, were, "limits are not as they were");
        assert_eq!(now.parameters, self.before.parameters);
        assert_eq!(now.capabilities, self.before.capabilities);
        self.assert_nothing_left();
        let after = Instant::now();
        let place = self.pair.source.qemu_index();
        let beats = self.pair.source.heartbeats();
        beats.beat_from(place, Some(after), PATIENCE).expect("the guest beats at the source");
        self.assert_memory_right();
    }

    /// Asserts that the guest runs at the destination, its memory is right, and no control group of
    /// landfall is left.
    #[track_caller]
    pub fn assert_landed(&self) {
        assert_eq!(run_state(&self.pair.destination), "running");
        let beats = self.pair.source.heartbeats();
        let place = self.pair.destination.qemu_index();
        beats.beat_from(place, Some(Instant::now()), PATIENCE).expect("the guest beats there");
        let now = limits(self.pid());
        assert_eq!(now, self.before.limits_as_they_were(&now));
        self.assert_nothing_left();
        self.assert_memory_right();
    }

    #[track_caller]
    pub fn assert_memory_right(&self) {
        let beats = self.pair.source.heartbeats();
        let MemoryCheck { errors, pages, .. } = beats.verify(PATIENCE).unwrap();
        assert!(pages > 0);
        assert_eq!(errors, 0);
        assert_eq!(beats.corruptions(), []);
    }

    /// Returns landfall's control groups for the guest.
    pub fn groups_left(&self) -> Vec<PathBuf> {
        groups_left(self.pid())
    }

    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = self.groups_left();
        assert_eq!(left, Vec::<PathBuf>::new(), "control groups were left behind");
    }
}

impl Found {
    pub fn of(vm: &Vm) -> Found {
        let mut probe = vm.raw_qmp().unwrap();
        Found {
            limits: limits(i32::try_from(vm.pid()).unwrap()),
            parameters: probe.run("query-migrate-parameters").unwrap(),
            capabilities: probe.run("query-migrate-capabilities").unwrap(),
        }
    }

    /// Returns the old limits of the threads that exist now: QEMU starts and ends threads at any time.
    pub fn limits_as_they_were(
        &self,
        now: &BTreeMap<i32, Option<String>>,
    ) -> BTreeMap<i32, Option<String>> {
        let home = self.limits.values().next().cloned().flatten();
        let was = |tid: &i32| (*tid, self.limits.get(tid).cloned().flatten().or(home.clone()));
        now.keys().map(was).collect()
    }
}

/// Returns a small form of the pathological guest of 2015, which dirties its whole working set in
/// milliseconds.
pub fn sweep(mib: u64) -> GuestSpec {
    small(Workload::Sweep, mib)
}

/// Returns a guest that writes at random.
pub fn random(mib: u64, pages_per_second: u64) -> GuestSpec {
    small(Workload::Random { rate: PagesPerSecond(pages_per_second) }, mib)
}

pub fn small(kind: Workload, mib: u64) -> GuestSpec {
    GuestSpec {
        memory: Bytes::mib(mib * 2 + 32),
        working_set: Bytes::mib(mib),
        ..GuestSpec::new(kind)
    }
}

pub fn run_state(vm: &Vm) -> String {
    word(&mut vm.raw_qmp().unwrap(), "query-status")
}

pub fn migration_status(vm: &Vm) -> String {
    word(&mut vm.raw_qmp().unwrap(), "query-migrate")
}

fn word(probe: &mut RawQmp, command: &str) -> String {
    probe.run(command).unwrap()["status"].as_str().unwrap_or("none").to_owned()
}

#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until, "{what}: not within {PATIENCE:?}");
        sleep(Duration::from_millis(5));
    }
}

/// Returns the control group of the cpu controller for each thread of a process, with its limits.
pub fn limits(pid: i32) -> BTreeMap<i32, Option<String>> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return BTreeMap::new() };
    let tids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
    // A thread that has ended in the meantime has none.
    tids.map(|tid| (tid, limit(pid, tid))).filter(|(_, limit)| limit.is_some()).collect()
}

fn limit(pid: i32, tid: i32) -> Option<String> {
    let groups = fs::read_to_string(format!("/proc/{pid}/task/{tid}/cgroup")).ok()?;
    let of_cpu = |line: &str| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        controllers.split(',').any(|name| name == "cpu").then(|| path.to_owned())
    };
    let path = groups.lines().find_map(of_cpu);
    let path = match path {
        Some(path) => PathBuf::from(format!("/sys/fs/cgroup/cpu{path}")),
        None => {
            let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
            PathBuf::from(format!("/sys/fs/cgroup{path}"))
        }
    };
    let files = ["cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max"];
    let values = files.map(|file| fs::read_to_string(path.join(file)).unwrap_or_default());
    Some(format!("{} {}", path.display(), values.join(" ")))
}

/// Returns landfall's control groups for a guest.
fn groups_left(pid: i32) -> Vec<PathBuf> {
    fn below(directory: &Path, name: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(name) {
                    found.push(entry.path());
                }
                below(&entry.path(), name, found);
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup/cpu"), &format!("landfall-{pid}-"), &mut found);
    found
}

/// Waits until no other scene runs on this machine.
pub fn take_turn() -> fs::File {
    landfall_testguest::take_turn().unwrap()
}
