//! Whatever a file holds, reading it as a recording and making its views and decisions again does
//! not panic.

#![no_main]

use landfall_core::policy;
use landfall_core::recording::{ViewReplay, decide, look_ahead};
use libfuzzer_sys::fuzz_target;

// The program is no library, and its reader depends on none of the rest of it.
#[allow(dead_code)]
#[path = "../../crates/landfall/src/recording/read.rs"]
mod read;

fuzz_target!(|bytes: &[u8]| {
    let Ok(recording) = read::Recording::read(bytes) else { return };
    let mut views = ViewReplay::new(&recording.head);
    let mut policy = policy::by_name(&recording.head.policy).ok();
    if let Some(policy) = &mut policy {
        look_ahead(&mut **policy, &recording.head);
    }
    for (_, line) in &recording.lines {
        if let (Some(view), Some(policy)) = (views.take(line), &mut policy) {
            decide(&mut **policy, &view);
        }
    }
});
