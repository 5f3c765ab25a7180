//! Records of what has to be undone, which the guardian and `landfall release` act on: any bytes are
//! refused in words, or are written and read again without a change.

#![no_main]

use landfall_qemu::rollback::Rollback;
use landfall_qemu::rollback::record::parse_record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    match parse_record(text) {
        Ok(rollback) => check(&rollback),
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
    // As landfall gives it to the guardian, without the head of a file.
    if let Ok(rollback) = serde_json::from_slice::<Rollback>(text) {
        check(&rollback);
    }
});

fn check(rollback: &Rollback) {
    let text = serde_json::to_vec(rollback).unwrap();
    assert_eq!(serde_json::from_slice::<Rollback>(&text).unwrap(), *rollback);
    let mut noted = rollback.clone();
    let original = noted.original.clone();
    noted.note_set(&original);
    noted.note_set(&original);
    assert!(noted.set.len() <= 2, "it grows by what was set");
    let restore = rollback.original.still_to_restore(&rollback.original, &rollback.set);
    assert!(restore.parameters.len() <= rollback.original.parameters.len());
}
