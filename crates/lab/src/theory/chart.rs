//! The chart of one guest: its curve, and what was measured under every hold.

use landfall_migration::charts::dirty_curve::{
    CurvePlot, CurveSeries, PlottedPoint, draw_curve_plot,
};
use landfall_migration::charts::{BLUE, ChartError, Colour, GREEN, GREY, ORANGE, RED, VIOLET};

use super::figures::MeasuredGuest;
use super::stage::{Means, StageObservation};
use super::throttle::ThrottleKind;

/// What a kind of measurement looks like.
struct Series {
    name: &'static str,
    means: Means,
    lever: ThrottleKind,
    colour: Colour,
}

const fn series(name: &'static str, means: Means, lever: ThrottleKind, colour: Colour) -> Series {
    Series { name, means, lever, colour }
}

const ALL: [Series; 6] = [
    series("free, sampled", Means::Sampling, ThrottleKind::Free, GREY),
    series("quota, sampled", Means::Sampling, ThrottleKind::Quota, BLUE),
    series("pauses, sampled", Means::Sampling, ThrottleKind::Pause, GREEN),
    series("free, by syncs", Means::Syncs, ThrottleKind::Free, RED),
    series("quota, by syncs", Means::Syncs, ThrottleKind::Quota, ORANGE),
    series("pauses, by syncs", Means::Syncs, ThrottleKind::Pause, VIOLET),
];

/// Draws the chart of one guest.
pub fn draw(guest: &MeasuredGuest) -> Result<String, ChartError> {
    let place = |one: &StageObservation| (one.cpu.0, one.dirtied.as_f64() / 1e6);
    let is_shown = |(cpu, mb): &(f64, f64)| *cpu > 0.0 && *mb > 0.0;
    let shown = || guest.seen.iter().map(place).filter(is_shown);
    let least = shown().map(|(cpu, _)| cpu).fold(f64::INFINITY, f64::min).clamp(1e-4, 1.0);
    let most = shown().map(|(cpu, _)| cpu).fold(0.1, f64::max);
    let high = shown().map(|(_, mb)| mb).fold(1.0, f64::max);
    let series = ALL.map(|Series { name, means, lever, colour }| {
        let of = guest.seen.iter().filter(|one| one.means == means && one.hold.lever == lever);
        let points = of.map(place).filter(is_shown);
        let points = points.map(|(cpu, mb)| PlottedPoint { cpu, mb, error_bar: None }).collect();
        CurveSeries { label: name, colour, points }
    });
    draw_curve_plot(&CurvePlot {
        caption: format!("{}: {}", guest.kind, guest.about),
        curve_label: "D(c), fitted to free, sampled",
        curve: &guest.curve,
        curve_span: (least, most),
        span: (least * 0.8, most * 1.3),
        top: high * 1.1,
        series: series.into(),
    })
}
