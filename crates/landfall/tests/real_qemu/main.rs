//! landfall as its users call it, on real QEMUs with guests that check their own memory: a file per
//! command, a folder for `landfall migrate`. Skipped, with the reason printed, where there is no QEMU.
//! `../cli` has the tests of the command line that need none.

mod bench;
mod browser;
#[path = "../shared/landfall_process.rs"]
mod landfall_process;
mod migrate;
mod plan;
mod replay;
#[path = "../shared/scene.rs"]
mod scene;
mod serve;
mod set;
