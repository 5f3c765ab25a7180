//! Whatever a file holds, reading it as a recording and making its views and decisions again does
//! not panic.

#![no_main]

use landfall_core::policy;
use landfall_core::recording::{Replay, look_ahead};
use landfall_migration::recording::Recording;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(recording) = Recording::read(bytes) else { return };
    let Ok(mut policy) = policy::by_name(&recording.head.policy) else { return };
    look_ahead(&mut *policy, &recording.head);
    let mut replay = Replay::new(&recording.head, policy);
    for (_, line) in &recording.lines {
        replay.read_line(line);
    }
});
