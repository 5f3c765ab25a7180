//! Lines from whoever speaks to a running landfall: read, or refused in words.

#![no_main]

use landfall_qemu::control::{Request, read_demands};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    match Request::parse(line) {
        Ok(Request::Set { demands }) => _ = read_demands(&demands),
        Ok(_) => {}
        Err(problem) => assert!(!problem.is_empty()),
    }
});
