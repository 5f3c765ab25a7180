//! Pages of measurements: what people wrote above the mark stays, the figures below it are new.

use std::fs;
use std::io;
use std::path::Path;

/// Writes what a command has measured below its mark.
pub fn write(page: &Path, command: &str, figures: &str) -> io::Result<()> {
    let mark = format!("<!-- Below: written by `{command}`. -->");
    let old = fs::read_to_string(page).unwrap_or_default();
    let prose = old.split(&mark).next().unwrap_or_default();
    if let Some(folder) = page.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(page, format!("{prose}{mark}\n{figures}"))
}

/// Writes a picture that a page shows.
pub fn picture(folder: &Path, name: &str, svg: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    file(&folder.join(name), svg)
}

/// Writes a picture that somebody asked for.
pub fn file(path: &Path, svg: &str) -> io::Result<()> {
    fs::write(path, svg)
}
