//! Pages of measurements in `docs/`: the text above a mark stays, the figures below it are replaced.

use std::fs;
use std::io;
use std::path::Path;

/// Writes what a command has measured below its mark on a page.
///
/// # Errors
/// The folder or the page cannot be written.
pub fn replace_figures(page: &Path, command: &str, figures: &str) -> io::Result<()> {
    let mark = format!("<!-- Below: written by `{command}`. -->");
    let old = fs::read_to_string(page).unwrap_or_default();
    let prose = old.split(&mark).next().unwrap_or_default();
    if let Some(folder) = page.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(page, format!("{prose}{mark}\n{figures}"))
}

/// Writes a picture that a page shows.
///
/// # Errors
/// The folder or the picture cannot be written.
pub fn write_picture(folder: &Path, name: &str, svg: &str) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(name), svg)
}
