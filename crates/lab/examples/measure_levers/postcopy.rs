//! Post-copy: the blackout, and the brown-out after it that QEMU's downtime does not show.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_testguest::{GuestSpec, Vm};
use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{Landing, RATE, Stage, Wire, jitter};
use crate::{Outcome, random, repeat, sweep};

const REPEATS: usize = 5;
const MS: fn(u64) -> Duration = Duration::from_millis;
/// Pages that the guest asks for queue behind those that are pushed, unless these leave room, or
/// the former go by a connection of their own.
#[derive(Clone, Copy)]
enum Push {
    /// QEMU's default: without limit, by the same connection.
    Unlimited,
    /// `max-postcopy-bandwidth`, bytes per second.
    Limited(u64),
    /// Capability `postcopy-preempt`.
    Preempted,
}

/// Ends of the slices after the first beat at the destination, in milliseconds.
const SLICES: [u64; 6] = [100, 250, 500, 1000, 2000, 3000];
/// A guest is back once it is this near to its old speed for so long.
const BACK: f64 = 0.9;
const FOR: Duration = Duration::from_millis(100);

struct Change {
    landing: Landing,
    to_stop: Duration,
    /// Percent of the speed before, slice by slice.
    speeds: Vec<f64>,
    back_after: Duration,
    lost: Duration,
    completed_after: Duration,
}

pub fn measure() -> Outcome {
    println!("Link 100 MB/s, changed over in the third pass. Times in ms.\n");
    head(&[
        "guest",
        "push",
        "times",
        "command to STOP",
        "blackout seen",
        "QEMU `downtime`",
        "STOP to completed",
        "back at 90 % after",
        "work lost",
    ]);
    let guests =
        [("random 96 MiB, 50 000 pages/s", random(96, 50_000)), ("sweep 96 MiB", sweep(96))];
    let pushes = [
        ("unlimited", Push::Unlimited),
        ("50 MB/s", Push::Limited(50_000_000)),
        ("preempted", Push::Preempted),
    ];
    let all = guests.iter().flat_map(|guest| pushes.map(|push| (guest, push)));
    let mut speeds = Vec::new();
    for ((name, spec), (push_name, push)) in all {
        let changes = repeat(REPEATS, |turn| change(spec, push, turn));
        let each = |value: fn(&Change) -> Duration| Figures::ms(changes.iter().map(value));
        row(&[
            name,
            &push_name,
            &changes.len(),
            &each(|c| c.to_stop),
            &each(|c| c.landing.blackout()),
            &each(|c| c.landing.downtime),
            &each(|c| c.completed_after),
            &each(|c| c.back_after),
            &each(|c| c.lost),
        ]);
        let slice =
            |index| Figures::new(changes.iter().filter_map(|c| c.speeds.get(index).copied()));
        speeds.push((
            format!("{name}, {push_name}"),
            (0..SLICES.len()).map(slice).collect::<Vec<_>>(),
        ));
    }
    println!("\nSpeed after the first beat at the destination, % of that before the migration:\n");
    let slices = [0].iter().chain(&SLICES).zip(&SLICES).map(|(from, to)| format!("{from}-{to} ms"));
    let columns: Vec<String> = std::iter::once("guest".to_owned()).chain(slices).collect();
    head(&columns.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, figures) in speeds {
        let cells = figures.iter().map(|f| f as &dyn std::fmt::Display);
        row(&std::iter::once(&name as &dyn std::fmt::Display).chain(cells).collect::<Vec<_>>());
    }
    Ok(())
}

fn change(spec: &GuestSpec, push: Push, turn: usize) -> Outcome<Change> {
    // A capability that must be there before the destination listens.
    let preempt = ["-global", "migration.x-postcopy-preempt=on"];
    let arguments: &[&str] = if let Push::Preempted = push { &preempt } else { &[] };
    let qemu = Vm::builder(spec).arguments(["-global", "migration.x-postcopy-ram=on"]);
    let mut stage = Stage::with(qemu.arguments(arguments.iter().copied()), Wire::Link(RATE))?;
    if let Push::Limited(rate) = push {
        stage.set(json!({ "max-postcopy-bandwidth": rate }))?;
    }
    let from = Instant::now();
    sleep(MS(500));
    let timeline = |stage: &Stage| stage.pair.source.heartbeats().timeline();
    let baseline = timeline(&stage).baseline(from, Instant::now());
    let usual = baseline.rate(0).ok_or("the guest does not beat")?;
    stage.begin()?;
    stage.pass(3)?;
    jitter(turn, MS(300));
    let asked = stage.source.ask("migrate-start-postcopy", json!({}))?.asked;
    let landing = stage.landed(asked)?;
    let completed = stage.source.wait_for_status("completed", asked)?;
    let end = landing.first_beat + MS(SLICES[SLICES.len() - 1]);
    sleep(end.saturating_duration_since(Instant::now()));
    let timeline = timeline(&stage);
    let speed = |from: u64, to: u64| {
        let moment = |ms| landing.first_beat + MS(ms);
        timeline.rate(0, moment(from), moment(to)) / usual * 100.0
    };
    let begins = [0].into_iter().chain(SLICES);
    // In steps of a beat or so until it keeps up.
    let back = (0..SLICES[SLICES.len() - 1]).step_by(5).map(|ms| landing.first_beat + MS(ms));
    let back = back.into_iter().find(|at| timeline.rate(0, *at, *at + FOR) >= usual * BACK);
    Ok(Change {
        to_stop: landing.stop - asked,
        speeds: begins.zip(SLICES).map(|(from, to)| speed(from, to)).collect(),
        back_after: back.unwrap_or(end) - landing.first_beat,
        lost: timeline.total_work_lost(landing.last_beat, end, &baseline),
        completed_after: completed - landing.stop,
        landing,
    })
}
