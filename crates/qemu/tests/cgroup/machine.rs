//! Victims and groups for the tests: a process with spinning threads, and cgroups that go away.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use landfall_qemu::cgroup::UndoStep;
use landfall_qemu::cgroup::parse;
use landfall_qemu::procfs::parse::{cgroup_mounts, schedstat};

/// Names the role that a copy of the test binary plays.
const ROLE: &str = "LANDFALL_CGROUP_TEST_ROLE";

/// The start of the line that the copy answers with; the test harness writes lines of its own.
const ANSWER: &str = "answer: ";

/// One test at a time, over processes too: they measure CPU time.
pub struct Turn(#[allow(dead_code)] fs::File);

/// Waits for the turn; `None`, with the reason printed, where groups cannot be made.
pub fn turn() -> Option<Turn> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: making cgroups takes root");
        return None;
    }
    if top().is_none() {
        println!("skipped: no cpu controller is mounted");
        return None;
    }
    let lock = fs::File::create(std::env::temp_dir().join("landfall-cgroup-test.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    Some(Turn(lock))
}

/// Where the cpu controller is mounted, and whether that is cgroup v2.
pub fn top() -> Option<(PathBuf, bool)> {
    let mounts = cgroup_mounts(&fs::read_to_string("/proc/self/mountinfo").unwrap());
    let named = |names: &Vec<String>| names.iter().any(|name| name == "cpu");
    let v1 = mounts.iter().find(|mount| mount.v1_controllers.as_ref().is_some_and(named));
    if let Some(mount) = v1 {
        return Some((mount.point.clone(), false));
    }
    let v2 = mounts.into_iter().find(|mount| mount.v1_controllers.is_none())?;
    let controllers = fs::read_to_string(v2.point.join("cgroup.controllers")).ok()?;
    controllers.split_whitespace().any(|name| name == "cpu").then_some((v2.point, true))
}

/// Makes a group that takes threads: where `cpuset` is in the hierarchy, with all CPUs of the group above.
fn create_group(path: &Path) {
    fs::create_dir(path).unwrap();
    for name in ["cpuset.cpus", "cpuset.mems"] {
        if let Ok(all) = fs::read_to_string(path.with_file_name(name))
            && fs::metadata(path.join("tasks")).is_ok()
        {
            put(&path.join(name), all.trim_end());
        }
    }
}

/// A cgroup that is removed, with what is below it, when it is dropped.
pub struct TestGroup {
    pub path: PathBuf,
    pub v2: bool,
}

impl TestGroup {
    /// A group right below the root.
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let (top, v2) = top().unwrap();
        if v2 {
            put(&top.join("cgroup.subtree_control"), "+cpu");
        }
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = top.join(format!("lftest-{}-{next}", std::process::id()));
        create_group(&path);
        Self { path, v2 }
    }

    /// A group for single threads below this one, as libvirt makes `vcpu0`.
    pub fn threads_child(&self, name: &str) -> PathBuf {
        let child = self.path.join(name);
        create_group(&child);
        if self.v2 {
            put(&self.path.join("cgroup.subtree_control"), "+cpu");
            put(&child.join("cgroup.type"), "threaded");
        }
        child
    }

    /// The file that takes single threads.
    pub fn threads_file(&self, group: &Path) -> PathBuf {
        group.join(if self.v2 { "cgroup.threads" } else { "tasks" })
    }

    /// The threads of a group.
    pub fn threads(&self, group: &Path) -> Vec<i32> {
        parse::thread_ids(&fs::read_to_string(self.threads_file(group)).unwrap())
    }

    /// Limits a group, in microseconds.
    pub fn limit(&self, group: &Path, quota: u64, period: u64) {
        if self.v2 {
            put(&group.join("cpu.max"), &format!("{quota} {period}"));
        } else {
            put(&group.join("cpu.cfs_period_us"), &period.to_string());
            put(&group.join("cpu.cfs_quota_us"), &quota.to_string());
        }
    }

    /// Quota and period of a group as its files have them; -1 for no limit.
    pub fn limit_of(&self, group: &Path) -> (i64, i64) {
        if self.v2 {
            let (quota, period) = parse::cpu_max(&get(&group.join("cpu.max"))).unwrap();
            (quota.map_or(-1, |quota| quota as i64), period as i64)
        } else {
            let number = |name: &str| get(&group.join(name)).trim().parse().unwrap();
            (number("cpu.cfs_quota_us"), number("cpu.cfs_period_us"))
        }
    }

    /// The file that sets how much unused quota may be saved up.
    pub fn burst_file(&self, group: &Path) -> PathBuf {
        group.join(if self.v2 { "cpu.max.burst" } else { "cpu.cfs_burst_us" })
    }

    /// Returns every file that a hold could have changed, in this group and below.
    pub fn snapshot(&self) -> BTreeMap<PathBuf, String> {
        const WRITTEN: [&str; 9] = [
            "cpu.cfs_quota_us",
            "cpu.cfs_period_us",
            "cpu.cfs_burst_us",
            "cpu.shares",
            "cpu.max",
            "cpu.max.burst",
            "cgroup.type",
            "cgroup.subtree_control",
            "cgroup.controllers",
        ];
        let mut found = BTreeMap::new();
        let mut groups = vec![self.path.clone()];
        while let Some(group) = groups.pop() {
            for name in WRITTEN {
                let file = group.join(name);
                if let Ok(text) = fs::read_to_string(&file) {
                    found.insert(file, text);
                }
            }
            let threads: BTreeSet<i32> = self.threads(&group).into_iter().collect();
            found.insert(self.threads_file(&group), format!("{threads:?}"));
            groups.extend(children(&group));
        }
        found
    }
}

impl Drop for TestGroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.path.exists() && Instant::now() < deadline {
            remove_all(&self.path);
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn remove_all(group: &Path) {
    children(group).iter().for_each(|child| remove_all(child));
    let _ = fs::remove_dir(group);
}

/// The groups right below a group.
pub fn children(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

pub fn put(file: &Path, value: &str) {
    fs::write(file, value)
        .unwrap_or_else(|error| panic!("{value:?} to {}: {error}", file.display()));
}

pub fn get(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// A process with spinning threads; killed when it is dropped.
pub struct Victim {
    child: Child,
    pub pid: i32,
    pub tids: Vec<i32>,
}

impl Victim {
    /// Starts it with `threads` spinning threads, all in `group`.
    pub fn start(threads: usize, group: &TestGroup) -> Self {
        Self::of(&format!("spin {threads}"), group)
    }

    /// Starts one whose threads sleep.
    pub fn asleep(threads: usize, group: &TestGroup) -> Self {
        Self::of(&format!("sleep {threads}"), group)
    }

    fn of(what: &str, group: &TestGroup) -> Self {
        let mut child = role(what).spawn().unwrap();
        let pid = child.id() as i32;
        let answer = answer(&mut child);
        let tids = answer.split_whitespace().map(|tid| tid.parse().unwrap()).collect();
        put(&group.path.join("cgroup.procs"), &pid.to_string());
        Self { child, pid, tids }
    }

    /// Kills it and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        self.kill();
    }
}

/// CPU time that each thread got over a while, as a share of one CPU.
pub fn shares(victim: &Victim, over: Duration) -> Vec<f64> {
    let ran = |tid: &i32| {
        let file = format!("/proc/{}/task/{tid}/schedstat", victim.pid);
        schedstat(&get(Path::new(&file))).unwrap().cpu_time
    };
    let (start, before): (_, Vec<_>) = (Instant::now(), victim.tids.iter().map(ran).collect());
    thread::sleep(over);
    let after = victim.tids.iter().map(ran);
    let wall = start.elapsed();
    after.zip(before).map(|(after, before)| (after - before).div_duration_f64(wall)).collect()
}

/// Applies undo steps in another process, from their record alone.
pub fn undo_elsewhere(steps: &[UndoStep]) -> String {
    let record = serde_json::to_string(steps).unwrap();
    let mut child = role(&format!("undo {record}")).spawn().unwrap();
    finish(&mut child)
}

/// Calls `find_cpu_lever` in a process of user `nobody` and returns the text of its error.
pub fn find_cpu_lever_as_nobody(pid: i32, tid: i32) -> String {
    const NOBODY: u32 = 65534;
    // The build's directory may be closed to others, a copy in the temporary one is not.
    let copy = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let mut command = role_of(&copy, &format!("find-lever {pid} {tid}"));
    let mut child = command.uid(NOBODY).gid(NOBODY).current_dir("/").spawn().unwrap();
    finish(&mut child)
}

fn finish(child: &mut Child) -> String {
    let answer = answer(child);
    let status: ExitStatus = child.wait().unwrap();
    assert!(status.success(), "{status}");
    answer
}

fn role(role: &str) -> Command {
    role_of(&std::env::current_exe().unwrap(), role)
}

/// This binary again, told to run only the test that plays the role.
fn role_of(binary: &Path, role: &str) -> Command {
    let mut command = Command::new(binary);
    command.args(["play_a_role", "--exact", "--ignored", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

fn answer(child: &mut Child) -> String {
    let lines = BufReader::new(child.stdout.as_mut().unwrap()).lines().map_while(Result::ok);
    let mut answers = lines.filter_map(|line| Some(line.split_once(ANSWER)?.1.to_owned()));
    answers.next().expect("the copy of the test binary gives an answer")
}

/// What the copy does.
pub fn play_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let (name, rest) = role.split_once(' ').unwrap();
    match name {
        "spin" => run_threads(rest.parse().unwrap(), || _ = std::hint::black_box(0)),
        "sleep" => run_threads(rest.parse().unwrap(), || thread::sleep(Duration::from_secs(1))),
        "undo" => {
            let steps: Vec<UndoStep> = serde_json::from_str(rest).unwrap();
            let failures: Vec<_> = steps.iter().filter_map(|step| step.apply().err()).collect();
            println!("{ANSWER}{failures:?}");
        }
        "find-lever" => {
            let ids: Vec<i32> = rest.split(' ').map(|id| id.parse().unwrap()).collect();
            match landfall_qemu::cgroup::find_cpu_lever(ids[0], &ids[1..]) {
                Ok(_) => println!("{ANSWER}granted"),
                Err(error) => println!("{ANSWER}{error}"),
            }
        }
        other => panic!("no such role: {other}"),
    }
}

/// Runs threads until standard input ends, which it does when the parent dies, however it dies.
fn run_threads(threads: usize, work: fn()) {
    let (send, receive) = std::sync::mpsc::channel();
    for _ in 0..threads {
        let send = send.clone();
        thread::spawn(move || {
            send.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            loop {
                work();
            }
        });
    }
    let tids: Vec<String> = receive.iter().take(threads).map(|tid| tid.to_string()).collect();
    println!("{ANSWER}{}", tids.join(" "));
    let _ = std::io::stdin().lines().count();
    std::process::exit(0);
}
