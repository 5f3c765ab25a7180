//! `landfall plan` where there is no QEMU behind the address.

use crate::landfall_process::{Run, landfall};

#[test]
fn a_monitor_that_does_not_answer_is_named_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = landfall();
    command.arg("plan").arg(folder.path().join("vm.qmp")).args(["--to-rate", "30MB/s"]);
    let ended = Run::start(command).ended();
    assert_eq!(ended.code(), Some(5), "{ended:?}");
    assert!(ended.stderr.contains("cannot connect"), "{ended:?}");
}
