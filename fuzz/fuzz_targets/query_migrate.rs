//! Answers to `query-migrate`: any JSON is read, and what is read can be steered by.

#![no_main]

use landfall_core::units::Bytes;
use landfall_qemu::monitor::parse_query_migrate;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    let Ok(answer) = serde_json::from_slice::<Value>(text) else { return };
    let migration = parse_query_migrate(&answer);
    if let Some(share) = migration.own_throttle {
        assert!((0.0..=1.0).contains(&share.get()));
    }
    if let Some(ram) = migration.ram {
        assert!(ram.sent() >= ram.normal.max(ram.duplicate).min(Bytes(u64::MAX)));
    }
});
