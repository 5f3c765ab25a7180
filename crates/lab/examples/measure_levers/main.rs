//! Measures on a real QEMU what each lever that landfall has on a migration really does.
//!
//! `cargo run --release -p landfall-lab --example measure_levers -- [NAME..]`, as root, on an idle
//! machine; without a name all levers, which takes about 40 minutes. `LANDFALL_QEMU` and
//! `LANDFALL_QEMU_ARGS` choose the QEMU, as for the tests. Writes Markdown to standard output, and
//! what did not come off to standard error. `docs/measurements/` has results.
//!
//! Guests are those of `landfall-testguest`: what a lever does to the guest is told by the guest's own
//! beats. The migration goes through a relay that lets 100 MB/s through whatever QEMU does.

mod asking;
mod bandwidth;
mod cancel;
mod figures;
mod lift;
mod limit;
mod pause;
mod postcopy;
mod quota;
mod ship;
mod stage;
mod yank;

use std::error::Error;
use std::time::Instant;

use landfall_core::units::Bytes;
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload};

/// What came of something that can fail in many ways.
type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Measures one lever and prints its tables.
type Measure = fn() -> Outcome;

/// Name, heading, measurement.
const LEVERS: &[(&str, &str, Measure)] = &[
    ("quota", "Quota on the vCPU thread", quota::measure),
    ("ship", "Downtime limit raised on the way (ship)", ship::measure),
    ("limit", "Landing unaided under a downtime limit", limit::measure),
    ("links", "Landing unaided over other links", limit::other_links),
    ("bandwidth", "Bandwidth limit changed on the way", bandwidth::measure),
    ("pause", "Stop and continue", pause::measure),
    ("cancel", "Cancel", cancel::measure),
    ("postcopy", "Post-copy", postcopy::measure),
    ("yank", "Final copy over a dead link, and the ways out", yank::measure),
    ("asking", "Cost of asking", asking::measure),
    ("lift", "Quota lifted just before the switch-over", lift::measure),
];

fn main() -> Outcome {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let known = |name: &String| LEVERS.iter().any(|(known, ..)| known == name);
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let all: Vec<&str> = LEVERS.iter().map(|(name, ..)| *name).collect();
        return Err(format!("{name:?} is no lever; choose from {}", all.join(", ")).into());
    }
    for (name, heading, measure) in LEVERS {
        if !names.is_empty() && !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let began = Instant::now();
        println!("\n## {heading} (`{name}`)\n");
        let load = load();
        measure()?;
        let minutes = began.elapsed().as_secs_f64() / 60.0;
        println!(
            "\nQEMU {}, {minutes:.1} min, load {load} before and {} after.",
            version()?,
            self::load()
        );
    }
    Ok(())
}

/// A guest that writes at random, in a machine not much larger than its working set.
fn random(mib: u64, pages_per_second: u64) -> GuestSpec {
    sized(Workload::Random { rate: PagesPerSecond(pages_per_second) }, mib)
}

/// A guest that dirties all of its working set in milliseconds.
fn sweep(mib: u64) -> GuestSpec {
    sized(Workload::Sweep, mib)
}

fn sized(kind: Workload, mib: u64) -> GuestSpec {
    GuestSpec {
        memory: Bytes::mib(mib * 2 + 32),
        working_set: Bytes::mib(mib),
        ..GuestSpec::new(kind)
    }
}

/// Does something so many times over; what failed is told and left out.
fn repeat<T>(times: usize, mut once: impl FnMut(usize) -> Outcome<T>) -> Vec<T> {
    let mut result =
        |turn| once(turn).inspect_err(|error| eprintln!("turn {turn} failed: {error}"));
    (0..times).filter_map(|turn| result(turn).ok()).collect()
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("unknown").to_owned()
}

fn version() -> Outcome<String> {
    let stage = stage::Stage::boot(&sized(Workload::Idle, 4), stage::Wire::Bare)?;
    Ok(stage.source.version().to_owned())
}
