//! Disks that move along with the guest, by a program beside landfall: nothing of them is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use landfall_core::units::ByteRate;
use landfall_testguest::{Incoming, LinkRelay, RawQmp, Vm, VmBuilder};
use serde_json::{Value, json};

use crate::scene::{PATIENCE, Scene, migration_status, random, run_state, wait_until};

const DISK_BYTES: usize = 16 << 20;

/// A guest with a disk at either end, and its mirror from one to the other.
struct DiskScene {
    scene: Scene,
    folder: tempfile::TempDir,
}

fn disk(builder: VmBuilder, path: &Path) -> VmBuilder {
    let file = format!("driver=file,node-name=file0,filename={}", path.display());
    builder.arguments([
        "-blockdev",
        &file,
        "-blockdev",
        "driver=raw,node-name=disk0,file=file0",
        "-device",
        "virtio-blk-pci,drive=disk0,id=vda",
    ])
}

impl DiskScene {
    fn boot() -> Option<DiskScene> {
        let folder = tempfile::tempdir().unwrap();
        let contents: Vec<u8> = (0..DISK_BYTES).map(|at| (at * 7 + at / 4096) as u8).collect();
        fs::write(folder.path().join("source.img"), contents).unwrap();
        fs::write(folder.path().join("destination.img"), vec![0; DISK_BYTES]).unwrap();
        let spec = random(16, 1000);
        let source = disk(Vm::builder(&spec), &folder.path().join("source.img"));
        let mut scene = Scene::with(source, ByteRate::mb(60))?;
        let heartbeats = scene.pair.source.heartbeats().clone();
        let destination = Vm::builder(&spec).heartbeats(&heartbeats).incoming(Incoming::Tcp);
        let destination = disk(destination, &folder.path().join("destination.img"));
        scene.pair.destination = destination.start().unwrap();
        let to = scene.pair.destination.incoming().unwrap().parse().unwrap();
        scene.pair.link = LinkRelay::new(to, Some(ByteRate::mb(60))).unwrap();
        Some(DiskScene { scene, folder })
    }

    // The socket serves one client at a time, so each command has a connection of its own.

    fn source(&self) -> RawQmp {
        self.scene.pair.source.raw_qmp().unwrap()
    }

    fn destination(&self) -> RawQmp {
        self.scene.pair.destination.raw_qmp().unwrap()
    }

    /// Mirrors the disk to the destination, at most this fast (bytes per second; 0 for no limit).
    fn mirror(&self, speed: u64) {
        let socket = self.folder.path().join("nbd.sock");
        let address = json!({ "type": "unix", "data": { "path": socket } });
        self.destination().run_with("nbd-server-start", json!({ "addr": address })).unwrap();
        let export = json!({
            "type": "nbd", "id": "export0", "node-name": "disk0", "name": "disk0", "writable": true
        });
        self.destination().run_with("block-export-add", export).unwrap();
        let target = json!({
            "driver": "nbd", "node-name": "target", "export": "disk0",
            "server": { "type": "unix", "path": socket }
        });
        self.source().run_with("blockdev-add", target).unwrap();
        let job = json!({
            "job-id": "mirror0", "device": "disk0", "target": "target", "sync": "full", "speed": speed
        });
        self.source().run_with("blockdev-mirror", job).unwrap();
    }

    fn jobs(&self) -> Vec<Value> {
        self.source().run("query-block-jobs").unwrap().as_array().unwrap().clone()
    }

    fn pause_before_switchover(&mut self) {
        let capability = json!([{ "capability": "pause-before-switchover", "state": true }]);
        let arguments = json!({ "capabilities": capability });
        self.source().run_with("migrate-set-capabilities", arguments).unwrap();
        self.scene.before = crate::scene::Found::of(&self.scene.pair.source);
    }

    fn wait_until_ready(&self) {
        wait_until("the mirror is ready", || self.jobs()[0]["ready"] == true);
    }

    /// The same with the disk mirrored, and QEMU told to wait for that before the switch-over.
    fn boot_with_ready_mirror() -> Option<DiskScene> {
        let mut disks = DiskScene::boot()?;
        disks.mirror(0);
        disks.wait_until_ready();
        disks.pause_before_switchover();
        Some(disks)
    }

    fn image(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn disks_are_alike(&self) -> bool {
        fs::read(self.image("source.img")).unwrap()
            == fs::read(self.image("destination.img")).unwrap()
    }
}

const OPTIONS: &[&str] = &["--policy", "progressive", "--max-bandwidth", "40MB/s"];

#[test]
fn a_guest_whose_disk_is_still_being_mirrored_is_not_moved() {
    let Some(mut disks) = DiskScene::boot() else { return };
    disks.mirror(1 << 20);
    disks.pause_before_switchover();
    let ended = disks.scene.migrate(OPTIONS);
    ended.assert(4, "refused", &["mirror0", "not ready"]);
    assert_eq!(disks.jobs().len(), 1, "the mirror goes on");
    disks.scene.assert_unharmed_at_source();
}

#[test]
fn a_ready_mirror_that_qemu_would_not_wait_for_is_refused_with_the_remedy() {
    let Some(disks) = DiskScene::boot() else { return };
    disks.mirror(0);
    disks.wait_until_ready();
    let ended = disks.scene.migrate(OPTIONS);
    ended.assert(4, "refused", &["mirror0", "pause-before-switchover"]);
    disks.scene.assert_unharmed_at_source();
}

#[test]
fn the_program_that_moves_the_disk_completes_it_before_the_switch_over() {
    let Some(disks) = DiskScene::boot_with_ready_mirror() else { return };
    let run = disks.scene.landfall(OPTIONS);
    wait_until("QEMU waits", || migration_status(&disks.scene.pair.source) == "pre-switchover");
    // What takes a program a while, counted as a stall.
    sleep(Duration::from_millis(700));
    disks.source().run_with("block-job-cancel", json!({ "device": "mirror0" })).unwrap();
    wait_until("the mirror has ended", || disks.jobs().is_empty());
    disks.destination().run_with("nbd-server-stop", json!({})).unwrap();
    disks.source().run_with("migrate-continue", json!({ "state": "pre-switchover" })).unwrap();
    let ended = run.ended();
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    assert!(ended.report["longest_stall_s"].as_f64().unwrap() > 0.7, "{ended:?}");
    disks.scene.assert_landed();
    assert!(disks.disks_are_alike());
}

#[test]
fn a_switch_over_that_is_held_beyond_the_deadline_is_cancelled_and_the_mirror_stays() {
    let Some(disks) = DiskScene::boot_with_ready_mirror() else { return };
    let options = [OPTIONS, &["--switch-over-deadline", "2s"]].concat();
    let ended = disks.scene.migrate(&options);
    ended.assert(5, "failed", &["switch-over was held", "--switch-over-deadline"]);
    assert_eq!(disks.jobs().len(), 1, "the mirror goes on");
    disks.scene.assert_unharmed_at_source();
}

#[test]
fn a_mirror_that_was_not_completed_is_not_reported_as_landed() {
    let Some(disks) = DiskScene::boot_with_ready_mirror() else { return };
    let run = disks.scene.landfall(OPTIONS);
    wait_until("QEMU waits", || migration_status(&disks.scene.pair.source) == "pre-switchover");
    disks.source().run_with("migrate-continue", json!({ "state": "pre-switchover" })).unwrap();
    let ended = run.ended();
    match migration_status(&disks.scene.pair.source).as_str() {
        // QEMU itself does not hand over a disk that a job still writes to.
        "failed" | "cancelled" => {
            assert_eq!(ended.code(), Some(5), "{ended:?}");
            assert_eq!(run_state(&disks.scene.pair.source), "running");
        }
        _ => ended.assert(6, "unknown", &["mirror0", "may differ"]),
    }
}

#[test]
fn a_guest_whose_disk_is_exported_is_not_moved() {
    let Some(disks) = DiskScene::boot() else { return };
    let socket = disks.folder.path().join("backup.sock");
    let address = json!({ "type": "unix", "data": { "path": socket } });
    disks.source().run_with("nbd-server-start", json!({ "addr": address })).unwrap();
    let export = json!({ "type": "nbd", "id": "backup0", "node-name": "disk0", "name": "disk0" });
    disks.source().run_with("block-export-add", export).unwrap();
    let ended = disks.scene.migrate(OPTIONS);
    ended.assert(4, "refused", &["backup0", "disk0", "block-export-del"]);
    disks.scene.assert_unharmed_at_source();
}

#[test]
fn a_program_of_the_operator_holds_the_switch_over_while_landfall_goes_on() {
    let Some(scene) = Scene::boot(&random(16, 1000), ByteRate::mb(60)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let program = |then: &str| {
        let path = folder.path().join("hold");
        fs::write(&path, format!("#!/bin/sh\ncat > /dev/null\n{then}\n")).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&path, executable).unwrap();
        format!("hold-switch-over={}", path.display())
    };
    let refuses = program("exit 3");
    let ended = scene.migrate(&[OPTIONS, &["--hook", &refuses]].concat());
    ended.assert(5, "cancelled", &["hold-switch-over"]);
    scene.assert_unharmed_at_source();
    let mut scene = scene;
    scene.new_destination();
    let holds = program("sleep 1");
    let ended = scene.migrate(&[OPTIONS, &["--hook", &holds]].concat());
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    let stall = ended.report["longest_stall_s"].as_f64().unwrap();
    assert!(stall > 1.0 && stall < PATIENCE.as_secs_f64(), "{ended:?}");
    scene.assert_landed();
}
