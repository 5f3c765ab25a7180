//! What landfall refuses before it changes anything, and what the user reads.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use landfall_core::units::ByteRate;
use landfall_testguest::Vm;
use serde_json::json;

use crate::scene::{Run, Scene, landfall, sweep, wait_until};

fn scene() -> Option<Scene> {
    Scene::boot(&sweep(16), ByteRate::mb(40))
}

#[test]
fn a_paused_guest_is_refused() {
    let Some(scene) = scene() else { return };
    scene.pair.source.raw_qmp().unwrap().run("stop").unwrap();
    let ended = scene.migrate(&[]);
    ended.assert(4, "refused", &["the guest is not running", "cont"]);
    scene.pair.source.raw_qmp().unwrap().run("cont").unwrap();
    scene.assert_unharmed_at_source();
}

#[test]
fn a_guest_that_is_migrating_already_is_refused_and_its_migration_goes_on() {
    let Some(scene) = scene() else { return };
    let mut probe = scene.pair.source.raw_qmp().unwrap();
    probe.run_with("migrate", json!({ "uri": scene.pair.uri() })).unwrap();
    let ended = scene.migrate(&[]);
    ended.assert(4, "refused", &["being migrated already"]);
    let status = probe.run("query-migrate").unwrap();
    assert!(["setup", "active"].contains(&status["status"].as_str().unwrap()), "{status}");
    probe.run("migrate_cancel").unwrap();
    drop(probe);
    wait_until("cancelled", || crate::scene::migration_status(&scene.pair.source) == "cancelled");
    scene.assert_unharmed_at_source();
}

#[test]
fn a_device_that_cannot_migrate_is_refused_in_qemus_words() {
    let device =
        ["-drive", "if=none,id=d,driver=null-co,size=1M", "-device", "nvme,drive=d,serial=x"];
    let source = Vm::builder(&sweep(16)).arguments(device);
    let Some(scene) = Scene::with(source, ByteRate::mb(40)) else { return };
    let ended = scene.migrate(&[]);
    ended.assert(4, "refused", &["nvme", "device"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_second_landfall_on_the_same_guest_is_refused_and_the_first_goes_on() {
    let Some(scene) = scene() else { return };
    let mut first = scene.landfall(&["--policy", "plain", "--max-time", "20s"]);
    wait_until("the migration", || crate::scene::migration_status(&scene.pair.source) == "active");
    // Over the second monitor, since the first landfall uses this one.
    let mut command = landfall();
    command
        .args(["migrate", "--json"])
        .arg(scene.pair.source.raw_qmp_socket())
        .arg("tcp:127.0.0.1:1");
    let second = Run::start(command).ended();
    second.assert(4, "refused", &["already"]);
    // Over the same monitor.
    let third = scene.migrate(&[]);
    third.assert(4, "refused", &["did not greet", "another client"]);
    assert!(first.is_running(), "the first goes on");
    first.signal(rustix::process::Signal::INT);
    first.ended().assert(5, "cancelled", &["Ctrl-C"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn without_the_right_to_write_the_control_group_nothing_is_changed() {
    let Some(scene) = scene() else { return };
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("landfall");
    std::fs::copy(env!("CARGO_BIN_EXE_landfall"), &program).unwrap();
    let runtime = directory.path().join("runtime");
    std::fs::create_dir(&runtime).unwrap();
    for path in [
        directory.path(),
        &runtime,
        &scene.pair.source.qmp_socket(),
        scene.pair.source.qmp_socket().parent().unwrap(),
    ] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    let mut command = Command::new(program);
    command.uid(65534).gid(65534).env("XDG_RUNTIME_DIR", &runtime);
    command.args(["migrate", "--json"]).arg(scene.pair.source.qmp_socket()).arg(scene.pair.uri());
    let ended = Run::start(command).ended();
    ended.assert(4, "refused", &["cgroup", "root"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_that_does_not_wait_is_refused() {
    let Some(scene) = scene() else { return };
    let other = Vm::builder(&sweep(16)).start().unwrap();
    let mut command = landfall();
    command.args(["migrate", "--json"]).arg(scene.pair.source.qmp_socket()).arg(scene.pair.uri());
    command.arg("--destination-qmp").arg(other.qmp_socket());
    Run::start(command).ended().assert(
        4,
        "refused",
        &["does not wait for a migration", "-incoming"],
    );
    scene.assert_unharmed_at_source();
}

#[test]
fn source_and_destination_the_wrong_way_round_are_noticed() {
    let Some(scene) = scene() else { return };
    let mut command = landfall();
    command
        .args(["migrate", "--json"])
        .arg(scene.pair.destination.qmp_socket())
        .arg(scene.pair.uri());
    Run::start(command).ended().assert(4, "refused", &["wrong way round"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn post_copy_without_leave_is_refused() {
    let Some(scene) = scene() else { return };
    scene.migrate(&["--policy", "post-copy"]).assert(4, "refused", &["--post-copy allow"]);
    scene.assert_unharmed_at_source();
}
