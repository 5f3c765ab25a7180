//! A monitor whose other end is hostile: it cannot exhaust landfall, nor keep it from its other work.
//!
//! The peer is a fake, for a real QEMU cannot be made to send half a million events a second.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use landfall_qemu::qmp::{QmpAddress, QmpClient, QmpError};
use serde_json::Value;

/// Listens as a monitor would, negotiates, and then has `behave` do as it likes.
fn hostile_monitor(path: &Path, behave: impl FnOnce(UnixStream) + Send + 'static) -> QmpAddress {
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let greeting = r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 0, "major": 10}}, "capabilities": []}}"#;
        writeln!(stream, "{greeting}").unwrap();
        let mut asked = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut asked).unwrap();
        writeln!(stream, r#"{{"return": {{}}, "id": 1}}"#).unwrap();
        behave(stream);
    });
    QmpAddress::Unix(path.to_owned())
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_flood_of_events_takes_no_memory_and_leaves_the_clock_running() {
    let folder = tempfile::tempdir().unwrap();
    let address = hostile_monitor(&folder.path().join("qmp"), |mut stream| {
        let events = r#"{"event": "STOP", "data": {"x": [1, 2, 3]}}
{"event": "RESUME"}
{"event": "NOISE", "data": "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"}
"#
        .repeat(2000);
        while stream.write_all(events.as_bytes()).is_ok() {}
    });
    runtime().block_on(async {
        // Not read: a caller that is busy.
        let (_monitor, events) = QmpClient::connect(&address).await.unwrap();
        let before = resident_kib();
        let begun = Instant::now();
        let mut ticks = 0;
        while begun.elapsed() < Duration::from_secs(5) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            ticks += 1;
        }
        let grown = resident_kib().saturating_sub(before);
        println!("{ticks} ticks of 20 ms in 5 s; {grown} KiB more; {} events wait", events.len());
        assert!(grown < 50_000, "{grown} KiB");
        // At rest there are some 240; one every 200 ms is what steering needs.
        assert!(ticks > 25, "{ticks}");
    });
}

#[test]
fn a_line_without_an_end_closes_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let address = hostile_monitor(&folder.path().join("qmp"), |mut stream| {
        let piece = vec![b'['; 1 << 16];
        while stream.write_all(&piece).is_ok() {}
    });
    runtime().block_on(async {
        let (mut monitor, _events) = QmpClient::connect(&address).await.unwrap();
        let before = resident_kib();
        let answer = monitor.execute("query-status", Value::Null).await;
        assert!(matches!(answer, Err(QmpError::Closed { .. })), "{answer:?}");
        let grown = resident_kib().saturating_sub(before);
        assert!(grown < 20_000, "{grown} KiB");
    });
}
