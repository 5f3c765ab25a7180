//! The picture of the demo: for each migration the guest's work and its CPU share over time.

use std::error::Error;
use std::path::Path;

use plotters::prelude::*;

use crate::trial::{Seen, Trial};

const WIDTH: u32 = 900;
const PANEL: u32 = 210;

/// Draws one panel for each migration, all on the same time axis.
pub fn write(path: &Path, rows: &[(Trial, Seen)]) -> Result<(), Box<dyn Error>> {
    let longest = rows.iter().map(|(_, seen)| seen.total.as_secs_f64()).fold(1.0, f64::max);
    let root = SVGBackend::new(path, (WIDTH, PANEL * rows.len() as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, (trial, seen)) in root.split_evenly((rows.len(), 1)).iter().zip(rows) {
        let total = seen.total.as_secs_f64();
        let caption = format!(
            "{}, {}: {total:.1} s, {:.1} s of work lost, longest stall {:.2} s",
            trial.guest,
            trial.policy,
            seen.lost.as_secs_f64(),
            seen.longest_stall.as_secs_f64()
        );
        let mut chart = ChartBuilder::on(area)
            .caption(caption, ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(28)
            .y_label_area_size(48)
            .build_cartesian_2d(0.0..longest, 0.0..1.1)?;
        chart
            .configure_mesh()
            .x_desc("seconds since the start")
            .y_labels(5)
            .y_label_formatter(&|share| format!("{:.0} %", share * 100.0))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let capped = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().map(|(at, share)| (*at, share.min(1.1))).collect()
        };
        let blue = RGBColor(0x1f, 0x77, 0xb4);
        let orange = RGBColor(0xd9, 0x5f, 0x02);
        chart
            .draw_series(
                AreaSeries::new(capped(&seen.work), 0.0, blue.mix(0.25)).border_style(blue),
            )?
            .label("work of the guest, of its undisturbed rate")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], blue));
        chart
            .draw_series(LineSeries::new(capped(&seen.cpu), orange.stroke_width(2)))?
            .label("CPU share of its vCPU at the source")
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], orange));
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperRight)
            .background_style(WHITE.mix(0.8))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
