//! Charts of the page, as SVG that takes its colours from the page's style sheet.
//!
//! Everything that all charts share is here: sizes, scales, axes with their ticks, colours, strokes, the
//! legend. A chart's own file has only what it shows.
//!
//! plotters draws in placeholder colours; [`render_svg`] replaces each by a variable of the style sheet, so
//! a chart is light or dark as its page is. plotters works in whole pixels, so everything is drawn
//! [`SUBPIXELS`] times as large as it is shown.

mod dirty_curve_chart;
mod pareto_chart;
mod timeline_chart;

pub use dirty_curve_chart::dirty_curve_chart;
pub use pareto_chart::pareto_charts;
pub use timeline_chart::timeline_charts;

use std::error::Error;
use std::ops::Range;

use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{Ranged, ValueFormatter};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

/// Units of the drawing for each pixel shown.
const SUBPIXELS: u32 = 4;

/// Placeholder colours, by what they are for.
const TEXT: RGBColor = RGBColor(1, 0, 1);
const GRID: RGBColor = RGBColor(1, 0, 2);
const FIRST: RGBColor = RGBColor(1, 0, 3);
const SECOND: RGBColor = RGBColor(1, 0, 4);
const EXPECTED: RGBColor = RGBColor(1, 0, 5);
const LIMIT: RGBColor = RGBColor(1, 0, 6);

/// What replaces the placeholders. The first two are strokes with dashes of their own.
const STYLES: [(&str, &str); 7] = [
    ("stroke=\"#010005\"", "stroke=\"var(--expected)\" stroke-dasharray=\"20 16\""),
    ("stroke=\"#010006\"", "stroke=\"var(--limit)\" stroke-dasharray=\"8 12\""),
    ("#010001", "var(--faint)"),
    ("#010002", "var(--grid)"),
    ("#010003", "var(--first)"),
    ("#010004", "var(--second)"),
    ("#010005", "var(--expected)"),
];

/// The size of labels at the axes, in plotters' pixels; shown, they are a fifth smaller.
const LABEL_SIZE: u32 = 15;

/// Widths of lines, in pixels shown.
const CURVE_WIDTH: f64 = 2.0;
const MARK_WIDTH: f64 = 1.5;

/// The narrowest and the widest page: a phone, and a desktop.
const PAGE_WIDTHS: Range<u32> = 280..1400;

/// The width of a page whose browser did not send one.
const DEFAULT_PAGE_WIDTH: u32 = 1080;

/// Pages narrower than this have one column.
const TWO_COLUMNS: u32 = 620;

/// How wide a browser shows the page, in pixels.
#[derive(Debug, Clone, Copy)]
pub struct PageWidth(u32);

impl PageWidth {
    /// Takes the width that a browser sent, as far as it makes sense.
    pub fn from_request(width: Option<u32>) -> PageWidth {
        PageWidth(width.unwrap_or(DEFAULT_PAGE_WIDTH).clamp(PAGE_WIDTHS.start, PAGE_WIDTHS.end))
    }

    /// Returns the width of a chart as wide as the page.
    pub fn full_chart(self) -> u32 {
        self.0 - 40
    }

    /// Returns the width of a chart in one of two equal columns.
    pub fn half_chart(self) -> u32 {
        if self.0 < TWO_COLUMNS { self.full_chart() } else { self.0 / 2 - 60 }
    }

    /// Returns the width of one of two charts side by side in the wider column.
    pub fn third_chart(self) -> u32 {
        if self.0 < TWO_COLUMNS { self.full_chart() } else { self.0 * 7 / 24 - 40 }
    }
}

/// An area to draw on.
type SvgArea<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Axes to draw curves on.
type SvgAxes<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, RangedCoordf64>>;

type DrawResult<T = ()> = Result<T, Box<dyn Error>>;

/// Draws a chart. `label` says in words what it shows, for people who do not see it.
fn render_svg(
    label: &str,
    (width, height): (u32, u32),
    draw: impl FnOnce(&SvgArea<'_>) -> DrawResult,
) -> Markup {
    let (width, height) = (width * SUBPIXELS, height * SUBPIXELS);
    let mut text = String::new();
    let drawn = {
        let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
        draw(&area).and_then(|()| Ok(area.present()?))
    };
    if let Err(error) = drawn {
        return html! { p.problem { "This chart cannot be drawn (" (error) "). Reload the page." } };
    }
    let inner = text.split_once('>').map_or("", |(_, inner)| inner);
    let mut inner = inner.trim().trim_end_matches("</svg>").replace('\n', "");
    for (placeholder, style) in STYLES {
        inner = inner.replace(placeholder, style);
    }
    html! {
        svg viewBox=(format!("0 0 {width} {height}")) role="img" aria-label=(label) {
            (PreEscaped(inner))
        }
    }
}

/// An axis: its range, about how many ticks, how a tick's value is written, and its title.
struct ChartAxis<'a> {
    range: Range<f64>,
    ticks: usize,
    format: &'a dyn Fn(f64) -> String,
    title: &'a str,
}

/// Draws axes with linear scales.
fn linear_axes<'a, 'b>(
    area: &'a SvgArea<'b>,
    x: &ChartAxis<'_>,
    y: &ChartAxis<'_>,
) -> DrawResult<SvgAxes<'a, 'b, RangedCoordf64>> {
    let mut axes = layout_axes(area, x).build_cartesian_2d(x.range.clone(), y.range.clone())?;
    draw_mesh(&mut axes, x, y)?;
    Ok(axes)
}

/// Draws axes with a logarithmic scale for x.
fn log_axes<'a, 'b>(
    area: &'a SvgArea<'b>,
    x: &ChartAxis<'_>,
    y: &ChartAxis<'_>,
) -> DrawResult<SvgAxes<'a, 'b, LogCoord<f64>>> {
    let x_scale = x.range.clone().log_scale();
    let mut axes = layout_axes(area, x).build_cartesian_2d(x_scale, y.range.clone())?;
    draw_mesh(&mut axes, x, y)?;
    Ok(axes)
}

fn layout_axes<'a, 'b>(
    area: &'a SvgArea<'b>,
    x: &ChartAxis<'_>,
) -> ChartBuilder<'a, 'b, SVGBackend<'b>> {
    let mut builder = ChartBuilder::on(area);
    builder
        .margin_top(6 * SUBPIXELS)
        .margin_right(14 * SUBPIXELS)
        .x_label_area_size(if x.title.is_empty() { 22 } else { 38 } * SUBPIXELS)
        .y_label_area_size(66 * SUBPIXELS);
    builder
}

fn draw_mesh<X>(axes: &mut SvgAxes<'_, '_, X>, x: &ChartAxis<'_>, y: &ChartAxis<'_>) -> DrawResult
where
    X: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let text_style: TextStyle<'_> = ("sans-serif", LABEL_SIZE * SUBPIXELS).into_font().color(&TEXT);
    axes.configure_mesh()
        .disable_x_mesh()
        .axis_style(GRID)
        .bold_line_style(ShapeStyle::from(&GRID).stroke_width(SUBPIXELS))
        .light_line_style(TRANSPARENT)
        .set_all_tick_mark_size(3 * SUBPIXELS)
        .x_labels(x.ticks)
        .y_labels(y.ticks)
        .x_label_formatter(&|value| (x.format)(*value))
        .y_label_formatter(&|value| (y.format)(*value))
        .label_style(text_style.clone())
        .axis_desc_style(text_style)
        .x_desc(x.title)
        .draw()?;
    Ok(())
}

/// Returns the stroke of a curve.
fn curve_stroke(colour: RGBColor) -> ShapeStyle {
    stroke(colour, CURVE_WIDTH)
}

/// Returns the stroke of a limit, a range or another mark.
fn mark_stroke(colour: RGBColor) -> ShapeStyle {
    stroke(colour, MARK_WIDTH)
}

fn stroke(colour: RGBColor, width: f64) -> ShapeStyle {
    ShapeStyle::from(&colour).stroke_width((width * f64::from(SUBPIXELS)) as u32)
}

/// Returns a filled dot of so many pixels across.
fn dot(at: (f64, f64), diameter: u32, colour: RGBColor) -> Circle<(f64, f64), i32> {
    let radius = i32::try_from(diameter * SUBPIXELS / 2).unwrap_or(i32::MAX);
    Circle::new(at, radius, colour.filled())
}

/// Reduces a curve to as few points as look the same on so many pixels: the lowest and the highest of each
/// stretch, in their order.
fn thin_points(points: &[(f64, f64)], pixels: u32) -> Vec<(f64, f64)> {
    let stretches = (pixels / 2).max(1) as usize;
    if points.len() <= stretches * 2 {
        return points.to_vec();
    }
    let (first, last) = (points[0].0, points[points.len() - 1].0);
    let step = ((last - first) / stretches as f64).max(f64::MIN_POSITIVE);
    let stretch_of = |at: f64| ((at - first) / step) as usize;
    let mut kept = Vec::new();
    for stretch in points.chunk_by(|a, b| stretch_of(a.0) == stretch_of(b.0)) {
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

/// Renders what the colours of a chart mean: classes of the style sheet, and texts.
fn legend(entries: &[(&str, &str)]) -> Markup {
    html! {
        ul.legend {
            @for (class, text) in entries { li { span class={ "swatch " (class) } {} (text) } }
        }
    }
}

/// Writes a time at an axis.
fn format_axis_seconds(value: f64) -> String {
    match value {
        v if v.abs() < 1e-9 => "0 s".to_owned(),
        v if v < 0.1 => format!("{:.0} ms", v * 1e3),
        v if v < 1.0 => format!("{v:.1} s"),
        v if v < 10.0 && (v - v.round()).abs() > 1e-6 => format!("{v:.1} s"),
        v if v < 600.0 => format!("{v:.0} s"),
        v => format!("{:.0} min", v / 60.0),
    }
}

/// Writes a size in megabytes at an axis.
fn format_axis_megabytes(value: f64) -> String {
    format!("{value:.0} MB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thinned_curve_keeps_its_peaks_and_its_order() {
        let points: Vec<(f64, f64)> = (0..10_000)
            .map(|n| (f64::from(n), if n == 5_123 { 99.0 } else { f64::from(n % 7) }))
            .collect();
        let thin = thin_points(&points, 300);
        assert!(thin.len() <= 310, "{}", thin.len());
        assert!(thin.contains(&(5_123.0, 99.0)));
        assert!(thin.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(thin_points(&points[..100], 300), points[..100]);
    }

    #[test]
    fn a_chart_has_no_colour_of_its_own_and_says_what_it_shows() {
        let x = ChartAxis { range: 0.0..10.0, ticks: 5, format: &format_axis_seconds, title: "" };
        let chart = render_svg("a line & more", (320, 120), |area| {
            let mut axes = linear_axes(area, &x, &x)?;
            for colour in [FIRST, SECOND, EXPECTED, LIMIT] {
                axes.draw_series(LineSeries::new([(0.0, 0.0), (9.0, 9.0)], curve_stroke(colour)))?;
            }
            Ok(())
        });
        let text = chart.into_string();
        assert!(text.contains("aria-label=\"a line &amp; more\"") && text.contains("var(--first)"));
        assert!(!text.contains("#01") && !text.contains("style="), "{text}");
        assert!(text.ends_with("</svg>") && !text.contains('\n'));
    }
}
