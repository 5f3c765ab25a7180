//! `landfall serve` in a real browser, with guests of real QEMUs, by the keyboard alone. Skipped, with the
//! reason printed, where there is no chromium.
//!
//! `LANDFALL_PICTURES=docs` keeps pictures of the page there.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use tempfile::TempDir;

use crate::browser::{Browser, ENTER, Looks, RIGHT};
use crate::scene::{Scene, landfall, random};

const DESK: Looks = Looks { width: 1280, height: 1850, dark: false };
const PHONE: Looks = Looks { width: 390, height: 1500, dark: true };

/// A `landfall serve`, killed when it is dropped.
struct Serving {
    child: Child,
    /// The address that was printed, with the token.
    address: String,
}

impl Serving {
    fn start(scene: &Scene, folder: &TempDir, listen: &str) -> Serving {
        let mut command = landfall();
        command.args(["serve", "--listen", listen, "--guest"]).arg(scene.pair.source.qmp_socket());
        command.arg("--recordings").arg(folder.path().join("recordings"));
        command.arg("--token-file").arg(folder.path().join("token"));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("Open ").unwrap().to_owned();
        Serving { child, address }
    }

    /// Returns the address to listen on again, such as `127.0.0.1:7700`.
    fn place(&self) -> &str {
        self.address.trim_start_matches("http://").split('/').next().unwrap()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn in_a_browser<F: Future<Output = ()>>(test: F) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Where pictures of the page are kept, if they are.
fn pictures() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("LANDFALL_PICTURES")?);
    Some(if folder.is_absolute() { folder } else { workspace().join(folder) })
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// Opens the page of the scene's guest and has it looked at; how long that took.
async fn look(browser: &Browser, serving: &Serving, scene: &Scene) -> Duration {
    browser.go(&serving.address).await;
    browser.wait_for("h1", "Guests").await;
    let socket = scene.pair.source.qmp_socket();
    let row = format!(
        "const row = [...document.querySelectorAll('tbody tr')].find(row => row.innerText.includes({:?})); \
         row.querySelector('a').id = 'ours'",
        socket.display().to_string()
    );
    browser.script(&row).await;
    browser.tab_to("#ours").await;
    browser.press(ENTER).await;
    browser.wait_for("h2", "Not measured yet").await;
    browser.tab_to("form[data-busy] button").await;
    let asked = Instant::now();
    browser.press(ENTER).await;
    browser.wait_for("#implied h3", "Total time").await;
    asked.elapsed()
}

async fn start(browser: &Browser, scene: &Scene) {
    browser.type_into("#destination", &scene.pair.uri().to_string()).await;
    let monitor = format!("unix:{}", scene.pair.destination.qmp_socket().display());
    browser.type_into("#destination-qmp", &monitor).await;
    browser.tab_to("#start").await;
    browser.press(ENTER).await;
    browser.wait_for("#state", "").await;
}

/// Milliseconds from input to paint, as the page has measured them; the middle one.
async fn input_to_paint(browser: &Browser) -> f64 {
    let all = browser
        .script("return performance.getEntriesByName('input to paint').map(it => it.duration)")
        .await;
    let mut all: Vec<f64> = all.as_array().unwrap().iter().filter_map(|it| it.as_f64()).collect();
    all.sort_by(f64::total_cmp);
    assert!(!all.is_empty(), "nothing was painted");
    println!("input to paint, in ms: {all:.1?}");
    all[all.len() / 2]
}

#[test]
fn a_guest_is_looked_at_the_dial_moved_and_its_migration_lands_by_the_keyboard_alone() {
    // Three times what the link carries: it has to be held.
    let Some(scene) = Scene::boot(&random(64, 12_000), ByteRate::mb(16)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::start(&scene, &folder, "127.0.0.1:0");
    in_a_browser(async {
        let Some(browser) = Browser::open(DESK).await else { return };
        let looked = look(&browser, &serving, &scene).await;
        browser.type_into("#max-bandwidth", "16MB/s").await;
        browser.wait_for("#said", "It lands").await;

        let before = browser.text("#implied .tiles").await;
        browser.tab_to("#skip, .skip").await;
        browser.tab_to("#aggression").await;
        for _ in 0..8 {
            browser.press(RIGHT).await;
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        browser.wait_for("#dial-value", "0.90").await;
        browser.wait_for("#implied .grade", "Simulated").await;
        let after = browser.text("#implied .tiles").await;
        assert_ne!(before, after, "the dial implies nothing");
        let paint = input_to_paint(&browser).await;
        let share = paint / looked.as_secs_f64() / 1e3;
        assert!(share < 0.2, "an answer took {share:.2} of what a look takes");

        // What cannot be kept, and its remedy, by a key.
        browser.type_into("#max-stall", "20ms").await;
        browser.wait_for("#implied .conflict", "cannot land").await;
        browser.tab_to("#implied .remedies button").await;
        browser.press(ENTER).await;
        browser.wait_for("#implied .line", "It lands").await;
        assert_ne!(browser.script("return document.activeElement.id").await, "");
        browser.tab_to("#max-stall").await;
        browser.type_into("#max-stall", "1s").await;
        if let Some(folder) = pictures() {
            browser.wait_for("#implied .grade", "Simulated").await;
            browser.script("window.scrollTo(0, 0); document.activeElement.blur()").await;
            browser.picture(&folder.join("page-desktop.png")).await;
            on_a_phone(&browser, &serving, &folder).await;
        }

        start(&browser, &scene).await;
        browser.wait_for("#now", "Left to send").await;
        browser.wait_for("#picture", "Dirty rate and link").await;
        if let Some(folder) = pictures() {
            browser.wait_for("#picture .legend", "measured").await;
            tokio::time::sleep(Duration::from_millis(3500)).await;
            browser.picture(&folder.join("page-migration.png")).await;
        }
        browser.wait_for("#state", "landed").await;
        browser.wait_for("#result", "Expected and measured").await;
        let history = serving.address.split("/login").next().unwrap().to_owned() + "/migrations";
        browser.go(&history).await;
        browser.wait_for(".history", "landed").await;
        browser.close().await;
        scene.assert_landed();
    });
}

/// The same page on a phone, in the dark.
async fn on_a_phone(desk: &Browser, serving: &Serving, folder: &Path) {
    let query = desk
        .script("return location.href + '?' + new URLSearchParams(new FormData(document.getElementById('settings')))")
        .await;
    let Some(phone) = Browser::open(PHONE).await else { return };
    phone.go(&serving.address).await;
    phone.wait_for("h1", "Guests").await;
    phone.go(query.as_str().unwrap()).await;
    phone.wait_for("#implied .grade", "Simulated").await;
    phone.picture(&folder.join("page-phone.png")).await;
    phone.close().await;
}

#[test]
fn a_migration_outlives_its_page_is_changed_and_cancelled_from_the_next_and_the_guest_is_unharmed()
{
    let Some(scene) = Scene::boot(&random(64, 50), ByteRate::mb(2)) else { return };
    let folder = tempfile::tempdir().unwrap();
    let serving = Serving::start(&scene, &folder, "127.0.0.1:0");
    in_a_browser(async {
        let Some(browser) = Browser::open(DESK).await else { return };
        look(&browser, &serving, &scene).await;
        browser.type_into("#max-bandwidth", "2MB/s").await;
        start(&browser, &scene).await;
        browser.wait_for("#state", "first pass").await;

        let place = serving.place().to_owned();
        drop(serving);
        let page = browser.script("return location.href").await;
        let serving = Serving::start(&scene, &folder, &place);
        // Sessions end with the page that made them.
        browser.go(&serving.address).await;
        browser.wait_for("h1", "Guests").await;
        browser.go(page.as_str().unwrap()).await;
        let left = "return document.querySelectorAll('#now .figure')[1].innerText";
        let before = browser.script(left).await;
        let until = Instant::now() + crate::scene::PATIENCE;
        while browser.script(left).await == before {
            assert!(Instant::now() < until, "the page does not go on by itself");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }

        browser.tab_to("#max-stall").await;
        browser.type_into("#max-stall", "450ms").await;
        browser.press(ENTER).await;
        browser.wait_for("#state", "pass").await;
        let until = Instant::now() + crate::scene::PATIENCE;
        while browser.script("return document.getElementById('max-stall')?.defaultValue").await
            != "450ms"
        {
            assert!(Instant::now() < until, "what was changed is not shown");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        browser.tab_to("#cancel").await;
        browser.press(ENTER).await;
        browser.wait_for("#state", "cancelled").await;
        browser.close().await;
        drop(serving);
        scene.assert_unharmed_at_source();
    });
}
