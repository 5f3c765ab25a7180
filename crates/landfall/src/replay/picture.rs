//! The picture of a recording: what is left, how fast the guest dirties against the link, and what
//! CPU it had, with the moments at which something was decided.

use std::error::Error;
use std::path::Path;

use landfall_core::telemetry::view::View;
use landfall_core::units::{ByteRate, Share};

use super::{Step, changes};
use crate::picture::{self, BLUE, Curve, ORANGE, Panel, percent};
use crate::recording::Recording;

/// Draws it.
pub fn write(path: &Path, recording: &Recording, steps: &[Step]) -> Result<(), Box<dyn Error>> {
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
        Panel {
            caption: format!("left to be sent, by policy {}", recording.head.policy),
            top: highest(&[&left]),
            unit: |value| format!("{value:.0} MB"),
            curves: vec![left],
            marks: marks(steps),
        },
        Panel {
            caption: "dirty rate and link".to_owned(),
            top: highest(&[&dirty, &link]),
            unit: |value| format!("{value:.0} MB/s"),
            curves: vec![dirty, link],
            marks: Vec::new(),
        },
        Panel {
            caption: "CPU of the guest".to_owned(),
            top: 1.1,
            unit: percent,
            curves: vec![cpu],
            marks: marks(steps),
        },
    ];
    picture::draw(path, seconds, &panels)
}

fn curve(
    steps: &[Step],
    label: &'static str,
    colour: plotters::style::RGBColor,
    filled: bool,
    value: impl Fn(&View) -> Option<f64>,
) -> Curve {
    let point = |step: &Step| Some((step.view.now.as_secs_f64(), value(&step.view)?));
    let points = steps.iter().filter_map(point).filter(|(_, value)| value.is_finite()).collect();
    Curve { label, colour, filled, points }
}

/// A little more than the highest value.
fn highest(curves: &[&Curve]) -> f64 {
    let values = curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value);
    values.fold(1.0, f64::max).min(1e300) * 1.1
}

fn marks(steps: &[Step]) -> Vec<(f64, String)> {
    let decided = changes::changes(steps).into_iter().filter(|change| change.decided);
    decided.map(|change| (change.at.as_secs_f64(), change.what)).collect()
}
