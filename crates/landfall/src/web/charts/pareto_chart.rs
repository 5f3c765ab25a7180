//! What one figure costs in another: work lost against the longest stall, and against the total time. The
//! settings of the page are marked, with their range.

use landfall_core::planner::pareto::ParetoPoint;
use landfall_core::report::{Forecast, ForecastRange};
use landfall_core::requirements::Requirements;
use maud::{Markup, html};
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::{
    ChartAxis, DrawResult, EXPECTED, FIRST, LIMIT, SvgAxes, dot, format_axis_seconds, legend,
    linear_axes, log_axes, mark_stroke, render_svg,
};

const HEIGHT: u32 = 210;

/// The figure that a chart sets against the work lost.
struct ParetoFigure<'a> {
    title: &'a str,
    value: fn(&ParetoPoint) -> f64,
    chosen: Option<ForecastRange>,
    limit: Option<f64>,
    log_scale: bool,
}

/// The ends of both axes.
struct ChartBounds {
    left: f64,
    right: f64,
    top: f64,
}

/// Draws both charts, each of this width.
pub fn pareto_charts(
    points: &[ParetoPoint],
    chosen: Option<&Forecast>,
    asked: &Requirements,
    width: u32,
) -> Markup {
    let stall = ParetoFigure {
        title: "longest stall",
        value: |point| point.longest_stall_s,
        chosen: chosen.map(|forecast| forecast.longest_stall_s),
        limit: Some(asked.max_stall.as_secs_f64()),
        log_scale: true,
    };
    let time = ParetoFigure {
        title: "total time",
        value: |point| point.total_s,
        chosen: chosen.map(|forecast| forecast.total_s),
        limit: asked.max_time.map(|limit| limit.as_secs_f64()),
        log_scale: false,
    };
    let lost = chosen.map(|forecast| forecast.guest_cpu_lost_s);
    html! {
        (legend(&[
            ("expected dot", "the best possible trade-offs"),
            ("first dot", "these settings, with their range"),
            ("limit", "your limit"),
        ]))
        .panels {
            (pareto_chart(points, &stall, lost, width))
            (pareto_chart(points, &time, lost, width))
        }
    }
}

fn pareto_chart(
    points: &[ParetoPoint],
    figure: &ParetoFigure<'_>,
    lost: Option<ForecastRange>,
    width: u32,
) -> Markup {
    let coordinates = |point: &ParetoPoint| ((figure.value)(point), point.guest_cpu_lost_s);
    let all: Vec<(f64, f64)> = points.iter().map(coordinates).collect();
    let bounds = chart_bounds(&all, figure, lost);
    let label = describe_chart(&all, figure, lost);
    let x = ChartAxis {
        range: bounds.left..bounds.right,
        ticks: 4,
        format: &format_axis_seconds,
        title: figure.title,
    };
    let y = ChartAxis { range: 0.0..bounds.top, ticks: 4, format: &format_axis_seconds, title: "" };
    let chart = render_svg(&label, (width, HEIGHT), |area| {
        if figure.log_scale {
            draw_points(log_axes(area, &x, &y)?, &all, figure, lost, &bounds)
        } else {
            draw_points(linear_axes(area, &x, &y)?, &all, figure, lost, &bounds)
        }
    });
    html! {
        figure { figcaption { "Work lost against " (figure.title) } (chart) }
    }
}

/// Chooses ends that show all points, the settings with most of their range, and the limit if it is near.
fn chart_bounds(
    all: &[(f64, f64)],
    figure: &ParetoFigure<'_>,
    lost: Option<ForecastRange>,
) -> ChartBounds {
    let far_end =
        |range: Option<ForecastRange>| range.map_or(0.0, |range| range.high.min(range.mid * 2.0));
    let right = all.iter().map(|(x, _)| *x).fold(far_end(figure.chosen), f64::max).max(0.1);
    let near_limit = figure.limit.filter(|limit| *limit < right * 3.0);
    let right = near_limit.map_or(right, |limit| limit.max(right));
    let left = if figure.log_scale {
        let chosen = figure.chosen.map_or(f64::INFINITY, |range| range.mid);
        let limit = figure.limit.unwrap_or(f64::INFINITY);
        all.iter().map(|(x, _)| *x).fold(chosen.min(limit), f64::min).clamp(0.01, right / 2.0) * 0.8
    } else {
        0.0
    };
    let right = right * if figure.log_scale { 1.3 } else { 1.08 };
    let top = all.iter().map(|(_, y)| *y).fold(far_end(lost), f64::max).max(0.1) * 1.12;
    ChartBounds { left, right, top }
}

fn draw_points<X>(
    mut axes: SvgAxes<'_, '_, X>,
    all: &[(f64, f64)],
    figure: &ParetoFigure<'_>,
    lost: Option<ForecastRange>,
    bounds: &ChartBounds,
) -> DrawResult
where
    X: Ranged<ValueType = f64>,
{
    if let Some(limit) = figure.limit.filter(|limit| *limit < bounds.right) {
        let line = PathElement::new([(limit, 0.0), (limit, bounds.top)], mark_stroke(LIMIT));
        axes.draw_series([line])?;
    }
    axes.draw_series(all.iter().map(|at| dot(*at, 5, EXPECTED)))?;
    if let (Some(x), Some(y)) = (figure.chosen, lost) {
        let clamped =
            |x: f64, y: f64| (x.clamp(bounds.left, bounds.right), y.clamp(0.0, bounds.top));
        let ranges = [
            [clamped(x.low, y.mid), clamped(x.high, y.mid)],
            [clamped(x.mid, y.low), clamped(x.mid, y.high)],
        ];
        axes.draw_series(ranges.map(|range| PathElement::new(range, mark_stroke(FIRST))))?;
        axes.draw_series([dot(clamped(x.mid, y.mid), 11, FIRST)])?;
    }
    Ok(())
}

/// Says in words what a chart shows.
fn describe_chart(
    all: &[(f64, f64)],
    figure: &ParetoFigure<'_>,
    lost: Option<ForecastRange>,
) -> String {
    let title = figure.title;
    let ends = match (all.first(), all.last()) {
        (Some(first), Some(last)) => format!(
            "from {} with {} lost to {} with {} lost",
            format_axis_seconds(first.0),
            format_axis_seconds(first.1),
            format_axis_seconds(last.0),
            format_axis_seconds(last.1)
        ),
        _ => "no way to land is known".to_owned(),
    };
    let chosen = match (figure.chosen, lost) {
        (Some(x), Some(y)) => format!(
            "; these settings: {} with {} lost",
            format_axis_seconds(x.mid),
            format_axis_seconds(y.mid)
        ),
        _ => String::new(),
    };
    format!("Work lost against {title}, {ends}{chosen}")
}
