//! Lines from a client of a running landfall: read, or refused in words.

#![no_main]

use landfall_qemu::control::{ControlRequest, parse_settings};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    match ControlRequest::parse(line) {
        Ok(ControlRequest::Set { settings }) => _ = parse_settings(&settings),
        Ok(_) => {}
        Err(problem) => assert!(!problem.to_string().is_empty()),
    }
});
