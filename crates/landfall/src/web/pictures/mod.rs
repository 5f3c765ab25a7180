//! Pictures of the page, as SVG that takes its colours from the page's style sheet.
//!
//! plotters draws in placeholder colours, each of which becomes a variable of the style sheet: so a
//! picture is light or dark as the page is. It reckons in whole pixels; so all is drawn [`FINE`] times as
//! large as it is shown.

mod course;
mod curve;
mod frontier;

pub use course::course;
pub use curve::curve;
pub use frontier::frontier;

use std::error::Error;
use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;

const FINE: u32 = 4;

/// Colours by what they are for.
pub const INK: RGBColor = RGBColor(1, 0, 1);
pub const GRID: RGBColor = RGBColor(1, 0, 2);
pub const FIRST: RGBColor = RGBColor(1, 0, 3);
pub const SECOND: RGBColor = RGBColor(1, 0, 4);
pub const FORESEEN: RGBColor = RGBColor(1, 0, 5);
pub const LIMIT: RGBColor = RGBColor(1, 0, 6);

const STYLES: [(&str, &str); 7] = [
    ("stroke=\"#010005\"", "stroke=\"var(--foreseen)\" stroke-dasharray=\"20 16\""),
    ("stroke=\"#010006\"", "stroke=\"var(--limit)\" stroke-dasharray=\"8 12\""),
    ("#010001", "var(--faint)"),
    ("#010002", "var(--grid)"),
    ("#010003", "var(--first)"),
    ("#010004", "var(--second)"),
    ("#010005", "var(--foreseen)"),
];

/// How wide the contents of a page are: on a phone, and at a desk.
const WIDTHS: Range<u32> = 280..1400;

/// Below this all is in one column.
const NARROW: u32 = 620;

/// Room for pictures, as the browser says how wide it shows a page.
#[derive(Debug, Clone, Copy)]
pub struct Room(u32);

impl Room {
    /// What was asked for, as far as it makes sense; a desk's where nothing was.
    pub fn of(asked: Option<u32>) -> Room {
        Room(asked.unwrap_or(1080).clamp(WIDTHS.start, WIDTHS.end))
    }

    /// A picture as wide as the page.
    pub fn whole(self) -> u32 {
        self.0 - 40
    }

    /// A picture in one of two columns.
    pub fn half(self) -> u32 {
        if self.0 < NARROW { self.whole() } else { self.0 / 2 - 60 }
    }

    /// One of two pictures side by side in the wider column.
    pub fn third(self) -> u32 {
        if self.0 < NARROW { self.whole() } else { self.0 * 7 / 24 - 40 }
    }
}

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Drawn = Result<(), Box<dyn Error>>;

/// A picture, and what it shows in words for who does not see it.
pub fn svg(
    label: &str,
    (width, height): (u32, u32),
    draw: impl FnOnce(&Area<'_>) -> Drawn,
) -> Markup {
    let (wide, high) = (width * FINE, height * FINE);
    let mut text = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut text, (wide, high)).into_drawing_area();
        draw(&area).and_then(|()| Ok(area.present()?))
    };
    if let Err(error) = drawn {
        return html! { p.problem { "The picture cannot be drawn: " (error) } };
    }
    let inner = text.split_once('>').map_or("", |(_, inner)| inner);
    let mut inner = inner.trim().trim_end_matches("</svg>").replace('\n', "");
    for (colour, style) in STYLES {
        inner = inner.replace(colour, style);
    }
    html! {
        svg viewBox=(format!("0 0 {wide} {high}")) role="img" aria-label=(label) {
            (PreEscaped(inner))
        }
    }
}

/// How an axis is written.
pub struct Axis<'a> {
    pub range: Range<f64>,
    pub labels: usize,
    pub unit: &'a dyn Fn(&f64) -> String,
    pub title: &'a str,
}

pub type Chart<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, RangedCoordf64>>;
type RangedCoordf64 = plotters::coord::types::RangedCoordf64;

/// An empty chart with its axes.
pub fn chart<'a, 'b>(
    area: &'a Area<'b>,
    x: &Axis<'_>,
    y: &Axis<'_>,
) -> Result<Chart<'a, 'b, RangedCoordf64>, Box<dyn Error>> {
    let mut chart = builder(area, x).build_cartesian_2d(x.range.clone(), y.range.clone())?;
    mesh(&mut chart, x, y)?;
    Ok(chart)
}

/// The same with times on a logarithmic scale.
pub fn log_chart<'a, 'b>(
    area: &'a Area<'b>,
    x: &Axis<'_>,
    y: &Axis<'_>,
) -> Result<Chart<'a, 'b, LogCoord<f64>>, Box<dyn Error>> {
    let across = x.range.clone().log_scale();
    let mut chart = builder(area, x).build_cartesian_2d(across, y.range.clone())?;
    mesh(&mut chart, x, y)?;
    Ok(chart)
}

fn builder<'a, 'b>(area: &'a Area<'b>, x: &Axis<'_>) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_top(6 * FINE)
        .margin_right(14 * FINE)
        .x_label_area_size(if x.title.is_empty() { 22 } else { 38 } * FINE)
        .y_label_area_size(66 * FINE);
    builder
}

fn mesh<'b, X>(
    chart: &mut Chart<'_, 'b, X>,
    x: &Axis<'_>,
    y: &Axis<'_>,
) -> Result<(), Box<dyn Error>>
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>
        + plotters::coord::ranged1d::ValueFormatter<f64>,
    'b: 'b,
{
    chart
        .configure_mesh()
        .disable_x_mesh()
        .axis_style(GRID)
        .bold_line_style(ShapeStyle::from(&GRID).stroke_width(FINE))
        .light_line_style(TRANSPARENT)
        .set_all_tick_mark_size(3 * FINE)
        .x_labels(x.labels)
        .y_labels(y.labels)
        .x_label_formatter(x.unit)
        .y_label_formatter(y.unit)
        .label_style(words(15))
        .axis_desc_style(words(15))
        .x_desc(x.title)
        .draw()?;
    Ok(())
}

/// Text of so many pixels, plotters' own: shown it is a fifth smaller.
pub fn words(size: u32) -> TextStyle<'static> {
    ("sans-serif", size * FINE).into_font().color(&INK)
}

/// A line of so many quarters of a pixel.
pub fn line(colour: RGBColor, quarters: u32) -> ShapeStyle {
    ShapeStyle::from(&colour).stroke_width(quarters)
}

/// Dots have so many pixels across, shown.
pub fn across(pixels: u32) -> i32 {
    i32::try_from(pixels * FINE / 2).unwrap_or(i32::MAX)
}

/// As few points as show the same on so many pixels: of each stretch the lowest and the highest, in
/// their order.
pub fn thinned(points: &[(f64, f64)], pixels: u32) -> Vec<(f64, f64)> {
    let stretches = (pixels / 2).max(1) as usize;
    if points.len() <= stretches * 2 {
        return points.to_vec();
    }
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let step = ((last - first) / stretches as f64).max(f64::MIN_POSITIVE);
    let place = |at: f64| ((at - first) / step) as usize;
    let mut kept = Vec::new();
    for stretch in points.chunk_by(|a, b| place(a.0) == place(b.0)) {
        let by_value = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
        let (Some(low), Some(high)) =
            (stretch.iter().min_by(by_value), stretch.iter().max_by(by_value))
        else {
            continue;
        };
        let (early, late) = if low.0 <= high.0 { (low, high) } else { (high, low) };
        kept.push(*early);
        if late.0 > early.0 {
            kept.push(*late);
        }
    }
    kept
}

/// What the colours of a picture mean.
pub fn legend(entries: &[(&str, &str)]) -> Markup {
    html! {
        ul.legend {
            @for (class, text) in entries { li { span class={ "swatch " (class) } {} (text) } }
        }
    }
}

/// Seconds at an axis.
pub fn seconds(value: &f64) -> String {
    match *value {
        v if v.abs() < 1e-9 => "0 s".to_owned(),
        v if v < 0.1 => format!("{:.0} ms", v * 1e3),
        v if v < 1.0 => format!("{v:.1} s"),
        v if v < 10.0 && (v - v.round()).abs() > 1e-6 => format!("{v:.1} s"),
        v if v < 600.0 => format!("{v:.0} s"),
        v => format!("{:.0} min", v / 60.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_peaks_and_its_order() {
        let points: Vec<(f64, f64)> = (0..10_000)
            .map(|n| (f64::from(n), if n == 5_123 { 99.0 } else { f64::from(n % 7) }))
            .collect();
        let thin = thinned(&points, 300);
        assert!(thin.len() <= 310, "{}", thin.len());
        assert!(thin.contains(&(5_123.0, 99.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thinned(&points[..100], 300), points[..100]);
    }

    #[test]
    fn a_picture_has_no_colour_of_its_own_and_says_what_it_shows() {
        let x = Axis { range: 0.0..10.0, labels: 5, unit: &seconds, title: "" };
        let picture = svg("a line & more", (320, 120), |area| {
            let mut chart = chart(area, &x, &x)?;
            for colour in [FIRST, SECOND, FORESEEN, LIMIT] {
                chart.draw_series(LineSeries::new([(0.0, 0.0), (9.0, 9.0)], line(colour, 8)))?;
            }
            Ok(())
        });
        let text = picture.into_string();
        assert!(text.contains("aria-label=\"a line &amp; more\"") && text.contains("var(--first)"));
        assert!(!text.contains("#01") && !text.contains("style="), "{text}");
        assert!(text.ends_with("</svg>") && !text.contains('\n'));
    }
}
