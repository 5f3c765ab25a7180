//! The landfall program as its users call it, without QEMU and without root: a file per command, a folder
//! for `landfall serve`, and [`reference`] for the help of all of them. `../real_qemu` has the tests that
//! move guests.

#[allow(dead_code, reason = "the tests in real_qemu use more of it")]
#[path = "../shared/landfall_process.rs"]
mod landfall_process;
mod migrate;
mod plan;
#[cfg(feature = "lab")]
mod reference;
mod replay;
mod serve;
mod set;
mod simulate;
