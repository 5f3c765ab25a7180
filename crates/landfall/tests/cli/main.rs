//! The landfall program as its users call it, without QEMU and without root: a file per command, folders
//! for `landfall serve` and for the generated pages of `docs`. `../real_qemu` has the tests that
//! move guests.

#[allow(dead_code, reason = "the tests in real_qemu use more of it")]
#[path = "../shared/landfall_process.rs"]
mod landfall_process;
mod migrate;
mod pages;
mod plan;
mod replay;
mod serve;
mod set;
mod simulate;
