//! `landfall migrate`:
//!
//! ```text
//! landings      guests that land under every policy, and the report
//! forecasts     forecasts of the default policy compared with the migration
//! policies      the policies measured against each other
//! scripts       a script steers, or fails
//! hooks         programs at set points
//! ends          a destination that could not take the guest
//! identity      whose threads are held
//! refusals      refused before anything is changed
//! failures      failures during a migration
//! disks         disks that move along, and hooks that hold the switch-over
//! monitors      monitors that hold back, fall silent or close at the worst moment
//! both_killed   kill -9 of landfall and its guardian together
//! dangers       a guest that could run twice, stay paused or be the wrong one
//! stuck_output  a terminal that takes nothing
//! sudden_death  kill -9 of landfall
//! ```

mod both_killed;
mod dangers;
mod disks;
mod ends;
mod failures;
mod forecasts;
mod hooks;
mod identity;
mod landings;
mod monitors;
mod policies;
mod refusals;
mod scripts;
mod stuck_output;
mod sudden_death;
