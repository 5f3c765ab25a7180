//! Why an experiment ends without its result.

use std::io;
use std::path::PathBuf;

use landfall_migration::charts::ChartError;

use crate::run::LabRunError;
use crate::theory::error::TheoryError;

/// Why an experiment ends without its result. Its guests have ended with it.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// None of the chosen comparisons is about the chosen policies.
    #[error("--policy {}: none of the comparisons is about that policy; {about}", .policies.join(" --policy "))]
    NoComparison {
        /// The chosen policies.
        policies: Vec<String>,
        /// Which policies each comparison is about.
        about: String,
    },
    /// The operator ended it.
    #[error("{0}")]
    Interrupted(String),
    /// One of its migrations could not be made.
    #[error("{what}: {error}")]
    Run {
        /// Which.
        what: String,
        /// Why.
        error: LabRunError,
    },
    /// A guest found wrong contents in its memory after a migration.
    #[error("{what}: the guest found wrong contents in its memory")]
    MemoryDamaged {
        /// Which migration.
        what: String,
    },
    /// A measurement for the theory failed.
    #[error(transparent)]
    Theory(#[from] TheoryError),
    /// The picture cannot be written.
    #[error(transparent)]
    Chart(#[from] ChartError),
    /// The page of results cannot be written.
    #[error("--docs {}: {error}", .folder.display())]
    Docs {
        /// The folder.
        folder: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl ExperimentError {
    /// Returns whether the command line asked for something that there is not.
    pub fn is_usage(&self) -> bool {
        matches!(self, ExperimentError::NoComparison { .. })
    }
}
