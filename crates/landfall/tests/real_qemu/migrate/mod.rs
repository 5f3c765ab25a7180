//! `landfall migrate`:
//!
//! ```text
//! landings      guests that land, by every policy, and what the report says
//! forecasts     what the default policy forecasts, and what it then does
//! policies      the policies measured against each other
//! scripts       a script steers, or fails
//! hooks         programs at set points
//! refusals      what is refused before anything is changed
//! failures      what goes wrong on the way
//! dangers       ways in which a guest could run twice, stand still or belong to another
//! sudden_death  kill -9 of landfall
//! ```

mod dangers;
mod failures;
mod forecasts;
mod hooks;
mod landings;
mod policies;
mod refusals;
mod scripts;
mod sudden_death;
