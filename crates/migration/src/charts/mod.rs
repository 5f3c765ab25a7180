//! Charts of migrations as SVG: values over time, and the dirty curve.

pub mod dirty_curve;
pub mod time_series;

use std::error::Error;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::prelude::*;

/// A chart cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// There are no measurements to draw.
    #[error("there is nothing to draw: no curve was measured")]
    Empty,
    /// The chart cannot be drawn.
    #[error("the picture cannot be drawn: {0}")]
    Draw(String),
    /// The file cannot be written.
    #[error("the picture {path} cannot be written: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A colour of the palette.
pub type Colour = RGBColor;

/// Colour of what is shown first.
pub const BLUE: Colour = RGBColor(0x1f, 0x77, 0xb4);
/// Colour of what the first is compared with.
pub const ORANGE: Colour = RGBColor(0xd9, 0x5f, 0x02);
/// A third colour.
pub const GREEN: Colour = RGBColor(0x2c, 0xa0, 0x2c);
/// A fourth colour.
pub const RED: Colour = RGBColor(0xd6, 0x27, 0x28);
/// A fifth colour.
pub const VIOLET: Colour = RGBColor(0x94, 0x67, 0xbd);
/// Colour of what recedes.
pub const GREY: Colour = RGBColor(0x55, 0x55, 0x55);

/// Writes a chart into a file.
///
/// # Errors
/// [`ChartError::Write`].
pub fn write_svg(path: &Path, svg: &str) -> Result<(), ChartError> {
    fs::write(path, svg).map_err(|source| ChartError::Write { path: path.to_owned(), source })
}

/// Where a chart is drawn.
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws on a white area and returns it as SVG.
fn render_svg(
    size: (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Result<(), Box<dyn Error>>,
) -> Result<String, ChartError> {
    let mut svg = String::new();
    let drawn = {
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)
            .map_err(Box::from)
            .and_then(|()| draw(&root))
            .and_then(|()| root.present().map_err(Box::from))
    };
    drawn.map_err(|error| ChartError::Draw(error.to_string()))?;
    Ok(svg)
}
