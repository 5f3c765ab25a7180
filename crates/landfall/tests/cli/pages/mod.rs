//! The pages of `docs` that are made from the program and its source: a test for each compares them.

#[cfg(feature = "lab")]
mod command_line;
mod errors;
mod specification;

use std::fs;
use std::path::{Path, PathBuf};

/// Set to write the pages instead of comparing them.
const WRITE: &str = "LANDFALL_WRITE_DOCS";

/// What writes the pages.
const COMMAND: &str = "LANDFALL_WRITE_DOCS=1 cargo test -p landfall --test cli pages::";

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Compares a page with the file of that name in `docs`, or writes the file.
#[track_caller]
fn compare_or_write(name: &str, page: &str) {
    let file = root().join("docs").join(name);
    if std::env::var_os(WRITE).is_some() {
        fs::write(file, page).unwrap();
        return;
    }
    let kept = fs::read_to_string(file).unwrap_or_default();
    let differs = page.lines().zip(kept.lines()).position(|(new, old)| new != old);
    let line = differs.unwrap_or(page.lines().count().min(kept.lines().count()));
    let shown = |text: &str| text.lines().nth(line).unwrap_or("(the end)").to_owned();
    assert!(
        page == kept,
        "docs/{name} is out of date from line {} on:\n  page: {}\n  now:  {}\nWrite it again:\n  {COMMAND}",
        line + 1,
        shown(&kept),
        shown(page),
    );
}
