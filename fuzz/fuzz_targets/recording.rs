//! Whatever a file holds, reading it as a recording and making its views and decisions again does
//! not panic.

#![no_main]

use landfall_core::policy;
use landfall_core::recording::{ViewReplay, decide, look_ahead};
use landfall_migration::recording::Recording;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(recording) = Recording::read(bytes) else { return };
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
