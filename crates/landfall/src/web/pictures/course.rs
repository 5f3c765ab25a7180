//! How a migration goes, or went: what is left, the dirty rate against the link, the guest's CPU. What
//! was expected beforehand is on the same picture.

use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Share};
use maud::{Markup, html};
use plotters::prelude::*;

use super::{Axis, FIRST, FORESEEN, LIMIT, SECOND, chart, legend, line, seconds, svg, thinned};
use crate::web::foreseen::Foreseen;
use crate::web::track::{Moment, Track};

const HEIGHT: u32 = 150;

struct Panel<'a> {
    title: &'a str,
    legend: Vec<(&'a str, &'a str)>,
    unit: &'a dyn Fn(&f64) -> String,
    top: f64,
    /// Drawn as an area.
    area: Option<Curve>,
    lines: Vec<Curve>,
}

struct Curve(RGBColor, Vec<(f64, f64)>);

/// The panels of a migration, one above the other.
pub fn course(track: &Track, foreseen: Option<&Foreseen>, width: u32) -> Markup {
    let course = foreseen.map(|foreseen| foreseen.course.as_slice()).unwrap_or_default();
    let expected = course.last().map_or(0.0, |point| point.0);
    let end = track.moments.last().map_or(0.0, |moment| moment.at);
    // While it goes on there is room ahead; what was expected is seen whole unless it is far away.
    let ahead = if track.report.is_some() { end } else { end * 1.08 };
    let right = ahead.max(expected.min(end.max(1.0) * 6.0)).max(1.0);
    let changes = &track.changes;
    html! {
        @for panel in [left(track, course), rates(track), cpu(track, course)] {
            figure.panel {
                figcaption { (panel.title) (legend(&panel.legend)) }
                (draw(&panel, right, changes, width))
            }
        }
    }
}

fn left<'a>(track: &Track, course: &[(f64, f64, f64)]) -> Panel<'a> {
    // Before the first page what is left is not known yet.
    let begun = |moment: &Moment| moment.phase != Phase::Setup;
    let actual = of(track, |moment| begun(moment).then(|| moment.remaining.as_f64() / 1e6));
    let foreseen: Vec<(f64, f64)> = course.iter().map(|(at, left, _)| (*at, left / 1e6)).collect();
    Panel {
        title: "Left to be sent",
        legend: vec![("first", "measured"), ("foreseen", "expected")],
        unit: &|mb| format!("{mb:.0} MB"),
        top: highest(&[&actual, &foreseen]),
        area: Some(Curve(FIRST, actual)),
        lines: vec![Curve(FORESEEN, foreseen)],
    }
}

fn rates<'a>(track: &Track) -> Panel<'a> {
    let rate = |rate: Option<ByteRate>| rate.map(|rate| rate.0 / 1e6);
    let dirty = of(track, |moment| rate(moment.dirty));
    let link = of(track, |moment| rate(moment.link));
    Panel {
        title: "Dirty rate and link",
        legend: vec![("second", "dirtied in the last pass"), ("first", "the link")],
        unit: &|mb| format!("{mb:.0} MB/s"),
        top: highest(&[&dirty, &link]),
        area: None,
        lines: vec![Curve(SECOND, dirty), Curve(FIRST, link)],
    }
}

fn cpu<'a>(track: &Track, course: &[(f64, f64, f64)]) -> Panel<'a> {
    let share = |share: Option<Share>| share.map(|share| share.get() * 100.0);
    let used = of(track, |moment| share(moment.cpu));
    let foreseen: Vec<(f64, f64)> =
        course.iter().map(|(at, _, share)| (*at, share * 100.0)).collect();
    Panel {
        title: "CPU of the guest",
        legend: vec![("second", "used"), ("foreseen", "expected, of what it wants")],
        unit: &|percent| format!("{percent:.0} %"),
        top: 110.0,
        area: Some(Curve(SECOND, used)),
        lines: vec![Curve(FORESEEN, foreseen)],
    }
}

fn of(track: &Track, value: impl Fn(&Moment) -> Option<f64>) -> Vec<(f64, f64)> {
    let point = |moment: &Moment| Some((moment.at, value(moment)?));
    track.moments.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect()
}

/// A little more than the highest value.
fn highest(curves: &[&Vec<(f64, f64)>]) -> f64 {
    let values = curves.iter().flat_map(|curve| curve.iter()).map(|(_, value)| *value);
    values.fold(1.0, f64::max).min(1e12) * 1.1
}

fn draw(panel: &Panel<'_>, right: f64, changes: &[f64], width: u32) -> Markup {
    let x = Axis { range: 0.0..right, labels: 6, unit: &seconds, title: "" };
    let y = Axis { range: 0.0..panel.top, labels: 4, unit: panel.unit, title: "" };
    let shown = |curve: &Curve| {
        let within = curve.1.iter().filter(|(at, _)| *at <= right);
        let points: Vec<(f64, f64)> =
            within.map(|(at, value)| (*at, value.clamp(0.0, panel.top))).collect();
        thinned(&points, width)
    };
    svg(&label(panel), (width, HEIGHT), |area| {
        let mut chart = chart(area, &x, &y)?;
        for at in changes.iter().filter(|at| **at <= right) {
            let up = [(*at, 0.0), (*at, panel.top)];
            chart.draw_series([PathElement::new(up, line(LIMIT, 6))])?;
        }
        if let Some(curve) = &panel.area {
            let (colour, points) = (curve.0, shown(curve));
            chart.draw_series(AreaSeries::new(points.clone(), 0.0, colour.mix(0.16)))?;
            chart.draw_series(LineSeries::new(points, line(colour, 8)))?;
        }
        for curve in &panel.lines {
            chart.draw_series(LineSeries::new(shown(curve), line(curve.0, 8)))?;
        }
        Ok(())
    })
}

/// The latest values, in words.
fn label(panel: &Panel<'_>) -> String {
    let curves = panel.area.iter().chain(&panel.lines).zip(&panel.legend);
    let last = curves.filter_map(|(curve, (_, what))| {
        let (at, value) = curve.1.last()?;
        Some(format!("{what}: {} after {}", (panel.unit)(value), seconds(at)))
    });
    format!("{}; {}", panel.title, last.collect::<Vec<_>>().join("; "))
}
