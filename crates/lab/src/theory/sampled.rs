//! Distinct memory dirtied under a hold, by QEMU's page sampling.

use std::time::{Duration, Instant};

use landfall_core::units::Bytes;
use serde_json::json;
use tokio::time::sleep;

use super::error::TheoryError;
use super::stage::{Means, StageObservation, TheoryStage};
use super::throttle::{ThrottleKind, ThrottleSetting};

/// Spans over which the free guest is measured: what the curve is fitted to. Milliseconds, from the
/// shortest that QEMU takes.
const FREE: [u64; 6] = [50, 100, 200, 500, 1000, 2000];

/// How often, so that a phase of the guest or of the host does not make the curve.
const ROUNDS: usize = 3;

/// Spans under each hold, in milliseconds.
const HELD: [u64; 2] = [500, 1200];

/// Percent, and milliseconds.
const SHARES: [u64; 4] = [50, 20, 10, 5];
const PERIODS: [u64; 3] = [20, 100, 250];
const PAUSES: [u64; 1] = [100];

/// A hold wants a while to settle: a quota that was just written is a gift.
const SETTLE: Duration = Duration::from_millis(250);

/// Most samples QEMU takes of a GiB.
const PAGES_PER_GIB: u64 = 16384;

/// All the holds.
pub fn holds() -> Vec<ThrottleSetting> {
    let of = |lever, periods: &[u64]| -> Vec<ThrottleSetting> {
        let each = |ms: &u64| SHARES.map(|percent| ThrottleSetting::new(lever, percent, *ms));
        periods.iter().flat_map(each).collect()
    };
    [of(ThrottleKind::Quota, &PERIODS), of(ThrottleKind::Pause, &PAUSES)].concat()
}

/// Measures the guest free, and under every hold.
pub async fn all(stage: &mut TheoryStage) -> Result<Vec<StageObservation>, TheoryError> {
    let mut seen = Vec::new();
    for _ in 0..ROUNDS {
        for ms in FREE {
            seen.push(one(stage, ThrottleSetting::FREE, Duration::from_millis(ms)).await?);
        }
    }
    for hold in holds() {
        stage.throttler.set(hold).await?;
        sleep(SETTLE).await;
        for ms in HELD {
            seen.push(one(stage, hold, Duration::from_millis(ms)).await?);
        }
    }
    stage.throttler.set(ThrottleSetting::FREE).await?;
    Ok(seen)
}

async fn one(
    stage: &mut TheoryStage,
    hold: ThrottleSetting,
    span: Duration,
) -> Result<StageObservation, TheoryError> {
    // landfall itself measures in another way, so the experiment asks by the harness's monitor.
    let mut monitor = stage.raw_machine()?;
    let ms = span.as_millis() as u64;
    let arguments = json!({
        "mode": "page-sampling", "sample-pages": PAGES_PER_GIB,
        "calc-time": ms, "calc-time-unit": "millisecond",
    });
    monitor.run_with("calc-dirty-rate", arguments)?;
    let begun = Instant::now();
    sleep(span).await;
    let unit = json!({ "calc-time-unit": "millisecond" });
    let answer = loop {
        let answer = monitor.run_with("query-dirty-rate", unit.clone())?;
        if answer["status"] != "measuring" {
            break answer;
        }
        sleep(Duration::from_millis(2)).await;
    };
    let rate = answer["dirty-rate"].as_u64().ok_or(TheoryError::NotSampled)?;
    let took = Duration::from_millis(answer["calc-time"].as_u64().ok_or(TheoryError::NotSampled)?);
    // QEMU looks at all samples, waits for the rest of the span and looks at them again, each a span
    // after its first look. The middle one stands for all.
    let looking = begun.elapsed().saturating_sub(took);
    let from = begun + looking / 2;
    let mib = |n: f64| n * Bytes::mib(1).as_f64();
    let memory = stage.pair.source.spec().memory.as_f64();
    let dirtied = mib((rate as f64 + 0.5) * took.as_secs_f64()).min(memory);
    let samples = memory / Bytes::mib(1024).as_f64() * PAGES_PER_GIB as f64;
    let part = dirtied / memory;
    let drawn = memory * (part.max(1.0 / samples) * (1.0 - part) / samples).sqrt();
    let rounded = mib(took.as_secs_f64()) / 12f64.sqrt();
    let error = drawn.hypot(rounded) / dirtied.max(1.0);
    let span = (from, from + took);
    stage.observe(Means::Sampling, hold, span, Bytes(dirtied as u64), error).await
}
