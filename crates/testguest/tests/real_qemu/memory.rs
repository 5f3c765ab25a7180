//! A single bit that is not what it must be does not go unnoticed.

use crate::common::{PATIENCE, SMALL_PAGES, random, small, start, wait_until};
use landfall_core::units::Bytes;
use landfall_testguest::{GuestSpec, Vm, Workload};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

const PAGE: u64 = 4096;

/// A guest whose memory lies in a file, and the file.
fn guest_in_a_file(spec: &GuestSpec) -> Option<(Vm, File, tempfile::TempDir)> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("memory");
    let vm = start(Vm::builder(spec).memory_file(&path))?;
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    Some((vm, file, directory))
}

fn flip_a_bit(file: &File, address: u64) {
    let mut byte = [0];
    file.read_exact_at(&mut byte, address).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], address).unwrap();
}

#[test]
fn a_full_check_finds_a_flipped_bit_names_it_and_mends_it() {
    let spec = GuestSpec { cold: Bytes::mib(1), ..small(Workload::Idle) };
    let Some((vm, file, _directory)) = guest_in_a_file(&spec) else { return };
    let header = vm.heartbeats().ready(PATIENCE).unwrap();
    assert_eq!(vm.heartbeats().verify(PATIENCE).unwrap().errors, 0);
    // In the last word of the last cold page, which nothing but a full check ever reads.
    let page = SMALL_PAGES + 255;
    flip_a_bit(&file, header.base + page * PAGE + 511 * 8);
    let verified = vm.heartbeats().verify(PATIENCE).unwrap();
    assert_eq!((verified.pages, verified.errors), (SMALL_PAGES + 256, 1));
    let complaints = vm.heartbeats().corruptions();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].text.contains(&format!("page={page} slot=511")), "{complaints:?}");
    assert_eq!(vm.heartbeats().verify(PATIENCE).unwrap().errors, 0);
}

#[test]
fn work_going_on_finds_a_flipped_bit_by_itself() {
    // Few pages, so that their turn comes often: a page shows another word at each of 511 visits.
    let spec = GuestSpec { working_set: Bytes(64 * PAGE), ..random(100_000) };
    let Some((vm, file, _directory)) = guest_in_a_file(&spec) else { return };
    let header = vm.heartbeats().ready(PATIENCE).unwrap();
    let complaint_about = |slot| {
        let name = format!("page=7 slot={slot} ");
        vm.heartbeats().corruptions().iter().any(|line| line.text.contains(&name))
    };
    flip_a_bit(&file, header.base + 7 * PAGE + 300 * 8);
    wait_until("a complaint about a word", || complaint_about(300));
    // The stamp is written at each visit, so a flip may be written over before it is seen.
    wait_until("a complaint about the stamp", || {
        flip_a_bit(&file, header.base + 7 * PAGE);
        complaint_about(0)
    });
}

#[test]
fn a_guest_that_finds_much_wrong_complains_briefly_and_works_on() {
    let Some((vm, file, _directory)) = guest_in_a_file(&small(Workload::Idle)) else { return };
    let header = vm.heartbeats().ready(PATIENCE).unwrap();
    file.write_all_at(&[0xa5; 8 * 4096], header.base + 100 * PAGE).unwrap();
    let verified = vm.heartbeats().verify(PATIENCE).unwrap();
    assert_eq!(verified.errors, 8 * 512);
    assert!(vm.heartbeats().corruptions().len() < 30);
    let now = std::time::Instant::now();
    vm.heartbeats().beat_from(vm.qemu_index(), Some(now), PATIENCE).unwrap();
}
