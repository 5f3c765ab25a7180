//! The guest's program, as `build.rs` compiled it from `kernel/`.

/// An ELF image with a PVH entry, for QEMU's `-kernel`.
pub static IMAGE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guest.elf"));
