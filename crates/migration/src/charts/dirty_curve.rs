//! The dirty curve as a chart: what was measured, with its error, and the curve through it. As text for a
//! terminal, and as SVG.

use landfall_core::model::prior::Prior;
use landfall_core::model::{CurvePoint, DirtyCurve, Estimator};
use landfall_core::units::CpuTime;
use plotters::prelude::*;

use super::{BLUE, ChartError, Colour, render_svg};
use crate::text::format_seconds;

/// A dirty curve over CPU time on a logarithmic scale, and the measurements it was fitted to.
pub struct DirtyCurveChart {
    curve: DirtyCurve,
    points: Vec<CurvePoint>,
    /// Shortest and longest CPU time shown.
    span: (f64, f64),
    /// The most memory shown, in MB.
    top: f64,
}

impl DirtyCurveChart {
    /// Fits the curve; `None` if nothing was measured.
    pub fn of(prior: &Prior) -> Option<DirtyCurveChart> {
        let curve = Estimator::new(prior).estimate()?.curve;
        let points: Vec<CurvePoint> =
            prior.points.iter().copied().filter(|p| p.cpu.0 > 0.0).collect();
        let cpu = || points.iter().map(|point| point.cpu.0);
        let least = cpu().fold(f64::INFINITY, f64::min);
        let most = cpu().fold(0.0, f64::max);
        if !(least.is_finite() && most > 0.0) {
            return None;
        }
        let span = (least / 1.5, most * 1.5);
        let high = points
            .iter()
            .map(|point| error_bar(point).1)
            .fold(dirtied_mb(&curve, span.1), f64::max);
        Some(DirtyCurveChart { curve, points, span, top: (high * 1.05).max(0.001) })
    }

    /// Returns the CPU time at a part of the axis.
    fn cpu_at(&self, part: f64) -> f64 {
        let (from, to) = self.span;
        from * (to / from).powf(part)
    }

    /// Returns the part of the axis at which a CPU time is.
    fn part_at(&self, cpu: f64) -> f64 {
        let (from, to) = self.span;
        (cpu / from).ln() / (to / from).ln()
    }
}

fn dirtied_mb(curve: &DirtyCurve, cpu: f64) -> f64 {
    curve.dirtied(CpuTime(cpu)).as_f64() / 1e6
}

/// Two standard errors to either side, in MB.
fn error_bar(point: &CurvePoint) -> (f64, f64) {
    let mb = point.dirtied.as_f64() / 1e6;
    let off = 2.0 * point.error * mb;
    ((mb - off).max(0.0), mb + off)
}

const COLUMNS: usize = 56;
const ROWS: usize = 10;

/// Draws the chart as text.
pub fn draw_as_text(chart: &DirtyCurveChart) -> String {
    let mut cells = [[' '; COLUMNS]; ROWS];
    let row = |mb: f64| {
        let part = (mb / chart.top).clamp(0.0, 1.0);
        ROWS - 1 - ((part * ROWS as f64) as usize).min(ROWS - 1)
    };
    for (column, part) in
        (0..COLUMNS).map(|column| (column, (column as f64 + 0.5) / COLUMNS as f64))
    {
        cells[row(dirtied_mb(&chart.curve, chart.cpu_at(part)))][column] = '.';
    }
    let column = |cpu: f64| ((chart.part_at(cpu) * COLUMNS as f64) as usize).min(COLUMNS - 1);
    for point in &chart.points {
        let (column, (low, high)) = (column(point.cpu.0), error_bar(point));
        for line in &mut cells[row(high)..=row(low)] {
            line[column] = '|';
        }
        cells[row(point.dirtied.as_f64() / 1e6)][column] = 'o';
    }
    let mut text = String::new();
    for (row, line) in cells.iter().enumerate() {
        let label = match row {
            0 => format!("{:.*} MB", usize::from(chart.top < 10.0), chart.top),
            _ if row == ROWS - 1 => "0 MB".to_owned(),
            _ => String::new(),
        };
        let line: String = line.iter().collect();
        text.push_str(&format!("  {label:>9} |{}\n", line.trim_end()));
    }
    text.push_str(&format!("  {:>9} +{}\n", "", "-".repeat(COLUMNS)));
    let (from, to) = (format_seconds(chart.span.0), format_seconds(chart.span.1));
    let axis = "of its own CPU time";
    text.push_str(&format!("  {:>9}  {from}{axis:^1$}{to}\n", "", COLUMNS - from.len() - to.len()));
    text.push_str(&format!("  {:>9}  o measured, | two standard errors, . curve\n", ""));
    text
}

const SIZE: (u32, u32) = (760, 420);

/// Memory dirtied over CPU time as SVG: a curve, and measurements of the same guest.
pub struct CurvePlot<'a> {
    /// What it shows.
    pub caption: String,
    /// What the curve is.
    pub curve_label: &'static str,
    /// The curve.
    pub curve: &'a DirtyCurve,
    /// Shortest and longest CPU time for which the curve is drawn, in seconds.
    pub curve_span: (f64, f64),
    /// Shortest and longest CPU time shown, in seconds.
    pub span: (f64, f64),
    /// The most memory shown, in MB.
    pub top: f64,
    /// The measurements.
    pub series: Vec<CurveSeries>,
}

/// Measurements of one kind.
pub struct CurveSeries {
    /// What they are.
    pub label: &'static str,
    /// Their colour.
    pub colour: Colour,
    /// The measurements.
    pub points: Vec<PlottedPoint>,
}

/// One measurement.
pub struct PlottedPoint {
    /// CPU time in seconds.
    pub cpu: f64,
    /// Memory dirtied, in MB.
    pub mb: f64,
    /// Lower and upper end of the error bar, in MB; `None` for a measurement without one.
    pub error_bar: Option<(f64, f64)>,
}

/// Draws a curve and its measurements.
///
/// # Errors
/// [`ChartError::Draw`].
pub fn draw_curve_plot(plot: &CurvePlot<'_>) -> Result<String, ChartError> {
    render_svg(SIZE, |root| {
        let (from, to) = plot.span;
        let mut axes = ChartBuilder::on(root)
            .caption(&plot.caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((from..to).log_scale(), 0.0..plot.top)?;
        axes.configure_mesh()
            .x_desc("CPU time of the guest")
            .y_desc("MB dirtied")
            .x_label_formatter(&|cpu| format_seconds(*cpu))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let (from, to) = plot.curve_span;
        let steps = (0..=200).map(|step| from * (to / from).powf(f64::from(step) / 200.0));
        let curve = steps.map(|cpu| (cpu, dirtied_mb(plot.curve, cpu)));
        axes.draw_series(LineSeries::new(curve, BLACK))?
            .label(plot.curve_label)
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
        for CurveSeries { label, colour, points } in &plot.series {
            let bars = points.iter().filter_map(|PlottedPoint { cpu, mb, error_bar }| {
                let (low, high) = (*error_bar)?;
                Some(ErrorBar::new_vertical(*cpu, low, *mb, high, colour.filled(), 8))
            });
            axes.draw_series(bars)?;
            let bare = points.iter().filter(|point| point.error_bar.is_none());
            let dot = colour.mix(0.7).filled();
            let legend = colour.filled();
            axes.draw_series(bare.map(|point| Circle::new((point.cpu, point.mb), 3, dot)))?
                .label(*label)
                .legend(move |(x, y)| Circle::new((x + 8, y), 3, legend));
        }
        axes.configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        Ok(())
    })
}

/// Draws what the probe measured and the curve through it.
///
/// # Errors
/// [`ChartError`]; it is [`ChartError::Empty`] if nothing was measured.
pub fn draw_prior(prior: &Prior) -> Result<String, ChartError> {
    let chart = DirtyCurveChart::of(prior).ok_or(ChartError::Empty)?;
    let point = |point: &CurvePoint| PlottedPoint {
        cpu: point.cpu.0,
        mb: point.dirtied.as_f64() / 1e6,
        error_bar: Some(error_bar(point)),
    };
    draw_curve_plot(&CurvePlot {
        caption: "How the guest writes its memory".to_owned(),
        curve_label: "the curve through them",
        curve: &chart.curve,
        curve_span: chart.span,
        span: chart.span,
        top: chart.top,
        series: vec![CurveSeries {
            label: "measured, two standard errors",
            colour: BLUE,
            points: chart.points.iter().map(point).collect(),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::units::Bytes;

    fn prior() -> Prior {
        let point = |cpu: f64, mb: u64| CurvePoint {
            cpu: CpuTime(cpu),
            dirtied: Bytes(mb * 1_000_000),
            error: 0.15,
        };
        Prior { points: vec![point(0.05, 8), point(0.2, 30), point(1.0, 80)], ..Prior::default() }
    }

    #[test]
    fn each_point_is_in_the_picture_with_its_error() {
        let text = draw_as_text(&DirtyCurveChart::of(&prior()).unwrap());
        let above_the_legend = text.rsplit_once("o measured").unwrap().0;
        assert_eq!(
            above_the_legend.matches('o').count() - "of its own CPU time".matches('o').count(),
            3,
            "{text}"
        );
        assert!(above_the_legend.contains('|') && above_the_legend.contains('.'), "{text}");
        let svg = draw_prior(&prior()).unwrap();
        assert!(svg.contains("MB dirtied") && svg.contains("standard errors"), "{svg}");
    }

    #[test]
    fn of_nothing_there_is_no_picture() {
        assert!(matches!(draw_prior(&Prior::default()), Err(ChartError::Empty)));
        let still = CurvePoint { cpu: CpuTime(0.0), dirtied: Bytes(0), error: 0.0 };
        assert!(DirtyCurveChart::of(&Prior { points: vec![still], ..Prior::default() }).is_none());
    }
}
