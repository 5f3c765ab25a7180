//! Recordings of migrations as files: a line of JSON for what it was begun with, one for every look,
//! one for the report. What the lines are is in `landfall_core::recording`.

mod ends;
pub mod follow;
pub mod read;
pub mod write;

pub use ends::ends;
pub use follow::Following;
pub use read::Recording;
pub use write::Recorder;

#[cfg(test)]
mod tests;
