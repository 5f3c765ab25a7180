//! The picture of one guest: its curve, and what was measured under every hold.

use std::error::Error;

use plotters::prelude::*;

use super::figures::Guest;
use super::hold::Lever;
use super::stage::{Means, Observation};

const SIZE: (u32, u32) = (760, 420);

/// What a kind of measurement looks like.
struct Series {
    name: &'static str,
    means: Means,
    lever: Lever,
    color: RGBColor,
}

const fn series(name: &'static str, means: Means, lever: Lever, color: RGBColor) -> Series {
    Series { name, means, lever, color }
}

const GREY: RGBColor = RGBColor(0x55, 0x55, 0x55);
const BLUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const ORANGE: RGBColor = RGBColor(0xd9, 0x5f, 0x02);
const GREEN: RGBColor = RGBColor(0x2c, 0xa0, 0x2c);
const RED: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const VIOLET: RGBColor = RGBColor(0x94, 0x67, 0xbd);

const ALL: [Series; 6] = [
    series("free, sampled", Means::Sampling, Lever::Free, GREY),
    series("quota, sampled", Means::Sampling, Lever::Quota, BLUE),
    series("pauses, sampled", Means::Sampling, Lever::Pause, GREEN),
    series("free, by syncs", Means::Syncs, Lever::Free, RED),
    series("quota, by syncs", Means::Syncs, Lever::Quota, ORANGE),
    series("pauses, by syncs", Means::Syncs, Lever::Pause, VIOLET),
];

/// The picture as SVG.
pub fn draw(guest: &Guest) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let place = |one: &Observation| (one.cpu.0, one.dirtied.as_f64() / 1e6);
        let shown = || guest.seen.iter().map(place).filter(|(cpu, mb)| *cpu > 0.0 && *mb > 0.0);
        let least = shown().map(|(cpu, _)| cpu).fold(f64::INFINITY, f64::min).clamp(1e-4, 1.0);
        let most = shown().map(|(cpu, _)| cpu).fold(0.1, f64::max);
        let high = shown().map(|(_, mb)| mb).fold(1.0, f64::max);
        let mut chart = ChartBuilder::on(&root)
            .caption(format!("{}: {}", guest.kind, guest.about), ("sans-serif", 16))
            .margin(8)
            .x_label_area_size(36)
            .y_label_area_size(52)
            .build_cartesian_2d((least * 0.8..most * 1.3).log_scale(), 0.0..high * 1.1)?;
        chart
            .configure_mesh()
            .x_desc("CPU seconds of the guest")
            .y_desc("MB dirtied")
            .x_label_formatter(&|cpu| format!("{cpu}"))
            .light_line_style(TRANSPARENT)
            .draw()?;
        let steps = (0..=200).map(|step| least * (most / least).powf(f64::from(step) / 200.0));
        let curve = steps.map(|cpu| {
            let due = guest.curve.dirtied(landfall_core::model::CpuTime(cpu));
            (cpu, due.as_f64() / 1e6)
        });
        chart
            .draw_series(LineSeries::new(curve, BLACK))?
            .label("D(c), fitted to free, sampled")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
        for Series { name, means, lever, color } in ALL {
            let of = guest.seen.iter().filter(|one| one.means == means && one.hold.lever == lever);
            let points = of.map(place).filter(|(cpu, mb)| *cpu > 0.0 && *mb > 0.0);
            chart
                .draw_series(points.map(|at| Circle::new(at, 3, color.mix(0.7).filled())))?
                .label(name)
                .legend(move |(x, y)| Circle::new((x + 8, y), 3, color.filled()));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}
