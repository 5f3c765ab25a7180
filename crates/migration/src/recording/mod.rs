//! Recordings of migrations as files: one line of JSON for what the migration started with, one for every
//! look at the hypervisor, one for the report. The lines are defined in `landfall_core::recording`.

mod ends;
pub mod follow;
pub mod read;
pub mod write;

pub use ends::first_and_last_line;
pub use follow::RecordingFollower;
pub use read::Recording;
pub use write::{CreateError, Recorder, RecordingStart};

#[cfg(test)]
mod tests;
