//! The dirty curve as a picture: what was measured, with how sure that is, and the curve through it. In a
//! terminal, and as SVG.

use std::path::Path;

use landfall_core::model::prior::Prior;
use landfall_core::model::{CpuTime, CurvePoint, DirtyCurve, Estimator};
use plotters::prelude::*;

use crate::page;
use crate::picture::BLUE;
use crate::words::seconds;

/// A curve over CPU time on a logarithmic scale, and what it was made of.
pub struct Chart {
    curve: DirtyCurve,
    points: Vec<CurvePoint>,
    /// Shortest and longest CPU time shown.
    span: (f64, f64),
    /// The most memory shown, in MB.
    top: f64,
}

impl Chart {
    /// `None` where nothing was measured.
    pub fn of(prior: &Prior) -> Option<Chart> {
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
        let high = points.iter().map(|point| bars(point).1).fold(in_mb(&curve, span.1), f64::max);
        Some(Chart { curve, points, span, top: (high * 1.05).max(0.001) })
    }

    fn at(&self, part: f64) -> f64 {
        let (from, to) = self.span;
        from * (to / from).powf(part)
    }

    fn part(&self, cpu: f64) -> f64 {
        let (from, to) = self.span;
        (cpu / from).ln() / (to / from).ln()
    }
}

fn in_mb(curve: &DirtyCurve, cpu: f64) -> f64 {
    curve.dirtied(CpuTime(cpu)).as_f64() / 1e6
}

/// Two standard errors to either side, in MB.
fn bars(point: &CurvePoint) -> (f64, f64) {
    let mb = point.dirtied.as_f64() / 1e6;
    let off = 2.0 * point.error * mb;
    ((mb - off).max(0.0), mb + off)
}

const COLUMNS: usize = 56;
const ROWS: usize = 10;

/// The picture for a terminal.
pub fn in_text(chart: &Chart) -> String {
    let mut cells = [[' '; COLUMNS]; ROWS];
    let row = |mb: f64| {
        let part = (mb / chart.top).clamp(0.0, 1.0);
        ROWS - 1 - ((part * ROWS as f64) as usize).min(ROWS - 1)
    };
    for (column, part) in
        (0..COLUMNS).map(|column| (column, (column as f64 + 0.5) / COLUMNS as f64))
    {
        cells[row(in_mb(&chart.curve, chart.at(part)))][column] = '.';
    }
    let column = |cpu: f64| ((chart.part(cpu) * COLUMNS as f64) as usize).min(COLUMNS - 1);
    for point in &chart.points {
        let (column, (low, high)) = (column(point.cpu.0), bars(point));
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
    let (from, to) = (seconds(chart.span.0), seconds(chart.span.1));
    let axis = "of its own CPU time";
    text.push_str(&format!("  {:>9}  {from}{axis:^1$}{to}\n", "", COLUMNS - from.len() - to.len()));
    text.push_str(&format!("  {:>9}  o measured, | two standard errors, . curve\n", ""));
    text
}

const SIZE: (u32, u32) = (760, 420);

/// Writes the picture as SVG.
///
/// # Errors
/// In words: there is nothing to draw, or nowhere to write it.
pub fn draw(path: &Path, prior: &Prior) -> Result<(), String> {
    let chart = Chart::of(prior).ok_or("there is nothing to draw: no curve was measured")?;
    let cannot =
        |error: String| format!("the picture {} cannot be written: {error}", path.display());
    let svg = as_svg(&chart).map_err(|error| cannot(error.to_string()))?;
    page::file(path, &svg).map_err(|error| cannot(error.to_string()))
}

/// The picture as SVG.
pub fn as_svg(chart: &Chart) -> Result<String, Box<dyn std::error::Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let (from, to) = chart.span;
        let mut axes = ChartBuilder::on(&root)
            .caption("How the guest writes its memory", ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(56)
            .build_cartesian_2d((from..to).log_scale(), 0.0..chart.top)?;
        axes.configure_mesh()
            .x_desc("CPU time of the guest")
            .y_desc("MB dirtied")
            .x_label_formatter(&|cpu| seconds(*cpu))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let steps = (0..=200).map(|step| chart.at(f64::from(step) / 200.0));
        let curve = steps.map(|cpu| (cpu, in_mb(&chart.curve, cpu)));
        axes.draw_series(LineSeries::new(curve, BLACK))?
            .label("the curve through them")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
        let bar = |point: &CurvePoint| {
            let (low, high) = bars(point);
            let middle = point.dirtied.as_f64() / 1e6;
            ErrorBar::new_vertical(point.cpu.0, low, middle, high, BLUE.filled(), 8)
        };
        axes.draw_series(chart.points.iter().map(bar))?
            .label("measured, two standard errors")
            .legend(|(x, y)| Circle::new((x + 8, y), 3, BLUE.filled()));
        axes.configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
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
        let text = in_text(&Chart::of(&prior()).unwrap());
        let above_the_legend = text.rsplit_once("o measured").unwrap().0;
        assert_eq!(
            above_the_legend.matches('o').count() - "of its own CPU time".matches('o').count(),
            3,
            "{text}"
        );
        assert!(above_the_legend.contains('|') && above_the_legend.contains('.'), "{text}");
        let svg = as_svg(&Chart::of(&prior()).unwrap()).unwrap();
        assert!(svg.contains("MB dirtied") && svg.contains("standard errors"), "{svg}");
    }

    #[test]
    fn of_nothing_there_is_no_picture() {
        assert!(Chart::of(&Prior::default()).is_none());
        let still = CurvePoint { cpu: CpuTime(0.0), dirtied: Bytes(0), error: 0.0 };
        assert!(Chart::of(&Prior { points: vec![still], ..Prior::default() }).is_none());
    }
}
