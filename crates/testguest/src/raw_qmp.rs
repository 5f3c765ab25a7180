//! A second way into a QEMU, for harnesses: one blocking QMP command after the other.
//!
//! The program under test has its own client and its own socket; what a test asserts must not
//! pass through either.

use serde_json::{Value, json};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A connection to a QMP socket, past the greeting.
#[derive(Debug)]
pub struct RawQmp {
    reader: BufReader<UnixStream>,
}

/// Why QEMU did not answer as it should.
#[derive(Debug, thiserror::Error)]
pub enum RawQmpError {
    /// The socket failed, or nothing came in time.
    #[error("QMP socket")]
    Socket(#[from] io::Error),
    /// QEMU closed the connection.
    #[error("QEMU closed its QMP socket")]
    Closed,
    /// What came was not JSON.
    #[error("QEMU sent what is not JSON")]
    Json(#[from] serde_json::Error),
    /// QEMU refused the command.
    #[error("QEMU refused {command}: {description}")]
    Refused {
        /// The command.
        command: String,
        /// QEMU's own words.
        description: String,
    },
}

impl RawQmp {
    /// Connects and gets past the greeting. Each answer is waited for up to `timeout`.
    ///
    /// # Errors
    /// [`RawQmpError`] if nobody listens, or what answers does not speak QMP.
    pub fn connect(socket: &Path, timeout: Duration) -> Result<Self, RawQmpError> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let mut probe = Self { reader: BufReader::new(stream) };
        probe.read()?;
        probe.run("qmp_capabilities")?;
        Ok(probe)
    }

    /// Runs a command without arguments and gives what it returns.
    ///
    /// # Errors
    /// [`RawQmpError`], among them QEMU's own refusal.
    pub fn run(&mut self, command: &str) -> Result<Value, RawQmpError> {
        self.run_with(command, json!({}))
    }

    /// Runs a command and gives what it returns. Events that come in between are passed over.
    ///
    /// # Errors
    /// As [`RawQmp::run`].
    pub fn run_with(&mut self, command: &str, arguments: Value) -> Result<Value, RawQmpError> {
        let mut line = json!({"execute": command, "arguments": arguments}).to_string();
        line.push('\n');
        self.reader.get_mut().write_all(line.as_bytes())?;
        loop {
            let mut answer = self.read()?;
            if let Some(returned) = answer.get_mut("return") {
                return Ok(returned.take());
            }
            if let Some(error) = answer.get("error") {
                let description = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(RawQmpError::Refused { command: command.to_owned(), description });
            }
        }
    }

    fn read(&mut self) -> Result<Value, RawQmpError> {
        let mut line = String::new();
        if self.reader.read_line(&mut line)? == 0 {
            return Err(RawQmpError::Closed);
        }
        Ok(serde_json::from_str(&line)?)
    }
}
