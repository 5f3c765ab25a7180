//! `landfall set` where no landfall steers the guest.

use crate::landfall_process::landfall;

#[test]
fn a_guest_that_no_landfall_steers_is_named_with_what_to_do() {
    // Where a landfall of a user who is not root looks for the others.
    let runtime = tempfile::tempdir().unwrap();
    let mut command = landfall();
    command.args(["set", "unix:/nowhere/vm.qmp", "--max-stall", "1s"]);
    let output = command.env("XDG_RUNTIME_DIR", runtime.path()).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{says}");
    assert!(says.contains("/nowhere/vm.qmp"), "{says}");
    assert!(says.contains("GUEST is the SOURCE"), "{says}");
}

#[test]
fn a_value_without_its_unit_is_refused_with_an_example() {
    let output = landfall().args(["set", "web1", "--max-stall", "300"]).output().unwrap();
    let says = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{says}");
    assert!(says.contains("300ms"), "{says}");
}
