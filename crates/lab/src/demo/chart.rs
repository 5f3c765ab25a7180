//! The chart of the demo: for each migration the guest's work and its CPU share over time.

use std::path::Path;

use landfall_migration::charts::time_series::{TimeCurve, TimePanel, draw_time_panels};
use landfall_migration::charts::{BLUE, ChartError, ORANGE, write_svg};
use landfall_migration::text::format_percent;

use crate::run::{LabResult, LabRun};

/// Draws one panel for each migration, all on the same time axis.
pub fn write(path: &Path, rows: &[(LabRun, LabResult)]) -> Result<(), ChartError> {
    let longest = rows.iter().map(|(_, seen)| seen.total.as_secs_f64()).fold(1.0, f64::max);
    let panels: Vec<TimePanel> = rows.iter().map(panel).collect();
    write_svg(path, &draw_time_panels(longest, &panels)?)
}

fn panel((run, seen): &(LabRun, LabResult)) -> TimePanel {
    let work = TimeCurve {
        label: "work of the guest, of its undisturbed rate",
        colour: BLUE,
        filled: true,
        points: seen.work.clone(),
    };
    let cpu = TimeCurve {
        label: "CPU share of its vCPU at the source",
        colour: ORANGE,
        filled: false,
        points: seen.cpu.clone(),
    };
    TimePanel {
        caption: format!(
            "{}, {}: {:.1} s, {:.1} s of work lost, longest stall {:.2} s",
            run.guest,
            run.policy,
            seen.total.as_secs_f64(),
            seen.lost.as_secs_f64(),
            seen.longest_stall.as_secs_f64()
        ),
        top: 1.1,
        unit: format_percent,
        curves: vec![work, cpu],
        marks: Vec::new(),
    }
}
