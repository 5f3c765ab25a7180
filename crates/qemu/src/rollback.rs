//! Everything that has to be undone on a guest, as data that the guardian can act on.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cgroup::UndoStep;
use crate::migration_end::end_migration;
use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::procfs::Process;
use crate::qmp::{QmpAddress, QmpError};
use crate::stdio::eprint_line;
use crate::vcpus::are_threads_of;

/// For how long the guardian tries to reach a monitor: QEMU may hang for a while, and has to notice
/// that landfall's own connection is closed before it serves another.
const CONNECT_PATIENCE: Duration = Duration::from_secs(120);

/// Everything that has to be undone, whether or not it has been done yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rollback {
    /// Lets the vCPU threads run; to be taken in this order.
    pub cgroup_steps: Vec<UndoStep>,
    /// The source's QEMU process. No other process is touched.
    pub process: Process,
    /// The source's monitor.
    pub source: QmpAddress,
    /// The source's migration parameters and capabilities as they were found.
    pub parameters: MigrationParameters,
    /// The destination's monitor, if landfall was told it.
    pub destination: Option<QmpAddress>,
    /// Whether the migration under way was started by landfall.
    pub migration_started: bool,
    /// Whether landfall stopped the guest, so that it has to be continued, wherever it is.
    pub guest_stopped: bool,
}

/// Why the guardian puts things back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RollbackCause {
    /// landfall has died.
    EndedEarly,
    /// landfall lives, but sends no heartbeats.
    NoHeartbeat,
}

impl fmt::Display for RollbackCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EndedEarly => "has ended early",
            Self::NoHeartbeat => "does not move any more",
        })
    }
}

impl Rollback {
    /// Undoes everything and reports on standard error what was done and what could not be. Leaves QEMU
    /// alone if `landfall_is_done` completes before QEMU's monitor is reached.
    pub(crate) async fn run(
        &self,
        cause: RollbackCause,
        landfall_is_done: impl Future<Output = ()>,
    ) {
        let mut released = true;
        for step in &self.cgroup_steps {
            if let Err(error) = step.apply() {
                released = false;
                eprint_line(&format!("landfall guardian: could not undo {step:?}: {error}"));
            }
        }
        if released {
            eprint_line(&format!(
                "landfall guardian: landfall {cause}; the guest's vCPUs run free"
            ));
        }
        // Once the monitor is reached, what follows is done whole.
        let reached = tokio::select! {
            reached = self.connect_source() => reached,
            () = landfall_is_done => {
                eprint_line(
                    "landfall guardian: landfall moves again and has ended the migration itself",
                );
                return;
            }
        };
        let ending = match reached {
            Ok(Some(source)) => self.restore_qemu(source).await,
            Ok(None) => Ok(format!("QEMU process {} has ended", self.process.pid)),
            Err(error) => Err(error),
        };
        match ending {
            Ok(ending) => eprint_line(&format!("landfall guardian: {ending}")),
            Err(error) => eprint_line(&format!(
                "landfall guardian: the migration could not be ended: {error}"
            )),
        }
    }

    /// Ends the migration, makes sure that the guest runs, restores QEMU's settings; each even if
    /// another fails. Returns a sentence about what was done.
    async fn restore_qemu(&self, mut source: QemuMonitor) -> Result<String, QmpError> {
        let mut destination = match &self.destination {
            Some(address) => QemuMonitor::connect(address).await.ok().map(|(monitor, _)| monitor),
            None => None,
        };
        let ending = if self.migration_started {
            let stopped = self.guest_stopped;
            let end = end_migration(&mut source, destination.as_mut(), stopped).await;
            end.map(|end| end.to_string())
        } else {
            Ok("no migration of landfall's is under way".to_owned())
        };
        // Refused while a migration runs that landfall did not start, which has settings of its own.
        let restored = source.set_migration_parameters(&self.parameters).await;
        let ending = ending?;
        Ok(match restored {
            Ok(()) => format!("{ending}; QEMU's settings are as they were"),
            Err(error) => format!("{ending}; QEMU's settings could not be put back: {error}"),
        })
    }

    /// Connects to the source's monitor, which may not have noticed yet that landfall is gone. `None`
    /// once the process has ended: another QEMU may listen there by then.
    async fn connect_source(&self) -> Result<Option<QemuMonitor>, QmpError> {
        let deadline = Instant::now() + CONNECT_PATIENCE;
        while self.process.is_alive() {
            match QemuMonitor::connect(&self.source).await {
                Ok((mut monitor, _)) => {
                    let tids = monitor.query_vcpu_threads().await?;
                    return Ok(are_threads_of(self.process, &tids).then_some(monitor));
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        Ok(None)
    }
}
