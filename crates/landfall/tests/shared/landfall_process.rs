//! The landfall program as its users call it, and what is left of it when it has ended.

use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::Value;

/// Returns a command that calls the landfall built for these tests.
pub fn landfall() -> Command {
    Command::new(env!("CARGO_BIN_EXE_landfall"))
}

/// A landfall that runs.
pub struct Run {
    pub child: Child,
}

/// A landfall that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub report: Value,
    pub stderr: String,
}

impl Run {
    pub fn start(mut command: Command) -> Run {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Run { child: command.spawn().unwrap() }
    }

    pub fn pid(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(self.pid(), signal).unwrap();
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits until landfall itself has ended. Its guardian may run on and keeps standard error open.
    pub fn wait(&mut self) {
        self.child.wait().unwrap();
    }

    pub fn ended(mut self) -> Ended {
        let mut stdout = String::new();
        let mut stderr = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = self.child.wait().unwrap();
        let report = serde_json::from_str(&stdout).unwrap_or(Value::Null);
        Ended { status, report, stderr }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // A test that has failed leaves no landfall behind, least of all one that it has stopped.
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn reason(&self) -> &str {
        self.report["reason"].as_str().unwrap_or_default()
    }

    #[track_caller]
    pub fn number(&self, field: &str) -> f64 {
        self.report[field].as_f64().unwrap_or_else(|| panic!("no {field} in {:#}", self.report))
    }

    /// Asserts the exit status, the outcome, and words that the reason contains.
    #[track_caller]
    pub fn assert(&self, code: i32, outcome: &str, says: &[&str]) {
        let all = format!("{:#}\n{}", self.report, self.stderr);
        assert_eq!(self.code(), Some(code), "{all}");
        assert_eq!(self.report["outcome"], outcome, "{all}");
        for words in says {
            assert!(self.reason().contains(words), "the reason does not say {words:?}: {all}");
        }
    }
}
