//! The chart of a recording: what is left, how fast the guest dirties against the link, and what
//! CPU it had, with the moments at which something was decided.

use std::path::Path;

use landfall_core::telemetry::view::View;
use landfall_core::units::{ByteRate, Share};
use landfall_migration::charts::time_series::{TimeCurve, TimePanel, draw_time_panels};
use landfall_migration::charts::{BLUE, ChartError, Colour, ORANGE, write_svg};
use landfall_migration::recording::Recording;
use landfall_migration::text::format_percent;

use super::{ReplayStep, changes};

/// Draws it.
pub fn write(path: &Path, recording: &Recording, steps: &[ReplayStep]) -> Result<(), ChartError> {
    let seconds = steps.iter().map(|step| step.view.now.as_secs_f64()).fold(0.1, f64::max);
    let megabytes = |bytes: f64| Some(bytes / 1e6);
    let rate = |rate: Option<ByteRate>| rate.and_then(|rate| megabytes(rate.0));
    let left =
        curve(steps, "left to be sent", BLUE, true, |view| megabytes(view.remaining.as_f64()));
    let dirty =
        curve(steps, "dirtied in the last pass", ORANGE, false, |view| rate(view.dirty_rate()));
    let link = curve(steps, "the link", BLUE, false, |view| rate(view.link));
    let cpu = curve(steps, "CPU the vCPUs used", ORANGE, true, |view| {
        view.mean_used_share().map(Share::get)
    });
    let panels = [
        TimePanel {
            caption: format!("left to be sent, by policy {}", recording.head.policy),
            top: highest(&[&left]),
            unit: |value| format!("{value:.0} MB"),
            curves: vec![left],
            marks: marks(steps),
        },
        TimePanel {
            caption: "dirty rate and link".to_owned(),
            top: highest(&[&dirty, &link]),
            unit: |value| format!("{value:.0} MB/s"),
            curves: vec![dirty, link],
            marks: Vec::new(),
        },
        TimePanel {
            caption: "CPU of the guest".to_owned(),
            top: 1.1,
            unit: format_percent,
            curves: vec![cpu],
            marks: marks(steps),
        },
    ];
    write_svg(path, &draw_time_panels(seconds, &panels)?)
}

fn curve(
    steps: &[ReplayStep],
    label: &'static str,
    colour: Colour,
    filled: bool,
    value: impl Fn(&View) -> Option<f64>,
) -> TimeCurve {
    let point = |step: &ReplayStep| Some((step.view.now.as_secs_f64(), value(&step.view)?));
    let points = steps.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect();
    TimeCurve { label, colour, filled, points }
}

/// A little more than the highest value.
fn highest(curves: &[&TimeCurve]) -> f64 {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    values.fold(1.0, f64::max).min(1e300) * 1.1
}

fn marks(steps: &[ReplayStep]) -> Vec<(f64, String)> {
    let decided = changes::changes(steps).into_iter().filter(|change| change.decided);
    decided.map(|change| (change.at.as_secs_f64(), change.what)).collect()
}
