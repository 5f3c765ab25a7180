//! What can be had of one figure for how much of another: work lost against the longest stall, and
//! against the total time. The chosen point is on it, with its range.

use landfall_core::planner::pareto::ParetoPoint;
use landfall_core::report::{Forecast, ForecastRange};
use landfall_core::requirements::Requirements;
use maud::{Markup, html};
use plotters::prelude::*;

use super::{
    Axis, Drawn, FIRST, FORESEEN, LIMIT, across, chart, legend, line, log_chart, seconds, svg,
};

const HEIGHT: u32 = 210;

/// What is across.
struct Across<'a> {
    title: &'a str,
    of: fn(&ParetoPoint) -> f64,
    chosen: Option<ForecastRange>,
    limit: Option<f64>,
    log: bool,
}

/// Both panels, each of this width.
pub fn frontier(
    points: &[ParetoPoint],
    chosen: Option<&Forecast>,
    asked: &Requirements,
    width: u32,
) -> Markup {
    let stall = Across {
        title: "longest stall",
        of: |point| point.longest_stall_s,
        chosen: chosen.map(|forecast| forecast.longest_stall_s),
        limit: Some(asked.max_stall.as_secs_f64()),
        log: true,
    };
    let time = Across {
        title: "total time",
        of: |point| point.total_s,
        chosen: chosen.map(|forecast| forecast.total_s),
        limit: asked.max_time.map(|limit| limit.as_secs_f64()),
        log: false,
    };
    let lost = chosen.map(|forecast| forecast.guest_cpu_lost_s);
    html! {
        (legend(&[
            ("foreseen dot", "ways to land that no other beats"),
            ("first dot", "this setting, with its range"),
            ("limit", "what you allow"),
        ]))
        .panels {
            (panel(points, &stall, lost, width))
            (panel(points, &time, lost, width))
        }
    }
}

fn panel(
    points: &[ParetoPoint],
    across_: &Across<'_>,
    lost: Option<ForecastRange>,
    width: u32,
) -> Markup {
    let at = |point: &ParetoPoint| ((across_.of)(point), point.guest_cpu_lost_s);
    let all: Vec<(f64, f64)> = points.iter().map(at).collect();
    let far =
        |range: Option<ForecastRange>| range.map_or(0.0, |range| range.high.min(range.mid * 2.0));
    let right = all.iter().map(|(x, _)| *x).fold(far(across_.chosen), f64::max).max(0.1);
    let right = across_.limit.filter(|limit| *limit < right * 3.0).map_or(right, |l| l.max(right));
    let left = if across_.log {
        let chosen = across_.chosen.map_or(f64::INFINITY, |range| range.mid);
        let limit = across_.limit.unwrap_or(f64::INFINITY);
        all.iter().map(|(x, _)| *x).fold(chosen.min(limit), f64::min).clamp(0.01, right / 2.0) * 0.8
    } else {
        0.0
    };
    let right = right * if across_.log { 1.3 } else { 1.08 };
    let top = all.iter().map(|(_, y)| *y).fold(far(lost), f64::max).max(0.1) * 1.12;
    let label = label(&all, across_, lost);
    let title = across_.title;
    let x = Axis { range: left..right, labels: 4, unit: &seconds, title };
    let y = Axis { range: 0.0..top, labels: 4, unit: &seconds, title: "" };
    let picture = svg(&label, (width, HEIGHT), |area| {
        if across_.log {
            draw(log_chart(area, &x, &y)?, &all, across_, lost, (left, right, top))
        } else {
            draw(chart(area, &x, &y)?, &all, across_, lost, (left, right, top))
        }
    });
    html! {
        figure { figcaption { "Work lost against " (title) } (picture) }
    }
}

fn draw<X>(
    mut chart: super::Chart<'_, '_, X>,
    all: &[(f64, f64)],
    across_: &Across<'_>,
    lost: Option<ForecastRange>,
    (left, right, top): (f64, f64, f64),
) -> Drawn
where
    X: plotters::coord::ranged1d::Ranged<ValueType = f64>,
{
    if let Some(limit) = across_.limit.filter(|limit| *limit < right) {
        chart.draw_series([PathElement::new([(limit, 0.0), (limit, top)], line(LIMIT, 6))])?;
    }
    let dot = |at: &(f64, f64)| Circle::new(*at, across(5), FORESEEN.filled());
    chart.draw_series(all.iter().map(dot))?;
    if let (Some(x), Some(y)) = (across_.chosen, lost) {
        let within = |x: f64, y: f64| (x.clamp(left, right), y.clamp(0.0, top));
        let bars = [
            [within(x.low, y.mid), within(x.high, y.mid)],
            [within(x.mid, y.low), within(x.mid, y.high)],
        ];
        chart.draw_series(bars.map(|bar| PathElement::new(bar, line(FIRST, 6))))?;
        chart.draw_series([Circle::new(within(x.mid, y.mid), across(11), FIRST.filled())])?;
    }
    Ok(())
}

/// The same in words.
fn label(all: &[(f64, f64)], across_: &Across<'_>, lost: Option<ForecastRange>) -> String {
    let title = across_.title;
    let ends = match (all.first(), all.last()) {
        (Some(first), Some(last)) => format!(
            "from {} with {} lost to {} with {} lost",
            seconds(&first.0),
            seconds(&first.1),
            seconds(&last.0),
            seconds(&last.1)
        ),
        _ => "no way to land is known".to_owned(),
    };
    let chosen = match (across_.chosen, lost) {
        (Some(x), Some(y)) => {
            format!("; this setting: {} with {} lost", seconds(&x.mid), seconds(&y.mid))
        }
        _ => String::new(),
    };
    format!("Work lost against {title}, {ends}{chosen}")
}
