//! Values over time, one panel below the other, all on the same time axis.

use std::error::Error;

use plotters::prelude::*;

use super::{Area, ChartError, Colour, render_svg};

const WIDTH: u32 = 900;
const PANEL_HEIGHT: u32 = 210;

/// A chart of several curves.
pub struct TimePanel {
    /// What it shows.
    pub caption: String,
    /// The highest value shown, above zero; values beyond either end are drawn there.
    pub top: f64,
    /// How a value is written at the axis.
    pub unit: fn(f64) -> String,
    /// The curves.
    pub curves: Vec<TimeCurve>,
    /// Moments at which something happened, in seconds, and what.
    pub marks: Vec<(f64, String)>,
}

/// A value over time.
pub struct TimeCurve {
    /// What it is.
    pub label: &'static str,
    /// Its colour.
    pub colour: Colour,
    /// Whether the area below it is coloured as well.
    pub filled: bool,
    /// Seconds and value.
    pub points: Vec<(f64, f64)>,
}

/// Draws the panels, over so many seconds.
///
/// # Errors
/// [`ChartError::Draw`].
pub fn draw_time_panels(seconds: f64, panels: &[TimePanel]) -> Result<String, ChartError> {
    let height = PANEL_HEIGHT * panels.len() as u32;
    render_svg((WIDTH, height), |root| {
        let areas = root.split_evenly((panels.len(), 1));
        areas.iter().zip(panels).try_for_each(|(area, panel)| panel.draw(area, seconds))
    })
}

impl TimePanel {
    fn draw(&self, area: &Area<'_>, seconds: f64) -> Result<(), Box<dyn Error>> {
        let mut chart = ChartBuilder::on(area)
            .caption(&self.caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(64)
            .build_cartesian_2d(0.0..seconds, 0.0..self.top)?;
        chart
            .configure_mesh()
            .x_desc("seconds since the start")
            .y_labels(5)
            .y_label_formatter(&|value| (self.unit)(*value))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for curve in &self.curves {
            let colour = curve.colour;
            let points = curve.points.iter().map(|(at, value)| (*at, value.clamp(0.0, self.top)));
            let drawn = if curve.filled {
                let area = AreaSeries::new(points, 0.0, colour.mix(0.25)).border_style(colour);
                chart.draw_series(area)?
            } else {
                chart.draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            };
            drawn
                .label(curve.label)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        let grey = BLACK.mix(0.4);
        for (at, what) in &self.marks {
            let line = PathElement::new([(*at, 0.0), (*at, self.top)], grey);
            let word = Text::new(what.clone(), (*at, self.top), ("sans-serif", 11));
            chart.draw_series([line])?;
            chart.draw_series([word])?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    }
}
