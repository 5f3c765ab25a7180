//! The guest, its harness and the link, on a real QEMU. Skipped, with the reason printed, where
//! there is none.

mod common;
mod kinds;
mod memory;
mod migration;
