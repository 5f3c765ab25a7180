//! Text from outside on its way to a terminal: nothing that a terminal acts on is left, and cleaning
//! twice changes nothing.

#![no_main]

use landfall_qemu::clean_text::clean_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let clean = clean_text(text);
    assert!(clean.chars().all(|it| !it.is_control() || matches!(it, '\n' | '\t')));
    assert_eq!(clean_text(&clean), clean);
});
