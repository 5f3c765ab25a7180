//! The dirty curve of a guest, with its uncertainty, against what the link carries in the same time.

use landfall_core::model::prior::Prior;
use landfall_core::model::{CurvePoint, DirtyCurve, Estimator};
use landfall_core::units::CpuTime;
use maud::{Markup, html};
use plotters::prelude::*;

use super::{
    ChartAxis, FIRST, LIMIT, SECOND, curve_stroke, dot, format_axis_megabytes, format_axis_seconds,
    legend, log_axes, mark_stroke, render_svg,
};

const HEIGHT: u32 = 240;

/// Points that the curve is drawn by.
const STEPS: u32 = 80;

/// Draws the dirty curve; `None` while too little is known of the guest.
pub fn dirty_curve_chart(prior: &Prior, width: u32) -> Option<Markup> {
    let estimate = Estimator::new(prior).estimate()?;
    let times = || prior.points.iter().map(|point| point.cpu.0).filter(|cpu| *cpu > 0.0);
    let least = times().fold(f64::INFINITY, f64::min).clamp(1e-3, 1.0) * 0.5;
    let most = times().fold(0.1, f64::max) * 4.0;
    let dirtied_mb =
        |cpu: f64, factor: f64| estimate.curve.dirtied(CpuTime(cpu)).as_f64() * factor / 1e6;
    let top = dirtied_mb(most, 1.0 + estimate.error).max(1.0) * 1.1;
    let steps =
        || (0..=STEPS).map(|step| least * (most / least).powf(f64::from(step) / f64::from(STEPS)));
    let curve = |factor: f64| steps().map(move |cpu| (cpu, dirtied_mb(cpu, factor).min(top)));
    let label = format!(
        "Memory that the guest dirties in a given CPU time: {}, plus or minus {:.0} percent",
        describe_points(prior, &estimate.curve),
        estimate.error * 100.0
    );
    let x = ChartAxis {
        range: least..most,
        ticks: 5,
        format: &format_axis_seconds,
        title: "of the guest's CPU time",
    };
    let y = ChartAxis { range: 0.0..top, ticks: 5, format: &format_axis_megabytes, title: "" };
    let chart = render_svg(&label, (width, HEIGHT), |area| {
        let mut axes = log_axes(area, &x, &y)?;
        let lower: Vec<(f64, f64)> = curve(1.0 - estimate.error).collect();
        let band: Vec<(f64, f64)> =
            curve(1.0 + estimate.error).chain(lower.into_iter().rev()).collect();
        axes.draw_series([Polygon::new(band, FIRST.mix(0.18))])?;
        if let (Some(link), Some(pace)) = (prior.link, prior.cpu_demand) {
            // While the guest uses that much CPU time at its own rate, the link carries this much.
            let carried = steps().map(|cpu| (cpu, link.0 * cpu / pace.0.max(1e-3) / 1e6));
            let carried = carried.take_while(|(_, mb)| *mb <= top);
            axes.draw_series(LineSeries::new(carried, mark_stroke(LIMIT)))?;
        }
        axes.draw_series(LineSeries::new(curve(1.0), curve_stroke(FIRST)))?;
        for point in &prior.points {
            let (cpu, mb) = (point.cpu.0, point.dirtied.as_f64() / 1e6);
            if (least..=most).contains(&cpu) {
                let range =
                    [(cpu, mb * (1.0 - point.error)), (cpu, (mb * (1.0 + point.error)).min(top))];
                axes.draw_series([PathElement::new(range, mark_stroke(SECOND))])?;
                axes.draw_series([dot((cpu, mb.min(top)), 6, SECOND)])?;
            }
        }
        Ok(())
    });
    Some(html! {
        (legend(&[
            ("first", "memory dirtied, with its range"),
            ("second dot", "measured"),
            ("limit", "what the link carries in that time"),
        ]))
        (chart)
    })
}

fn describe_points(prior: &Prior, curve: &DirtyCurve) -> String {
    let describe =
        |point: &CurvePoint| format!("{} in {}", point.dirtied, format_axis_seconds(point.cpu.0));
    let measured: Vec<String> = prior.points.iter().map(describe).collect();
    format!("{}, {} in all", measured.join(", "), curve.working_set())
}
