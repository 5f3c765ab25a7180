//! Answers to the other queries: any JSON is read, and shown without a panic.

#![no_main]

use landfall_qemu::clean_text::clean_text;
use landfall_qemu::monitor::{CalcTimeUnit, parse_query_dirty_rate, parse_query_status};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|text: &[u8]| {
    let Ok(answer) = serde_json::from_slice::<Value>(text) else { return };
    let state = parse_query_status(&answer).to_string();
    assert!(clean_text(&state).chars().all(|it| !it.is_control() || matches!(it, '\n' | '\t')));
    let millisecond = parse_query_dirty_rate(&answer, CalcTimeUnit::Millisecond);
    let second = parse_query_dirty_rate(&answer, CalcTimeUnit::Second);
    assert_eq!(std::mem::discriminant(&millisecond), std::mem::discriminant(&second));
});
