//! Pictures of migrations: curves over time, one panel below the other, on the same time axis.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

const WIDTH: u32 = 900;
const PANEL: u32 = 210;

/// Colours for what is shown first and what is compared with it.
pub const BLUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
pub const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x02);

/// A chart of several curves.
pub struct Panel {
    pub caption: String,
    /// The highest value shown, above zero; what is beyond either end is drawn there.
    pub top: f64,
    /// How a value is written at the axis.
    pub unit: fn(f64) -> String,
    pub curves: Vec<Curve>,
    /// Moments that something happened at, in seconds, and what.
    pub marks: Vec<(f64, String)>,
}

/// A value over time, in seconds.
pub struct Curve {
    pub label: &'static str,
    pub colour: RGBColor,
    /// The area below it is coloured as well.
    pub filled: bool,
    pub points: Vec<(f64, f64)>,
}

/// A share of one as percent.
pub fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// Draws the panels, over so many seconds, as SVG.
pub fn draw(path: &Path, seconds: f64, panels: &[Panel]) -> Result<(), Box<dyn Error>> {
    let height = PANEL * u32::try_from(panels.len())?;
    let root = SVGBackend::new(path, (WIDTH, height)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, panel) in root.split_evenly((panels.len(), 1)).iter().zip(panels) {
        panel.draw(area, seconds)?;
    }
    root.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

impl Panel {
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
