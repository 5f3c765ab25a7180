//! A migration over time: what is left to send, the dirty rate against the link, the guest's CPU. What was
//! expected beforehand is on the same charts.

use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Share};
use maud::{Markup, html};
use plotters::prelude::*;

use super::{
    ChartAxis, EXPECTED, FIRST, LIMIT, SECOND, curve_stroke, format_axis_megabytes,
    format_axis_seconds, legend, linear_axes, mark_stroke, render_svg, thin_points,
};
use crate::web::expected_course::{ExpectedCourse, ExpectedPoint};
use crate::web::timeline::{MigrationTimeline, TimelinePoint};

const HEIGHT: u32 = 150;

struct TimelinePanel<'a> {
    title: &'a str,
    legend: Vec<(&'a str, &'a str)>,
    format: &'a dyn Fn(f64) -> String,
    top: f64,
    /// Drawn with the area below it.
    filled: Option<PanelCurve>,
    lines: Vec<PanelCurve>,
}

struct PanelCurve {
    colour: RGBColor,
    points: Vec<(f64, f64)>,
}

impl PanelCurve {
    fn new(colour: RGBColor, points: Vec<(f64, f64)>) -> PanelCurve {
        PanelCurve { colour, points }
    }
}

/// Draws the charts of a migration, one below the other.
pub fn timeline_charts(
    timeline: &MigrationTimeline,
    expected: Option<&ExpectedCourse>,
    width: u32,
) -> Markup {
    let expected = expected.map(|expected| expected.points.as_slice()).unwrap_or_default();
    let expected_end = expected.last().map_or(0.0, |point| point.at_s);
    let end = timeline.points.last().map_or(0.0, |point| point.at_s);
    // A running migration has room ahead. The expected course is shown whole unless it is far longer.
    let ahead = if timeline.report.is_some() { end } else { end * 1.08 };
    let right = ahead.max(expected_end.min(end.max(1.0) * 6.0)).max(1.0);
    let panels =
        [remaining_panel(timeline, expected), rates_panel(timeline), cpu_panel(timeline, expected)];
    html! {
        @for panel in panels {
            figure.panel {
                figcaption { (panel.title) (legend(&panel.legend)) }
                (draw_panel(&panel, right, &timeline.changes_s, width))
            }
        }
    }
}

fn remaining_panel<'a>(
    timeline: &MigrationTimeline,
    expected: &[ExpectedPoint],
) -> TimelinePanel<'a> {
    // During setup, what is left is not known yet.
    let measured = measured_points(timeline, |point| {
        (point.phase != Phase::Setup).then(|| point.remaining.as_f64() / 1e6)
    });
    let expected: Vec<(f64, f64)> =
        expected.iter().map(|point| (point.at_s, point.remaining_bytes / 1e6)).collect();
    TimelinePanel {
        title: "Left to send",
        legend: vec![("first", "measured"), ("expected", "expected")],
        format: &format_axis_megabytes,
        top: top_above(&[&measured, &expected]),
        filled: Some(PanelCurve::new(FIRST, measured)),
        lines: vec![PanelCurve::new(EXPECTED, expected)],
    }
}

fn rates_panel<'a>(timeline: &MigrationTimeline) -> TimelinePanel<'a> {
    let mb_per_s = |rate: Option<ByteRate>| rate.map(|rate| rate.0 / 1e6);
    let dirty = measured_points(timeline, |point| mb_per_s(point.dirty_rate));
    let link = measured_points(timeline, |point| mb_per_s(point.link));
    TimelinePanel {
        title: "Dirty rate and link",
        legend: vec![("second", "dirty rate in the last pass"), ("first", "link")],
        format: &|mb| format!("{mb:.0} MB/s"),
        top: top_above(&[&dirty, &link]),
        filled: None,
        lines: vec![PanelCurve::new(SECOND, dirty), PanelCurve::new(FIRST, link)],
    }
}

fn cpu_panel<'a>(timeline: &MigrationTimeline, expected: &[ExpectedPoint]) -> TimelinePanel<'a> {
    let percent = |share: Option<Share>| share.map(|share| share.get() * 100.0);
    let used = measured_points(timeline, |point| percent(point.used_cpu));
    let expected: Vec<(f64, f64)> =
        expected.iter().map(|point| (point.at_s, point.cpu_share * 100.0)).collect();
    TimelinePanel {
        title: "CPU of the guest",
        legend: vec![("second", "used"), ("expected", "expected, as part of what it wants")],
        format: &|percent| format!("{percent:.0} %"),
        top: 110.0,
        filled: Some(PanelCurve::new(SECOND, used)),
        lines: vec![PanelCurve::new(EXPECTED, expected)],
    }
}

fn measured_points(
    timeline: &MigrationTimeline,
    value: impl Fn(&TimelinePoint) -> Option<f64>,
) -> Vec<(f64, f64)> {
    let point = |point: &TimelinePoint| Some((point.at_s, value(point)?));
    timeline.points.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect()
}

/// Returns the end of an axis a little above the highest value.
fn top_above(curves: &[&Vec<(f64, f64)>]) -> f64 {
    let values = curves.iter().flat_map(|curve| curve.iter()).map(|(_, value)| *value);
    values.fold(1.0, f64::max).min(1e12) * 1.1
}

fn draw_panel(panel: &TimelinePanel<'_>, right: f64, changes_s: &[f64], width: u32) -> Markup {
    let x = ChartAxis { range: 0.0..right, ticks: 6, format: &format_axis_seconds, title: "" };
    let y = ChartAxis { range: 0.0..panel.top, ticks: 4, format: panel.format, title: "" };
    let visible = |curve: &PanelCurve| {
        let within = curve.points.iter().filter(|(at, _)| *at <= right);
        let points: Vec<(f64, f64)> =
            within.map(|(at, value)| (*at, value.clamp(0.0, panel.top))).collect();
        thin_points(&points, width)
    };
    render_svg(&describe_panel(panel), (width, HEIGHT), |area| {
        let mut axes = linear_axes(area, &x, &y)?;
        for at in changes_s.iter().filter(|at| **at <= right) {
            let line = [(*at, 0.0), (*at, panel.top)];
            axes.draw_series([PathElement::new(line, mark_stroke(LIMIT))])?;
        }
        if let Some(curve) = &panel.filled {
            let points = visible(curve);
            axes.draw_series(AreaSeries::new(points.clone(), 0.0, curve.colour.mix(0.16)))?;
            axes.draw_series(LineSeries::new(points, curve_stroke(curve.colour)))?;
        }
        for curve in &panel.lines {
            axes.draw_series(LineSeries::new(visible(curve), curve_stroke(curve.colour)))?;
        }
        Ok(())
    })
}

/// Says the latest values in words.
fn describe_panel(panel: &TimelinePanel<'_>) -> String {
    let curves = panel.filled.iter().chain(&panel.lines).zip(&panel.legend);
    let latest = curves.filter_map(|(curve, (_, what))| {
        let (at, value) = curve.points.last()?;
        Some(format!("{what}: {} after {}", (panel.format)(*value), format_axis_seconds(*at)))
    });
    format!("{}; {}", panel.title, latest.collect::<Vec<_>>().join("; "))
}
