//! The landfall program as its users call it, without QEMU and without root: a file per command, a folder
//! for `landfall serve`. `../real_qemu` has the tests that move guests.

#[allow(dead_code, reason = "the tests in real_qemu use more of it")]
#[path = "../shared/landfall_process.rs"]
mod landfall_process;
mod migrate;
mod plan;
mod replay;
mod serve;
mod set;
mod simulate;
