//! What it costs to ask: QEMU's CPU, ours, and the migration's own time.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::Bytes;
use landfall_qemu::cgroup::Quota;
use landfall_testguest::{GuestSpec, Workload};
use serde_json::json;

use crate::figures::{Figures, head, row, short};
use crate::stage::{RATE, Stage, Wire, cpu_time};
use crate::{Outcome, repeat, sized, sweep};

const MS: fn(u64) -> Duration = Duration::from_millis;
const WATCH: Duration = Duration::from_secs(3);
const REPEATS: usize = 5;

/// How often is asked.
#[derive(Clone, Copy)]
enum Asking {
    Never,
    Every(Duration),
    FlatOut,
}

const ASKINGS: [(&str, Asking); 4] = [
    ("not at all", Asking::Never),
    ("every 100 ms", Asking::Every(Duration::from_millis(100))),
    ("every 10 ms", Asking::Every(Duration::from_millis(10))),
    ("flat out", Asking::FlatOut),
];

pub fn measure() -> Outcome {
    println!(
        "Guest: sweep 48 MiB, link 100 MB/s. CPU in % of one core over {WATCH:?}: QEMU's without its"
    );
    println!("vCPU, ours with the link's relay and the reading of beats.\n");
    head(&["state", "asked", "answers/s", "answer ms", "QEMU's CPU %", "our CPU %"]);
    let states = [
        ("no migration", false, None),
        ("in a migration", true, None),
        ("in a migration, held to 5/100 ms", true, Some(Quota::new(MS(5), MS(100)))),
    ];
    for (state, moving, quota) in states {
        let mut stage = Stage::boot(&sweep(48), Wire::Link(RATE))?;
        if moving {
            stage.begin()?;
            stage.pass(2)?;
        }
        let _lever = stage.held(quota)?;
        for (name, asking) in ASKINGS {
            let cost = cost(&mut stage, asking)?;
            row(&[
                &state,
                &name,
                &short(cost.per_second),
                &cost.answers,
                &short(cost.qemu),
                &short(cost.ours),
            ]);
        }
    }
    println!("\nTime of a whole migration (idle guest, 512 MiB filled), `total-time` in ms:\n");
    head(&["asked", "over bare loopback, no bandwidth limit", "over the link"]);
    for (name, asking) in ASKINGS {
        let over = |wire| Figures::ms(repeat(REPEATS, |_| total(wire, asking)));
        row(&[&name, &over(Wire::Bare), &over(Wire::Link(RATE))]);
    }
    Ok(())
}

struct Cost {
    per_second: f64,
    answers: Figures,
    qemu: f64,
    ours: f64,
}

fn cost(stage: &mut Stage, asking: Asking) -> Outcome<Cost> {
    let us = || cpu_time(std::process::id(), &[]);
    let (begin, theirs, ours) = (Instant::now(), stage.qemu_cpu()?, us()?);
    let mut times = Vec::new();
    while begin.elapsed() < WATCH {
        ask(stage, asking, &mut times)?;
    }
    let wall = begin.elapsed().as_secs_f64();
    let percent = |time: Duration| time.as_secs_f64() / wall * 100.0;
    Ok(Cost {
        per_second: times.len() as f64 / wall,
        qemu: percent(stage.qemu_cpu()?.saturating_sub(theirs)),
        ours: percent(us()?.saturating_sub(ours)),
        answers: Figures::ms(times),
    })
}

/// Asks once and waits for the next time.
fn ask(stage: &mut Stage, asking: Asking, times: &mut Vec<Duration>) -> Outcome {
    match asking {
        Asking::Never => sleep(MS(10)),
        Asking::Every(pause) => {
            times.push(stage.source.ask("query-migrate", json!({}))?.took());
            sleep(pause);
        }
        Asking::FlatOut => times.push(stage.source.ask("query-migrate", json!({}))?.took()),
    }
    Ok(())
}

fn total(wire: Wire, asking: Asking) -> Outcome<Duration> {
    let filled = Bytes::mib(512);
    let spec = GuestSpec { memory: Bytes::mib(560), cold: filled, ..sized(Workload::Idle, 4) };
    let mut stage = Stage::boot(&spec, wire)?;
    // Asked for nothing more once it is quiet.
    stage.set(json!({ "downtime-limit": 300, "max-bandwidth": 100_000_000_000_u64 }))?;
    let began = stage.begin()?;
    let over = |stage: &Stage| {
        stage.source.find_event(began, |event| event.is_migration_status("completed")).is_some()
    };
    while !over(&stage) {
        ask(&mut stage, asking, &mut Vec::new())?;
        if began.elapsed() > crate::stage::PATIENCE {
            return Err("the migration does not end".into());
        }
    }
    let ms = stage.counter("total-time")?.ok_or("no total-time")?;
    Ok(Duration::from_millis(ms))
}
