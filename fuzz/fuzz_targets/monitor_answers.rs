//! Answers to the other queries: any JSON is read, and shown without a panic.

#![no_main]

use landfall_qemu::clean_text::clean_text;
use landfall_qemu::monitor::parse_query_status;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    let Ok(answer) = serde_json::from_slice::<Value>(text) else { return };
    let state = parse_query_status(&answer).to_string();
    assert!(clean_text(&state).chars().all(|it| !it.is_control() || matches!(it, '\n' | '\t')));
});
