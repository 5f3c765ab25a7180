//! A process's memory map, and QEMU's blocks of memory: any text is read or left out.

#![no_main]

use landfall_core::units::Bytes;
use landfall_qemu::procfs::maps;
use landfall_qemu::ram_blocks::ram_blocks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let file = String::from_utf8_lossy(file);
    for mapping in maps::mappings(&file) {
        assert!(mapping.start < mapping.end);
        let _ = mapping.is_memory();
    }
    for block in ram_blocks(&file) {
        assert!(block.used > Bytes(0) && !block.name.is_empty());
    }
});
