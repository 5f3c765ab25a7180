//! A destination that could not take the guest is refused before anything is changed; both QEMUs stay.

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{GuestSpec, Incoming, LinkRelay, MachineType, Vm, VmBuilder};
use serde_json::json;

use crate::scene::{Found, PATIENCE, Run, Scene, landfall, run_state, sweep};

/// A guest that works, and a destination made differently. The link leads to it.
fn scene_with(differ: impl FnOnce(&GuestSpec) -> VmBuilder) -> Option<Scene> {
    let spec = sweep(16);
    let mut scene = Scene::boot(&spec, ByteRate::mb(100))?;
    let heartbeats = scene.pair.source.heartbeats().clone();
    let destination = differ(&spec).heartbeats(&heartbeats).incoming(Incoming::Tcp);
    scene.pair.destination = destination.start().unwrap();
    let to = scene.pair.destination.incoming().unwrap().parse().unwrap();
    scene.pair.link = LinkRelay::new(to, Some(ByteRate::mb(100))).unwrap();
    Some(scene)
}

/// Migrates; asserts that it is refused with these words, and that both QEMUs are as before.
#[track_caller]
fn assert_refused(scene: &Scene, says: &[&str]) {
    let before = Found::of(&scene.pair.destination);
    let give_way = ["--policy", "plain", "--give-way", "max-stall"];
    scene.migrate(&give_way).assert(4, "refused", says);
    assert!(scene.pair.destination.is_running(), "the destination's QEMU ended");
    assert_eq!(run_state(&scene.pair.destination), "inmigrate");
    let now = Found::of(&scene.pair.destination);
    assert_eq!(now.parameters, before.parameters);
    assert_eq!(now.capabilities, before.capabilities);
}

fn set_multifd(scene: &mut Scene) {
    let multifd = json!({ "capabilities": [{ "capability": "multifd", "state": true }] });
    let mut source = scene.pair.source.raw_qmp().unwrap();
    source.run_with("migrate-set-capabilities", multifd).unwrap();
    drop(source);
    scene.before = Found::of(&scene.pair.source);
}

/// QEMU takes this one only before it waits for the guest.
fn with_multifd(spec: &GuestSpec) -> VmBuilder {
    Vm::builder(spec).arguments(["-global", "migration.x-multifd=on"])
}

#[test]
fn multifd_at_the_source_alone_is_refused() {
    let Some(mut scene) = scene_with(Vm::builder) else { return };
    set_multifd(&mut scene);
    assert_refused(&scene, &["multifd is on at the source and off", "migrate-set-capabilities"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn multifd_at_the_destination_alone_is_refused() {
    let Some(scene) = scene_with(with_multifd) else { return };
    assert_refused(&scene, &["multifd is off at the source and on at the destination"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn multifd_with_other_channels_is_refused() {
    let Some(mut scene) = scene_with(with_multifd) else { return };
    set_multifd(&mut scene);
    let mut source = scene.pair.source.raw_qmp().unwrap();
    source.run_with("migrate-set-parameters", json!({ "multifd-channels": 5 })).unwrap();
    drop(source);
    scene.before = Found::of(&scene.pair.source);
    assert_refused(&scene, &["multifd-channels is 5 at the source and 2"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_with_less_memory_is_refused() {
    let smaller = |spec: &GuestSpec| {
        let memory = Bytes(spec.memory.0 - Bytes::mib(8).0);
        Vm::builder(&GuestSpec { memory, ..spec.clone() })
    };
    let Some(scene) = scene_with(smaller) else { return };
    assert_refused(&scene, &["the memory's size is 64 MiB at the source and 56 MiB"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_with_other_vcpus_is_refused() {
    let more = |spec: &GuestSpec| Vm::builder(&GuestSpec { vcpus: spec.vcpus + 1, ..spec.clone() });
    let Some(scene) = scene_with(more) else { return };
    assert_refused(&scene, &["the number of vCPUs is 1 at the source and 2"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn a_destination_of_another_machine_is_refused() {
    let Some(scene) = scene_with(|spec| Vm::builder(spec).machine(MachineType::Q35)) else {
        return;
    };
    assert_refused(&scene, &["the machine type is pc-i440fx-", "at the source and pc-q35-"]);
    scene.assert_unharmed_at_source();
}

#[test]
fn two_ends_that_are_set_alike_are_not_refused() {
    let Some(scene) = scene_with(Vm::builder) else { return };
    scene.migrate(&["--policy", "plain", "--give-way", "max-stall"]).assert(0, "landed", &[]);
    let beats = scene.pair.source.heartbeats();
    let place = scene.pair.destination.qemu_index();
    beats.beat_from(place, None, PATIENCE).expect("the guest beats there");
    scene.assert_landed();
}

#[test]
fn the_destination_is_put_back_when_the_source_refuses_to_start() {
    let Some(scene) = scene_with(Vm::builder) else { return };
    let before = Found::of(&scene.pair.destination);
    let mut command = landfall();
    command.args(["migrate", "--json", "--probe", "0s", "--give-way", "max-stall"]);
    command.args(["--policy", "post-copy", "--post-copy", "allow"]);
    command.arg(scene.pair.source.qmp_socket()).arg("tcp:no-port").arg("--destination-qmp");
    command.arg(scene.pair.destination.qmp_socket());
    Run::start(command).ended().assert(4, "refused", &["no-port"]);
    assert_eq!(Found::of(&scene.pair.destination).capabilities, before.capabilities);
    scene.assert_unharmed_at_source();
}
