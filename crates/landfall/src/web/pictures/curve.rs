//! The dirty curve of a guest, with how sure it is, against what the link carries.

use landfall_core::model::prior::Prior;
use landfall_core::model::{CpuTime, Estimator};
use maud::{Markup, html};
use plotters::prelude::*;

use super::{Axis, FIRST, LIMIT, SECOND, across, legend, line, log_chart, seconds, svg};

const HEIGHT: u32 = 240;

/// The curve; `None` while too little is known of the guest.
pub fn curve(prior: &Prior, width: u32) -> Option<Markup> {
    let estimate = Estimator::new(prior).estimate()?;
    let times = || prior.points.iter().map(|point| point.cpu.0).filter(|cpu| *cpu > 0.0);
    let least = times().fold(f64::INFINITY, f64::min).clamp(1e-3, 1.0) * 0.5;
    let most = times().fold(0.1, f64::max) * 4.0;
    let dirtied = |cpu: f64, by: f64| estimate.curve.dirtied(CpuTime(cpu)).as_f64() * by / 1e6;
    let top = (dirtied(most, 1.0 + estimate.error)).max(1.0) * 1.1;
    let steps = || (0..=80).map(|step| least * (most / least).powf(f64::from(step) / 80.0));
    let along = |by: f64| steps().map(move |cpu| (cpu, dirtied(cpu, by).min(top)));
    let label = format!(
        "Memory that the guest writes in so much of its CPU time: {}, give or take {:.0} percent",
        words(prior, &estimate.curve),
        estimate.error * 100.0
    );
    let x =
        Axis { range: least..most, labels: 5, unit: &seconds, title: "of the guest's CPU time" };
    let y = Axis { range: 0.0..top, labels: 5, unit: &|mb| format!("{mb:.0} MB"), title: "" };
    let picture = svg(&label, (width, HEIGHT), |area| {
        let mut chart = log_chart(area, &x, &y)?;
        let lower: Vec<(f64, f64)> = along(1.0 - estimate.error).collect();
        let band: Vec<(f64, f64)> =
            along(1.0 + estimate.error).chain(lower.into_iter().rev()).collect();
        chart.draw_series([Polygon::new(band, FIRST.mix(0.18))])?;
        if let (Some(link), Some(pace)) = (prior.link, prior.pace) {
            // In so much of its CPU time, at its own pace, the link carries so much.
            let carried = steps().map(|cpu| (cpu, link.0 * cpu / pace.0.max(1e-3) / 1e6));
            let carried = carried.take_while(|(_, mb)| *mb <= top);
            chart.draw_series(LineSeries::new(carried, line(LIMIT, 6)))?;
        }
        chart.draw_series(LineSeries::new(along(1.0), line(FIRST, 8)))?;
        for point in &prior.points {
            let (at, mb) = (point.cpu.0, point.dirtied.as_f64() / 1e6);
            if (least..=most).contains(&at) {
                let reach =
                    [(at, mb * (1.0 - point.error)), (at, (mb * (1.0 + point.error)).min(top))];
                chart.draw_series([PathElement::new(reach, line(SECOND, 6))])?;
                chart.draw_series([Circle::new((at, mb.min(top)), across(6), SECOND.filled())])?;
            }
        }
        Ok(())
    });
    Some(html! {
        (legend(&[
            ("first", "what it writes, and how sure that is"),
            ("second dot", "measured"),
            ("limit", "what the link carries meanwhile"),
        ]))
        (picture)
    })
}

fn words(prior: &Prior, curve: &landfall_core::model::DirtyCurve) -> String {
    let say = |point: &landfall_core::model::CurvePoint| {
        format!("{} in {}", point.dirtied, seconds(&point.cpu.0))
    };
    let measured: Vec<String> = prior.points.iter().map(say).collect();
    format!("{}, {} in all", measured.join(", "), curve.working_set())
}
