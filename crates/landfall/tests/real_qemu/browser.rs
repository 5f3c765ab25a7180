//! A headless browser, driven as a person drives it: by the keyboard.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fantoccini::actions::{InputSource, KeyAction, KeyActions};
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::scene::PATIENCE;

pub const TAB: char = '\u{e004}';
pub const ENTER: char = '\u{e007}';
pub const RIGHT: char = '\u{e014}';

/// The size and colours of the browser window.
#[derive(Clone, Copy)]
pub struct Looks {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

pub struct Browser {
    client: Client,
    driver: Driver,
    _profile: TempDir,
}

/// Ends with its test, however that ends, and the browser with it.
struct Driver {
    child: Child,
    port: u16,
    session: Option<String>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(session) = &self.session {
            let _ = self.forget(session);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Driver {
    /// Closes the browser, which would outlive its driver.
    fn forget(&self, session: &str) -> io::Result<usize> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "DELETE /session/{session} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
        stream.read(&mut [0; 64])
    }
}

/// Programs that it takes; `None`, with the reason printed, where one is missing.
fn programs() -> Option<(&'static str, &'static str)> {
    let there = |program: &&&str| {
        let mut run = Command::new(program);
        run.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        run.status().is_ok_and(|status| status.success())
    };
    let browser = ["chromium", "chromium-browser", "google-chrome"].iter().find(there);
    let driver = ["chromedriver", "chromium.chromedriver"].iter().find(there);
    if browser.is_none() || driver.is_none() {
        eprintln!(
            "skipped: no chromium with its chromedriver here (make setup installs them by apt)"
        );
    }
    Some((*browser?, *driver?))
}

impl Browser {
    /// Opens one; `None` where there is none.
    pub async fn open(looks: Looks) -> Option<Browser> {
        let (browser, program) = programs()?;
        let profile = tempfile::tempdir().unwrap();
        let driver = Command::new(program)
            .args(["--port=0", "--log-level=SEVERE"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut driver = Driver { child: driver, port: 0, session: None };
        driver.port = port(&mut driver.child);
        let capabilities = capabilities(browser, profile.path(), looks);
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{}", driver.port))
            .await
            .unwrap();
        driver.session = client.session_id().await.unwrap();
        Some(Browser { client, driver, _profile: profile })
    }

    pub async fn close(mut self) {
        self.driver.session = None;
        let _ = self.client.clone().close().await;
    }

    pub async fn go(&self, address: &str) {
        self.client.goto(address).await.unwrap();
    }

    /// Returns the value of a script in the page; `null` while the browser loads another page.
    pub async fn script(&self, script: &str) -> Value {
        self.client.execute(script, vec![]).await.unwrap_or_default()
    }

    /// The text of the first element of a kind; empty where there is none.
    pub async fn text(&self, of: &str) -> String {
        let script = format!("return document.querySelector({})?.innerText ?? ''", json!(of));
        // A page that is being replaced has none.
        let text = self.client.execute(&script, vec![]).await.unwrap_or_default();
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until there is one with this text in it.
    pub async fn wait_for(&self, of: &str, text: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.text(of).await;
            if now.contains(text) && !(now.is_empty() && text.is_empty()) {
                return;
            }
            if Instant::now() >= until {
                let page = self.text("body").await;
                panic!("{of} never said {text:?}, but {now:?}; the page: {page}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Presses a key, wherever the focus is.
    pub async fn press(&self, key: char) {
        let keyboard = KeyActions::new("keyboard".to_owned());
        let down = keyboard.then(KeyAction::Down { value: key });
        self.client.perform_actions(down.then(KeyAction::Up { value: key })).await.unwrap();
    }

    /// Presses Tab until an element of a kind has the focus.
    pub async fn tab_to(&self, wanted: &str) {
        let script = format!("return document.activeElement.matches({})", json!(wanted));
        for _ in 0..80 {
            if self.script(&script).await == true {
                return;
            }
            self.press(TAB).await;
        }
        panic!("the tabulator does not lead to {wanted}: {}", self.text("body").await);
    }

    /// Moves to a field with Tab and replaces its content.
    pub async fn type_into(&self, field: &str, text: &str) {
        self.tab_to(field).await;
        self.client.find(Locator::Css(field)).await.unwrap().clear().await.unwrap();
        self.client.find(Locator::Css(field)).await.unwrap().send_keys(text).await.unwrap();
    }

    /// Returns a picture of the page as PNG.
    pub async fn picture(&self, path: &Path) {
        std::fs::write(path, self.client.screenshot().await.unwrap()).unwrap();
    }
}

/// Reads the port that the driver chose from its output.
fn port(driver: &mut Child) -> u16 {
    let said = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = said.map_while(Result::ok).find_map(|line| {
        let (_, rest) = line.split_once("on port ")?;
        rest.trim_end_matches('.').parse().ok().filter(|port| *port > 0)
    });
    port.expect("chromedriver says on which port it listens")
}

fn capabilities(browser: &str, profile: &Path, looks: Looks) -> Value {
    let Looks { width, height, dark } = looks;
    let mut options = json!({
        "binary": which(browser),
        "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--force-device-scale-factor=1",
            format!("--blink-settings=preferredColorScheme={}", if dark { 0 } else { 1 }),
            format!("--user-data-dir={}", profile.display()),
            format!("--window-size={width},{height}"),
        ],
    });
    if width < 500 {
        let metrics = json!({ "width": width, "height": height, "pixelRatio": 1.0, "touch": true });
        options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
    }
    json!({ "browserName": "chrome", "goog:chromeOptions": options })
}

/// Returns the path of a program, or its name, which the driver then looks up.
fn which(program: &str) -> String {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program));
    let mut found = found.filter(|path| path.exists());
    found.next().map_or(program.to_owned(), |path| path.display().to_string())
}
