//! A `landfall serve` process, and a client that sends exactly the headers it is given.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

/// How long to wait for something that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A `landfall serve` that runs until it is dropped.
pub struct PageServer {
    child: Child,
    /// The first line that it printed.
    pub greeting: String,
    /// The header of its login.
    cookie: OnceLock<String>,
    _folder: TempDir,
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

pub fn serve_command(folder: &TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_landfall"));
    command.arg("serve").args(options).arg("--recordings").arg(folder.path().join("recordings"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl PageServer {
    pub fn start(options: &[&str]) -> PageServer {
        let folder = tempfile::tempdir().unwrap();
        let listen =
            if options.contains(&"--listen") { &[][..] } else { &["--listen", "127.0.0.1:0"] };
        let mut child = serve_command(&folder, &[listen, options].concat()).spawn().unwrap();
        let mut greeting = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut greeting).unwrap();
        PageServer { child, greeting, cookie: OnceLock::new(), _folder: folder }
    }

    pub fn token(&self) -> &str {
        let end = self.greeting.trim_end();
        &end[end.rfind(|c: char| !c.is_ascii_alphanumeric()).unwrap() + 1..]
    }

    pub fn address(&self) -> SocketAddr {
        let (_, rest) = self.greeting.split_once("://").unwrap();
        rest.split('/').next().unwrap().parse().unwrap()
    }

    /// Logs in as a browser does and returns the header that it then sends with each request.
    pub fn cookie(&self) -> String {
        let login = || {
            let origin = format!("Origin: http://{}", self.address());
            let form = format!("token={}", self.token());
            let head = self.request("POST /login", &[&origin], &form).head;
            let cookie = head.lines().find_map(|line| line.strip_prefix("set-cookie: ")).unwrap();
            format!("Cookie: {}", cookie.split(';').next().unwrap())
        };
        self.cookie.get_or_init(login).clone()
    }

    /// Sends a request with these headers and the host.
    pub fn request(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let host = format!("Host: {}", self.address());
        self.request_with_headers(line, &[&[host.as_str()], headers].concat(), body)
    }

    /// Sends a request with these headers only.
    pub fn request_with_headers(&self, line: &str, headers: &[&str], body: &str) -> Answer {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        send_request(stream, line, headers, body)
    }

    /// Sends a form as a browser that is logged in does from a page of this site.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        let origin = format!("Origin: http://{}", self.address());
        let cookie = self.cookie();
        self.request(
            &format!("POST {path}"),
            &[&origin, "Sec-Fetch-Site: same-origin", &cookie],
            body,
        )
    }

    /// Opens a page as a browser that is logged in does.
    pub fn get(&self, path: &str) -> Answer {
        let cookie = self.cookie();
        self.request(&format!("GET {path}"), &[&cookie, "Sec-Fetch-Mode: navigate"], "")
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request over a stream and reads the answer.
pub fn send_request(
    mut stream: impl Read + Write,
    line: &str,
    headers: &[&str],
    body: &str,
) -> Answer {
    let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\n");
    headers.iter().for_each(|header| request += &format!("{header}\r\n"));
    if !body.is_empty() {
        request += "Content-Type: application/x-www-form-urlencoded\r\n";
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    // The server may answer and close before it has read everything.
    let _ = stream.write_all(format!("{request}\r\n{body}").as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}
