//! Whose threads landfall holds: those of the QEMU that serves the connection, and no others.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use landfall_core::units::ByteRate;
use landfall_testguest::Vm;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::scene::{Run, Scene, landfall, limits, sweep, wait_until};

/// A monitor's socket that this process serves: what is said goes to QEMU and back. `named` are the
/// threads that QEMU seems to name; `None` for its own.
struct MonitorRelay {
    socket: PathBuf,
    _folder: tempfile::TempDir,
}

impl MonitorRelay {
    fn start(to: &Path, named: Option<Vec<u32>>) -> MonitorRelay {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("monitor");
        let listener = UnixListener::bind(&socket).unwrap();
        let to = to.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                relay(client, UnixStream::connect(&to).unwrap(), named.clone());
            }
        });
        MonitorRelay { socket, _folder: folder }
    }
}

fn relay(client: UnixStream, qemu: UnixStream, named: Option<Vec<u32>>) {
    let (mut asks, mut to_qemu) = (client.try_clone().unwrap(), qemu.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut asks, &mut to_qemu);
        let _ = to_qemu.shutdown(std::net::Shutdown::Both);
    });
    let mut client = client;
    for line in BufReader::new(qemu).lines() {
        let Ok(line) = line else { break };
        let mut message: Value = serde_json::from_str(&line).unwrap();
        if let Some(named) = &named {
            name_threads(&mut message, named);
        }
        if writeln!(client, "{message}").is_err() {
            break;
        }
    }
    let _ = client.shutdown(std::net::Shutdown::Both);
}

/// Puts other threads into the answer to `query-cpus-fast`.
fn name_threads(message: &mut Value, named: &[u32]) {
    let Some(cpus) = message["return"].as_array_mut() else { return };
    for (cpu, named) in cpus.iter_mut().zip(named) {
        if let Some(thread) = cpu.get_mut("thread-id") {
            *thread = json!(named);
        }
    }
}

fn migrate(scene: &Scene, monitor: &str) -> Command {
    let mut command = landfall();
    command.args(["migrate", "--json", "--probe", "0s", "--max-time", "30s", monitor]);
    command.arg(scene.pair.uri()).arg("--destination-qmp");
    command.arg(scene.pair.destination.qmp_socket());
    command
}

fn unix(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

fn scene() -> Option<Scene> {
    Scene::boot(&sweep(16), ByteRate::mb(20))
}

#[test]
fn a_monitor_that_names_the_threads_of_another_guest_is_refused() {
    let Some(scene) = scene() else { return };
    let other = Vm::builder(&sweep(16)).start().unwrap();
    let pid = i32::try_from(other.pid()).unwrap();
    let before = limits(pid);
    let relay =
        MonitorRelay::start(&scene.pair.source.qmp_socket(), Some(other.vcpu_threads().unwrap()));
    let mut run = Run::start(migrate(&scene, &unix(&relay.socket)));
    while run.is_running() {
        assert_eq!(limits(pid), before, "the other guest was held");
    }
    run.ended().assert(4, "refused", &["--qemu-pid"]);
    assert_eq!(limits(pid), before);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_behind_a_relay_is_held_once_its_process_is_vouched_for() {
    let Some(scene) = scene() else { return };
    let relay = MonitorRelay::start(&scene.pair.source.qmp_socket(), None);
    let monitor = unix(&relay.socket);
    let refused = Run::start(migrate(&scene, &monitor)).ended();
    let served_by = format!("served by process {}", std::process::id());
    refused.assert(4, "refused", &[&served_by, &format!("--qemu-pid {}", scene.pid())]);
    scene.assert_unharmed_at_source();

    let mut wrong = migrate(&scene, &monitor);
    wrong.args(["--qemu-pid", &scene.pair.destination.pid().to_string()]);
    Run::start(wrong).ended().assert(4, "refused", &["--qemu-pid names process"]);
    scene.assert_unharmed_at_source();

    let mut right = migrate(&scene, &monitor);
    right.args(["--policy", "rfc2011", "--qemu-pid", &scene.pid().to_string()]);
    let mut run = Run::start(right);
    wait_until("the guest's own threads are held", || scene.is_held() || !run.is_running());
    run.signal(Signal::INT);
    run.ended().assert(5, "cancelled", &["Ctrl-C"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_monitor_by_tcp_is_proved_to_be_the_guests() {
    let source = Vm::builder(&sweep(16)).arguments(["-qmp", "tcp:127.0.0.1:0,server=on,wait=off"]);
    let Some(scene) = Scene::with(source, ByteRate::mb(40)) else { return };
    let devices = scene.pair.source.raw_qmp().unwrap().run("query-chardev").unwrap();
    let files = devices.as_array().unwrap().iter().filter_map(|device| device["filename"].as_str());
    let mut port = files.filter_map(|file| file.split_once("tcp:127.0.0.1:")?.1.split(',').next());
    let monitor = format!("tcp:localhost:{}", port.next_back().unwrap());
    let mut command = migrate(&scene, &monitor);
    command.args(["--give-way", "max-stall"]);
    let ended = Run::start(command).ended();
    assert!([Some(0), Some(3)].contains(&ended.code()), "{ended:?}");
    scene.assert_landed();
}
