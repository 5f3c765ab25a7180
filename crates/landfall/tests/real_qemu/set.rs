//! `landfall set`: settings changed while a migration runs, and clients that try to disturb it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use landfall_testguest::{agrees_once_in_three, claim};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::{Run, Scene, landfall, limits, migration_status, random, sweep, wait_until};

/// Pages per second that are four times a link of 20 MB/s.
const TOO_FAST: u64 = 4 * 20_000_000 / 4096;

fn set(guest: &str, options: &[&str]) -> Output {
    landfall().arg("set").arg(guest).args(options).output().unwrap()
}

/// Asserts that the change was made and returns what landfall printed as JSON.
#[track_caller]
fn set_well(guest: &str, options: &[&str]) -> Value {
    let output = set(guest, &[options, &["--json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn source(scene: &Scene) -> String {
    scene.pair.source.qmp_socket().display().to_string()
}

/// Returns the sockets of the landfalls that steer this guest.
fn sockets(scene: &Scene) -> Vec<PathBuf> {
    let own = format!("{}-", scene.pid());
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let runtime = runtime.filter(|_| !rustix::process::geteuid().is_root());
    let directory = runtime.unwrap_or("/run".into()).join("landfall");
    let paths = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_its = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with(&own) && name.ends_with(".sock")
    };
    paths.filter(is_its).collect()
}

fn sent(scene: &Scene) -> u64 {
    let answer = scene.pair.source.raw_qmp().unwrap().run("query-migrate").unwrap();
    answer["ram"]["transferred"].as_u64().unwrap_or_default()
}

/// Measures the bytes per second on the wire over a while.
fn rate(scene: &Scene, over: Duration) -> f64 {
    let (from, before) = (Instant::now(), sent(scene));
    sleep(over);
    (sent(scene) - before) as f64 / from.elapsed().as_secs_f64()
}

/// Measures over a while which share of a CPU the quota let the guest's vCPU have. The share relates to
/// CPU time plus throttled time, so other load on the machine does not count.
fn let_run(scene: &Scene, over: Duration) -> f64 {
    let thread = scene.pair.source.vcpu_threads().unwrap()[0];
    let counters = || {
        (scene.pair.source.cpu_time(thread).unwrap(), kept_from(scene, thread.try_into().unwrap()))
    };
    let (got, kept) = counters();
    sleep(over);
    let now = counters();
    let (got, kept) = (now.0.saturating_sub(got), now.1.saturating_sub(kept));
    got.as_secs_f64() / (got + kept).as_secs_f64()
}

/// Returns how long the quota of a thread's group has throttled it, by the kernel's count.
fn kept_from(scene: &Scene, thread: i32) -> Duration {
    let limits = limits(scene.pid());
    let group = limits[&thread].as_ref().unwrap().split(' ').next().unwrap();
    let stat = fs::read_to_string(Path::new(group).join("cpu.stat")).unwrap();
    let value = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|value| value.trim().parse::<u64>().ok())
    };
    let micros = value("throttled_usec").map(Duration::from_micros);
    micros.or_else(|| value("throttled_time").map(Duration::from_nanos)).unwrap()
}

/// The migration is under way and can be spoken to.
fn under_way(scene: &Scene) {
    wait_until("the migration", || migration_status(&scene.pair.source) == "active");
    wait_until("the socket", || sockets(scene).len() == 1);
}

/// The recording is decided the same again and tells these changes.
#[track_caller]
fn assert_replayed(file: &Path, told: &[&str]) {
    let replay = |options: &[&str]| {
        let output = landfall().arg("replay").arg(file).args(options).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(replay(&["--check"]).contains("decisions are the same again"));
    let all = replay(&["--json"]);
    for change in told {
        assert!(all.contains(change), "{change}: {all}");
    }
}

#[test]
fn a_bandwidth_lowered_on_the_way_is_what_leaves_from_then_on_and_is_put_back() {
    let Some(scene) = Scene::boot(&random(256, 100), ByteRate::mb(60)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.jsonl");
    let record = ["--policy", "plain", "--max-bandwidth", "40MB/s", "--record"];
    let run = scene.landfall(&[&record[..], &[file.to_str().unwrap()]].concat());
    under_way(&scene);
    let before = rate(&scene, Duration::from_secs(1));
    let told = set_well(&source(&scene), &["--max-bandwidth", "10MB/s"]);
    assert_eq!(
        (&told["was"]["max-bandwidth"], &told["now"]["max-bandwidth"]),
        (&"40MB/s".into(), &"10MB/s".into())
    );
    sleep(Duration::from_millis(300));
    let after = rate(&scene, Duration::from_millis(1500));
    println!("{:.1} MB/s, lowered to {:.1} MB/s", before / 1e6, after / 1e6);
    assert!(after < 11.5e6 && after > 5e6 && before > 2.0 * after, "{before} {after}");

    // By its process as well as by its monitor; and back to what it was before landfall.
    let own = set_well(&scene.pid().to_string(), &["--max-bandwidth", "none"]);
    assert_eq!(own["now"]["max-bandwidth"], "none");
    let parameters = scene.pair.source.raw_qmp().unwrap().run("query-migrate-parameters").unwrap();
    assert_eq!(parameters["max-bandwidth"], scene.before.parameters["max-bandwidth"]);
    set_well(&source(&scene), &["--max-bandwidth", "10MB/s"]);

    let cancelled = set_well(&source(&scene), &["--cancel"]);
    assert_eq!(cancelled["cancelling"], true);
    let ended = run.ended();
    ended.assert(5, "cancelled", &["from outside"]);
    assert_eq!(ended.report["changes"].as_array().unwrap().len(), 3, "{:#}", ended.report);
    scene.assert_unharmed_at_source();
    assert_eq!(sockets(&scene), Vec::<PathBuf>::new());
    assert_replayed(&file, &["--max-bandwidth 10MB/s (was 40MB/s)"]);
}

#[test]
fn what_left_before_a_bandwidth_was_lowered_is_not_held_against_it() {
    let Some(scene) = Scene::boot(&random(64, 100), ByteRate::mb(60)) else { return };
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "40MB/s"]);
    under_way(&scene);
    sleep(Duration::from_millis(500));
    set_well(&source(&scene), &["--max-bandwidth", "10MB/s"]);
    let ended = run.ended();
    ended.assert(0, "landed", &[]);
    scene.assert_landed();
    let kept = &ended.report["requirements"][0];
    assert_eq!((&kept["asked"], &kept["kept"]), (&10e6.into(), &true.into()), "{kept}");
    println!("{kept}");
}

#[test]
fn a_change_that_cannot_be_kept_gives_the_guest_back_unharmed() {
    let Some((scene, run, _)) = endless() else { return };
    sleep(Duration::from_secs(1));
    set_well(&source(&scene), &["--max-time", "500ms"]);
    run.ended().assert(5, "cancelled", &["--max-time 500 ms is over"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_floor_raised_on_the_way_gives_the_guest_its_cpu_within_a_second() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&random(160, TOO_FAST), ByteRate::mb(20))?;
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("recording.jsonl");
        let law = ["--policy", "rfc2011", "--aggression", "0.6", "--max-bandwidth", "20MB/s"];
        let record = ["--record", file.to_str().unwrap()];
        let mut run = scene.landfall(&[&law[..], &record].concat());
        wait_until("the guest is held", || scene.is_held() || !run.is_running());
        let before = let_run(&scene, Duration::from_millis(700));
        set_well(&source(&scene), &["--min-cpu", "60%"]);
        sleep(Duration::from_millis(300));
        let after = let_run(&scene, Duration::from_millis(700));
        set_well(&source(&scene), &["--min-cpu", "0%", "--aggression", "0.9"]);
        sleep(Duration::from_millis(300));
        let again = let_run(&scene, Duration::from_millis(700));
        run.signal(Signal::INT);
        run.ended().assert(5, "cancelled", &["Ctrl-C"]);
        scene.assert_unharmed_at_source();
        assert_replayed(&file, &["--min-cpu 60% (was 0%)", "--aggression 0.9 (was 0.6)"]);
        let figures = format!("held {before:.2}, --min-cpu 60% {after:.2}, lifted {again:.2}");
        println!("{figures}");
        let follows = after > 0.57 && before < 0.8 * after && again < 0.5 * after;
        Some(claim(follows, figures))
    });
}

#[test]
fn a_stall_allowed_on_the_way_lands_a_guest_that_would_not_have() {
    let Some(scene) = Scene::boot(&sweep(64), ByteRate::mb(60)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("recording.jsonl");
    let run = scene.landfall(&["--max-bandwidth", "40MB/s", "--record", file.to_str().unwrap()]);
    under_way(&scene);
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    wait_until("a pass that does not land it", || {
        let answer = probe.run("query-migrate").unwrap();
        answer["ram"]["dirty-sync-count"].as_u64() > Some(1)
    });
    drop(probe);
    let shown = set_well(&source(&scene), &[]);
    assert_eq!((&shown["was"], &shown["now"]["max-stall"]), (&Value::Null, &"300ms".into()));
    assert_eq!(shown["policy"], "predictive");
    let table = set("landfall-source", &["--max-stall", "6s", "--aggression", "1.0"]);
    println!("{}", String::from_utf8_lossy(&table.stdout));
    assert_eq!(table.status.code(), Some(0), "{table:?}");
    let ended = run.ended();
    ended.assert(0, "landed", &[]);
    scene.assert_landed();
    let stall = &ended.report["requirements"][1];
    assert_eq!((&stall["name"], &stall["asked"]), (&"max-stall".into(), &6.0.into()));
    assert!(ended.number("longest_stall_s") > 0.3, "{:#}", ended.report);
    let changes: Vec<&str> = ended.report["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["name"].as_str())
        .collect();
    assert_eq!(changes, ["max-stall", "aggression"]);
    assert_replayed(&file, &["--max-stall 6s (was 300ms)", "--aggression 1 (was 0.5)"]);
}

#[test]
fn a_stall_that_qemu_itself_keeps_is_changed_there_too() {
    let Some(scene) = Scene::boot(&sweep(32), ByteRate::mb(60)) else { return };
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "40MB/s"]);
    under_way(&scene);
    sleep(Duration::from_secs(2));
    assert_eq!(migration_status(&scene.pair.source), "active", "it does not land by itself");
    set_well(&source(&scene), &["--max-stall", "5s"]);
    run.ended().assert(0, "landed", &[]);
    scene.assert_landed();
}

/// Sends one line to a landfall and returns its answer.
fn say(path: &Path, line: &str) -> Value {
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(format!("{line}\n").as_bytes()).unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{line}: {answer:?}: {error}"))
}

/// Starts a migration that runs until it is ended; returns its control socket too.
fn endless() -> Option<(Scene, Run, PathBuf)> {
    let scene = Scene::boot(&random(160, 100), ByteRate::mb(60))?;
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "5MB/s"]);
    under_way(&scene);
    let path = sockets(&scene).remove(0);
    Some((scene, run, path))
}

#[test]
fn what_is_refused_changes_nothing_and_says_what_to_do() {
    let Some((scene, run, path)) = endless() else { return };
    let before = set_well(&source(&scene), &[])["now"].clone();
    for (line, says) in [
        (
            json!({ "command": "set", "demands": { "min-cpu": "60%", "max-stall": "banana" } }),
            "300ms",
        ),
        (json!({ "command": "set", "demands": { "speed": "high" } }), "max-bandwidth"),
        (json!({ "command": "set", "demands": { "max-bandwidth": "0MB/s" } }), "none"),
        (json!({ "command": "shoot" }), "show"),
        (json!(["set"]), "show"),
    ] {
        let answer = say(&path, &line.to_string());
        let reason = answer["reason"].as_str().unwrap_or_default();
        assert!(answer["answer"] == "refused" && reason.contains(says), "{line}: {answer}");
    }
    for (guest, options, code, says) in [
        (source(&scene), vec!["--max-stall", "300"], 2, "300ms"),
        ("unix:/nowhere/vm.qmp".to_owned(), vec!["--max-stall", "1s"], 1, "what is being steered"),
    ] {
        let output = set(&guest, &options);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert!(stderr.contains(says), "{stderr}");
    }
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = directory.path().join("landfall");
    fs::copy(env!("CARGO_BIN_EXE_landfall"), &program).unwrap();
    let mut stranger = Command::new(program);
    stranger.uid(65534).gid(65534).env_remove("XDG_RUNTIME_DIR").arg("set").arg(source(&scene));
    let output = stranger.args(["--max-stall", "1s"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("run it as root"), "{output:?}");
    assert_eq!(set_well(&source(&scene), &[])["now"], before);
    run.signal(Signal::INT);
    let ended = run.ended();
    ended.assert(5, "cancelled", &["Ctrl-C"]);
    assert_eq!(ended.report.get("changes"), None);
    scene.assert_unharmed_at_source();
}

#[test]
fn hostile_clients_neither_delay_the_steering_nor_lock_out_others() {
    let Some((scene, run, path)) = endless() else { return };
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    let silent: Vec<UnixStream> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let half = UnixStream::connect(&path).unwrap();
    (&half).write_all(br#"{"command":"#).unwrap();
    for garbage in [vec![0xff; 100], vec![b'['; 3000], vec![b'x'; 1 << 20], vec![b'\n'; 1000]] {
        let mut stream = UnixStream::connect(&path).unwrap();
        // The server may close the connection before everything is written.
        let _ = stream.write_all(&garbage).and_then(|()| stream.write_all(b"\n"));
        let _ = stream.read(&mut [0; 1]);
    }
    // A client that asks again and again and never reads an answer.
    let mut deaf = UnixStream::connect(&path).unwrap();
    deaf.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while deaf.write_all(b"{\"command\":\"show\"}\n").is_ok() {}
    let at = |shown: Value| shown["progress"]["at_s"].as_f64().unwrap();
    let asked = Instant::now();
    let seen = at(set_well(&source(&scene), &[]));
    sleep(Duration::from_secs(1));
    let later = at(set_well(&source(&scene), &[]));
    let passed = asked.elapsed().as_secs_f64();
    assert!(later - seen > passed - 1.0 && later - seen > 0.5, "{seen} {later} in {passed} s");
    set_well(&source(&scene), &["--max-bandwidth", "6MB/s"]);
    drop((silent, half, deaf));
    run.signal(Signal::INT);
    run.ended().assert(5, "cancelled", &["Ctrl-C"]);
    scene.assert_unharmed_at_source();
    assert_eq!(sockets(&scene), Vec::<PathBuf>::new());
}

#[test]
fn the_socket_of_a_killed_landfall_does_not_block_the_next() {
    let Some((mut scene, mut run, path)) = endless() else { return };
    run.signal(Signal::KILL);
    run.wait();
    let output = set(&source(&scene), &["--max-stall", "1s"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no landfall is steering"));
    // Standard error closes when the guardian has restored everything and ended.
    let _ = run.ended();
    scene.assert_unharmed_at_source();
    assert!(!path.exists(), "the guardian clears the socket away");
    // What is left where the guardian dies as well: a file that nothing listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    scene.new_destination();
    let run = scene.landfall(&["--policy", "plain", "--max-bandwidth", "5MB/s"]);
    under_way(&scene);
    set_well(&source(&scene), &["--max-bandwidth", "none"]);
    run.ended().assert(0, "landed", &[]);
    scene.assert_landed();
    assert!(!path.exists());
}
