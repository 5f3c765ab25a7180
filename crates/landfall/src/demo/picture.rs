//! The picture of the demo: for each migration the guest's work and its CPU share over time.

use std::error::Error;
use std::path::Path;

use crate::picture::{self, BLUE, Curve, ORANGE, Panel, percent};
use crate::trial::{Seen, Trial};

/// Draws one panel for each migration, all on the same time axis.
pub fn write(path: &Path, rows: &[(Trial, Seen)]) -> Result<(), Box<dyn Error>> {
    let longest = rows.iter().map(|(_, seen)| seen.total.as_secs_f64()).fold(1.0, f64::max);
    let panels: Vec<Panel> = rows.iter().map(panel).collect();
    picture::draw(path, longest, &panels)
}

fn panel((trial, seen): &(Trial, Seen)) -> Panel {
    let work = Curve {
        label: "work of the guest, of its undisturbed rate",
        colour: BLUE,
        filled: true,
        points: seen.work.clone(),
    };
    let cpu = Curve {
        label: "CPU share of its vCPU at the source",
        colour: ORANGE,
        filled: false,
        points: seen.cpu.clone(),
    };
    Panel {
        caption: format!(
            "{}, {}: {:.1} s, {:.1} s of work lost, longest stall {:.2} s",
            trial.guest,
            trial.policy,
            seen.total.as_secs_f64(),
            seen.lost.as_secs_f64(),
            seen.longest_stall.as_secs_f64()
        ),
        top: 1.1,
        unit: percent,
        curves: vec![work, cpu],
        marks: Vec::new(),
    }
}
