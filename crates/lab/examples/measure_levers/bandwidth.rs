//! `max-bandwidth` changed while a migration runs, and what the final copy makes of it.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::Bytes;
use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{Landing, RATE, Stage, Wire, jitter};
use crate::{Outcome, random, repeat, sweep};

const REPEATS: usize = 6;
const FAST: u64 = 100_000_000;
const SLOW: u64 = 50_000_000;
/// How long a rate is watched before and after a change.
const STEADY: Duration = Duration::from_millis(1500);
/// After a change, what is left out before the new rate is taken to be steady.
const SETTLE: Duration = Duration::from_millis(500);

/// One change of the limit.
struct Change {
    /// From the command until the flow bends: where the lines of the old and the new rate meet.
    delay: f64,
    /// The new rate against the new limit, in percent.
    accuracy: f64,
}

pub fn measure() -> Outcome {
    println!("Guest: sweep 48 MiB, through a relay that only counts.\n");
    head(&["change MB/s", "changes", "effective after ms", "rate reached, % of the limit"]);
    for (name, from, to) in [("100 to 50", FAST, SLOW), ("50 to 100", SLOW, FAST)] {
        let changes = repeat(REPEATS, |turn| change(from, to, turn));
        row(&[
            &name,
            &changes.len(),
            &Figures::new(changes.iter().map(|c| c.delay)),
            &Figures::new(changes.iter().map(|c| c.accuracy)),
        ]);
    }
    println!(
        "\nThe final copy, `max-bandwidth` 50 MB/s, guest random 48 MiB, 50 000 pages/s, shipped:\n"
    );
    head(&["over", "landings", "sent MB", "blackout seen ms", "sent / blackout MB/s"]);
    let ways = [
        ("bare loopback", Wire::Bare),
        ("relay without a rate", Wire::Relay),
        ("link of 100 MB/s", Wire::Link(RATE)),
    ];
    for (name, wire) in ways {
        let landings = repeat(REPEATS, |turn| ship_capped(wire, turn));
        let mb = |landing: &Landing| landing.downtime_bytes.as_f64() / 1e6;
        row(&[
            &name,
            &landings.len(),
            &Figures::new(landings.iter().map(mb)),
            &Figures::ms(landings.iter().map(Landing::blackout)),
            &Figures::new(landings.iter().map(|l| mb(l) / l.blackout().as_secs_f64())),
        ]);
    }
    Ok(())
}

fn change(from: u64, to: u64, turn: usize) -> Outcome<Change> {
    let mut stage = Stage::boot(&sweep(48), Wire::Relay)?;
    stage.set(json!({ "max-bandwidth": from }))?;
    stage.begin()?;
    sleep(SETTLE);
    jitter(turn, Duration::from_millis(100));
    let before = watch(&stage)?;
    let asked = stage.source.ask("migrate-set-parameters", json!({ "max-bandwidth": to }))?;
    sleep(SETTLE);
    let after = watch(&stage)?;
    // Bytes as seconds pass: passed = start + rate * (t - first).
    let origin = asked.asked;
    let bend = (after.passed_at(origin) - before.passed_at(origin)) / (before.rate - after.rate);
    Ok(Change { delay: bend * 1e3, accuracy: after.rate / to as f64 * 100.0 })
}

/// A steady flow as a straight line.
struct Line {
    at: Instant,
    passed: f64,
    rate: f64,
}

impl Line {
    /// Bytes at a moment that may be before or after what was watched.
    fn passed_at(&self, moment: Instant) -> f64 {
        let later = moment.saturating_duration_since(self.at).as_secs_f64();
        let earlier = self.at.saturating_duration_since(moment).as_secs_f64();
        self.passed + self.rate * (later - earlier)
    }
}

/// The straight line that comes nearest to a while of the flow.
fn watch(stage: &Stage) -> Outcome<Line> {
    let until = Instant::now() + STEADY;
    let flow = stage.flow(|_| Instant::now() > until)?;
    let at = flow.first().ok_or("no flow")?.0;
    let points = flow.iter().map(|(t, Bytes(b))| ((*t - at).as_secs_f64(), *b as f64));
    let count = flow.len() as f64;
    let (mean_t, mean_b) = points.clone().fold((0.0, 0.0), |(t, b), (x, y)| (t + x, b + y));
    let (mean_t, mean_b) = (mean_t / count, mean_b / count);
    let (both, square) = points.fold((0.0, 0.0), |(both, square), (t, b)| {
        (both + (t - mean_t) * (b - mean_b), square + (t - mean_t).powi(2))
    });
    let rate = both / square;
    Ok(Line { at, passed: mean_b - rate * mean_t, rate })
}

fn ship_capped(wire: Wire, turn: usize) -> Outcome<Landing> {
    let mut stage = Stage::boot(&random(48, 50_000), wire)?;
    stage.set(json!({ "max-bandwidth": SLOW }))?;
    stage.begin()?;
    stage.pass(3)?;
    jitter(turn, Duration::from_millis(300));
    let asked = stage.ship()?;
    stage.landed(asked)
}
