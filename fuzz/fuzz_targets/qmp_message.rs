//! Lines from a monitor: whatever QEMU, or what is not QEMU, sends is read or refused.

#![no_main]

use landfall_qemu::qmp::Message;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|line: &[u8]| {
    match Message::parse(line) {
        Ok(Message::Greeting(greeting)) => _ = greeting.offers("oob"),
        Ok(_) => {}
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
