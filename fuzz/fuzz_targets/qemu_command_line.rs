//! Command lines of other users' processes: any bytes are read, and nothing is made up.

#![no_main]

use landfall_qemu::procfs::{is_qemu, parse, qemu_options::QemuOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let words = parse::command_line(bytes);
    let _ = words.first().is_some_and(|program| is_qemu(program));
    let options = QemuOptions::parse(&words);
    assert!(options.monitors.len() <= words.len());
    let said = |text: &str| words.iter().any(|word| word.contains(text));
    assert!(options.guest_name.as_deref().is_none_or(said));
    assert!(options.incoming.as_deref().is_none_or(said));
    for monitor in options.monitors {
        assert!(!monitor.to_string().is_empty());
    }
});
