//! Lines from a monitor: whatever QEMU, or what is not QEMU, sends is read or refused.

#![no_main]

use landfall_qemu::qmp::QmpMessage;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    match QmpMessage::parse(line) {
        Ok(QmpMessage::Greeting(greeting)) => _ = greeting.offers_capability("oob"),
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
