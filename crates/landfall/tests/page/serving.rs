//! A `landfall serve`, and a client that says exactly what it is told to say.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// For whatever must happen at all.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One that serves until it is dropped.
pub struct Serving {
    child: Child,
    /// What it printed first.
    pub greeting: String,
    _folder: TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn command(folder: &TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    command.arg("serve").args(options).arg("--recordings").arg(folder.path().join("recordings"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Serving {
    pub fn start(options: &[&str]) -> Serving {
        let folder = tempfile::tempdir().unwrap();
        let listen =
            if options.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let mut child = command(&folder, &[listen, options].concat()).spawn().unwrap();
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        Serving { child, greeting, _folder: folder }
    }

    pub fn token(&self) -> &str {
        let end = self.greeting.trim_end();
        &end[end.rfind(|c: char| !c.is_ascii_alphanumeric()).unwrap() + 1..]
    }

    pub fn address(&self) -> SocketAddr {
        let (_, rest) = self.greeting.split_once("://").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    /// Asks with these headers and nothing else but the host.
    pub fn ask(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let host = format!("Host: {}", self.address());
        self.say(line, &[&[host.as_str()], headers].concat(), body)
    }

    /// The same without the host.
    pub fn say(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, line, headers, body)
    }

    /// As a browser that has the cookie asks from a page of this site.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let origin = format!("Origin: http://{}", self.address());
        let cookie = format!("Cookie: landfall={}", self.token());
        self.ask(&format!("POST {path}"), &[&origin, "Sec-Fetch-Site: same-origin", &cookie], body)
    }

    /// A page, as a browser that has the cookie asks for it.
    pub fn get(&self, path: &str) -> Answer {
        let cookie = format!("Cookie: landfall={}", self.token());
        self.ask(&format!("GET {path}"), &[&cookie, "Sec-Fetch-Mode: navigate"], "")
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request and its answer, over whatever it is.
pub fn exchange(mut stream: impl Read + Write, line: &str, headers: &[&str], body: &str) -> Answer {
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    if !body.is_empty() {
        request += "Content-Type: application/x-www-form-urlencoded\r\n";
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    // It may answer and close before all is said.
    let _ = stream.write_all(format!("{request}\r\n{body}").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
