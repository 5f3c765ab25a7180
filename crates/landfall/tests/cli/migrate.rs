//! `landfall migrate` where there is no QEMU behind the address, and what it then says.

use crate::landfall_process::{Run, landfall};

#[test]
fn a_monitor_that_does_not_listen_is_an_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("vm.qmp");
    let mut command = landfall();
    command.args(["migrate", "--json"]).arg(&socket).arg("tcp:127.0.0.1:1");
    Run::start(command).ended().assert(4, "refused", &["cannot connect", "-qmp unix:"]);
}

#[test]
fn ctrl_c_before_anything_was_begun_ends_in_a_refusal() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("silent.qmp");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut command = landfall();
    command.args(["migrate", "--json"]).arg(&socket).arg("tcp:127.0.0.1:1");
    let run = Run::start(command);
    let _connection = listener.accept().unwrap();
    run.signal(rustix::process::Signal::INT);
    run.ended().assert(4, "refused", &["Ctrl-C"]);
}

#[test]
fn what_is_not_a_monitor_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("not.qmp");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let greeter = std::thread::spawn(move || {
        use std::io::Write;
        listener.accept().unwrap().0.write_all(b"HTTP/1.0 400 what\r\n").unwrap();
    });
    let mut command = landfall();
    command.args(["migrate", "--json"]).arg(&socket).arg("tcp:127.0.0.1:1");
    Run::start(command).ended().assert(4, "refused", &["not a QMP monitor", "HTTP/1.0"]);
    greeter.join().unwrap();
}
