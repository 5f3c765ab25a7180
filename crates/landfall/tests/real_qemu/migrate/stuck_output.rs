//! A terminal or a reader that takes nothing does not keep a guest waiting.

use std::process::Stdio;

use landfall_core::units::ByteRate;
use serde_json::Value;

use crate::scene::{Scene, landfall, random};

#[test]
fn a_migration_is_steered_while_standard_error_takes_no_more() {
    let Some(scene) = Scene::boot(&random(48, 20_000), ByteRate::mb(20)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let recording = folder.path().join("vm.jsonl");
    // A pipe that is full, and that is not read before landfall has ended.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let nonblocking = rustix::fs::OFlags::NONBLOCK;
    rustix::fs::fcntl_setfl(&writer, nonblocking).unwrap();
    while rustix::io::write(&writer, &[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    // A script that fails says so on standard error, at once.
    let script = folder.path().join("fails.rhai");
    std::fs::write(&script, "fn decide(view) { throw \"no\" }").unwrap();
    let mut command = landfall();
    command.args(["migrate", "--json", "--probe", "0s", "--max-bandwidth", "20MB/s"]);
    command.arg("--policy").arg(format!("script:{}", script.display()));
    command.arg("--record").arg(&recording);
    command.arg("--destination-qmp").arg(scene.pair.destination.qmp_socket());
    command.arg(scene.pair.source.qmp_socket()).arg(scene.pair.uri());
    command.args(["--give-way", "max-stall"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(writer);
    let landfall = command.spawn().unwrap();
    drop(command);
    let output = landfall.wait_with_output().unwrap();
    drop(reader);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["outcome"], "landed", "{report:#}");
    scene.assert_landed();
    let text = std::fs::read_to_string(&recording).unwrap();
    let at = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        let at = &line["sample"]["at"];
        Some(at["secs"].as_f64()? + at["nanos"].as_f64()? / 1e9)
    };
    let times: Vec<f64> = text.lines().filter_map(at).collect();
    let longest = times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
    println!("{} looks; the longest pause between two is {longest:.3} s", times.len());
    assert!(times.len() > 10 && longest < 2.0, "{} looks, {longest} s", times.len());
}
