//! What other programs have set up on the guest's QEMU and the move would destroy, or depends on: block jobs,
//! exports, dumps, snapshots.
//!
//! A disk that moves along is mirrored by a program beside landfall (libvirt, Proxmox VE, an operator's
//! script). It has to be complete when the guest stops writing, so QEMU offers to wait at that moment
//! (`pause-before-switchover`) until the program says that it is. landfall leaves that as it finds it.

use serde_json::Value;

use crate::monitor::{MigrationParameters, QemuMonitor};
use crate::qmp::QmpError;

/// Why other work on the guest keeps it from being moved now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OtherWork {
    /// A mirror of a disk has not copied everything yet.
    #[error(
        "the disk mirror {job} is not ready ({done} % copied): the destination would start without the \
         rest of that disk. Wait until it is ready (QMP query-block-jobs), then start again; or cancel \
         it (QMP block-job-cancel) if the disk need not move along"
    )]
    MirrorNotReady {
        /// The job.
        job: String,
        /// How much of it is done, in whole percent.
        done: u64,
    },
    /// The mirror is ready, but QEMU would not wait for the last writes.
    #[error(
        "the disk mirror {job} is ready, but QEMU would not wait for it at the switch-over: whatever \
         the guest writes last could be missing at the destination. Let the program that made the \
         mirror set the capability pause-before-switchover, complete the mirror when QEMU says \
         pre-switchover, and send migrate-continue"
    )]
    MirrorNotAwaited {
        /// The job.
        job: String,
    },
    /// A job that does not move along with the guest.
    #[error(
        "block job {job} ({kind}) is under way, and would be lost: wait until it has ended, or cancel it \
         (QMP block-job-cancel)"
    )]
    BlockJob {
        /// The job.
        job: String,
        /// QEMU's word for its kind.
        kind: String,
    },
    /// A disk is exported from this QEMU.
    #[error(
        "this QEMU exports {node} ({kind} export {export}), for a backup perhaps: its clients would lose \
         it in mid-use. Wait until they are done, then remove the export (QMP block-export-del)"
    )]
    Export {
        /// The export.
        export: String,
        /// Its kind: nbd, vhost-user-blk, fuse.
        kind: String,
        /// The block node.
        node: String,
    },
    /// The guest's memory is being dumped.
    #[error("a dump of the guest's memory is under way: wait until it has ended (QMP query-dump)")]
    Dump,
    /// A capability that makes something else of a migration.
    #[error(
        "the capability {0} is set, which makes something else of a migration than a move: switch it off \
         (QMP migrate-set-capabilities) if that is not wanted any more"
    )]
    Capability(&'static str),
}

/// Returns the ids of the mirrors that have to be complete at the switch-over.
///
/// # Errors
/// [`JobsError`]: something else is under way.
pub(super) async fn check_other_work(
    source: &mut QemuMonitor,
    found: &MigrationParameters,
) -> Result<Vec<String>, JobsError> {
    for capability in ["x-colo", "background-snapshot"] {
        if found.has_capability(capability) {
            return Err(OtherWork::Capability(capability).into());
        }
    }
    let waits = found.has_capability("pause-before-switchover");
    let jobs = source.query_if_known("query-block-jobs").await?.unwrap_or_default();
    let exports = source.query_if_known("query-block-exports").await?.unwrap_or_default();
    let dump = source.query_if_known("query-dump").await?.unwrap_or_default();
    Ok(read_other_work(&jobs, &exports, &dump, waits)?)
}

/// Reads the answers to `query-block-jobs`, `query-block-exports` and `query-dump`. `waits` says whether
/// QEMU waits before the switch-over.
fn read_other_work(
    jobs: &Value,
    exports: &Value,
    dump: &Value,
    waits: bool,
) -> Result<Vec<String>, OtherWork> {
    let text = |value: &Value| value.as_str().unwrap_or("?").to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut mirrors = Vec::new();
    for job in list(jobs) {
        let name = text(&job["device"]);
        if job["type"] != "mirror" {
            return Err(OtherWork::BlockJob { job: name, kind: text(&job["type"]) });
        }
        if job["ready"] != true {
            return Err(OtherWork::MirrorNotReady { job: name, done: percent_done(&job) });
        }
        if !waits {
            return Err(OtherWork::MirrorNotAwaited { job: name });
        }
        mirrors.push(name);
    }
    if let Some(export) = list(exports).first() {
        return Err(OtherWork::Export {
            export: text(&export["id"]),
            kind: text(&export["type"]),
            node: text(&export["node-name"]),
        });
    }
    match dump["status"] == "active" {
        true => Err(OtherWork::Dump),
        false => Ok(mirrors),
    }
}

fn percent_done(job: &Value) -> u64 {
    match (job["offset"].as_u64(), job["len"].as_u64()) {
        (Some(offset), Some(length)) if length > 0 => {
            (offset.min(length) as f64 / length as f64 * 100.0) as u64
        }
        _ => 0,
    }
}

/// Why other work could not be looked at, or keeps the guest.
#[derive(Debug, thiserror::Error)]
pub(super) enum JobsError {
    #[error(transparent)]
    Work(#[from] OtherWork),
    #[error(transparent)]
    Monitor(#[from] QmpError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(jobs: Value, waits: bool) -> Result<Vec<String>, OtherWork> {
        read_other_work(&jobs, &json!([]), &json!({ "status": "none" }), waits)
    }

    #[test]
    fn a_mirror_must_be_ready_and_awaited() {
        let mirror = |ready: bool| json!([{ "type": "mirror", "device": "m0", "ready": ready, "offset": 25, "len": 100 }]);
        let not_ready = OtherWork::MirrorNotReady { job: "m0".to_owned(), done: 25 };
        assert_eq!(read(mirror(false), true), Err(not_ready));
        let not_awaited = OtherWork::MirrorNotAwaited { job: "m0".to_owned() };
        assert_eq!(read(mirror(true), false), Err(not_awaited));
        assert_eq!(read(mirror(true), true), Ok(vec!["m0".to_owned()]));
        assert_eq!(read(json!([]), false), Ok(vec![]));
    }

    #[test]
    fn what_would_be_lost_is_named() {
        let backup = json!([{ "type": "backup", "device": "b0", "ready": false }]);
        assert!(read(backup, true).unwrap_err().to_string().contains("b0 (backup)"));
        let exports = json!([{ "id": "e0", "type": "nbd", "node-name": "disk0" }]);
        let error = read_other_work(&json!([]), &exports, &Value::Null, true).unwrap_err();
        assert!(error.to_string().contains("exports disk0 (nbd export e0)"), "{error}");
        let dump = json!({ "status": "active" });
        assert_eq!(read_other_work(&Value::Null, &Value::Null, &dump, true), Err(OtherWork::Dump));
    }
}
