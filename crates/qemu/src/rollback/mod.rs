//! Everything that has to be undone on a guest, as data that any process of landfall can act on.
//!
//! landfall gives it to the guardian and writes it to a file ([`record`]) before it changes anything. The
//! guardian, `landfall release` and the next landfall on this host undo it ([`undo`]).

pub mod record;
mod undo;

use serde::{Deserialize, Serialize};

use landfall_core::ending::Obligations;

use crate::cgroup::UndoStep;
use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::procfs::Process;
use crate::qmp::{QmpAddress, QmpError};

pub use undo::{ArrivedGuest, UndoEnd, UndoProblem};

/// Everything that has to be undone, whether or not it has been done yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// Lets the vCPU threads run; to be taken in this order.
    pub cgroup_steps: Vec<UndoStep>,
    /// The source's QEMU process. No other process is touched.
    pub process: Process,
    /// The source's monitor.
    pub source: QmpAddress,
    /// The destination's monitor, if landfall was told it.
    pub destination: Option<QmpAddress>,
    /// The source's migration parameters and capabilities as they were found.
    pub original: MigrationParameters,
    /// What landfall has set of these: the last time, and the time before, for the last may not have been
    /// carried out.
    pub set: Vec<MigrationParameters>,
    /// What is owed to the guest.
    pub obligations: Obligations,
}

impl Rollback {
    /// Notes that these parameters will be set, on top of those that are.
    pub fn note_set(&mut self, parameters: &MigrationParameters) {
        let last = self.set.pop();
        let next = last.clone().unwrap_or_default().with(parameters);
        self.set = last.into_iter().chain([next]).collect();
    }

    /// Puts the source's parameters back as they were found. What another program has set since then
    /// stays.
    ///
    /// # Errors
    /// QEMU does not take them, or does not answer.
    pub async fn restore_parameters(&self, source: &mut QemuMonitor) -> Result<(), QmpError> {
        let now = source.query_migration_parameters().await?;
        let restore = self.original.still_to_restore(&now, &self.set);
        source.set_migration_parameters(&restore).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parameters(limit: u64) -> MigrationParameters {
        let mut parameters = MigrationParameters::default();
        parameters.parameters.insert("downtime-limit".to_owned(), json!(limit));
        parameters
    }

    #[test]
    fn what_landfall_set_is_put_back_and_what_another_program_set_stays() {
        let mut rollback = Rollback {
            cgroup_steps: Vec::new(),
            process: Process { pid: 1, start_time_ticks: 1 },
            source: "unix:/nowhere".parse().unwrap(),
            destination: None,
            original: parameters(300),
            set: Vec::new(),
            obligations: Obligations::default(),
        };
        for limit in [1, 2, 3] {
            rollback.note_set(&parameters(limit));
        }
        let restore =
            |now: u64| rollback.original.still_to_restore(&parameters(now), &rollback.set);
        assert_eq!(restore(3), parameters(300));
        assert_eq!(restore(2), parameters(300), "the last may not have been carried out");
        assert_eq!(restore(77), MigrationParameters::default(), "set by another program");
        assert_eq!(restore(300), MigrationParameters::default(), "as it was");
    }
}
