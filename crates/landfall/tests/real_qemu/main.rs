//! landfall as its users call it, on real QEMUs with guests that watch their own memory. Skipped,
//! with the reason printed, where there is no QEMU.

mod browser;
mod dangers;
mod demands;
mod failures;
mod hooks;
mod landings;
mod laws;
mod page;
mod plans;
mod predictions;
mod recordings;
mod refusals;
mod scene;
mod scripts;
mod sudden_death;
mod trials;
