//! `stop` and `cont` while a migration runs, and a guest that arrives stopped.

use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{RATE, Stage, Wire, jitter};
use crate::{Outcome, random, repeat};

const REPEATS: usize = 10;
const LANDINGS: usize = 6;
/// How long the guest is left stopped.
const STOPPED: Duration = Duration::from_millis(200);

/// A stop taken back.
struct Pause {
    to_stop: Duration,
    to_resume: Duration,
    to_beat: Duration,
    /// How much longer the guest stood still than from STOP event to RESUME event.
    beyond: Duration,
}

/// A guest that was stopped, arrived and was let go on.
struct Arrival {
    to_completed: Duration,
    to_beat: Duration,
    blackout: Duration,
    downtime: Duration,
    state: String,
}

pub fn measure() -> Outcome {
    println!("Guest: random 48 MiB, 50 000 pages/s, link 100 MB/s. Times in ms.\n");
    let pauses = pauses()?;
    let each = |value: fn(&Pause) -> Duration| Figures::ms(pauses.iter().map(value));
    head(&["in a migration", "least / median / most"]);
    row(&[&"`stop` to STOP event", &each(|p| p.to_stop)]);
    row(&[&"`cont` to RESUME event", &each(|p| p.to_resume)]);
    row(&[&"`cont` to first beat", &each(|p| p.to_beat)]);
    row(&[&"stall beyond STOP to RESUME", &each(|p| p.beyond)]);
    println!("\nStopped, left to complete, `cont` at the destination:\n");
    head(&[
        "max-bandwidth MB/s",
        "landings",
        "`stop` to completed",
        "`cont` to first beat",
        "blackout seen",
        "QEMU `downtime`",
        "state on arrival",
    ]);
    for limit in [134_217_728, 50_000_000] {
        let arrivals = repeat(LANDINGS, |turn| arrive(limit, turn));
        let each = |value: fn(&Arrival) -> Duration| Figures::ms(arrivals.iter().map(value));
        let mut states: Vec<&str> = arrivals.iter().map(|a| a.state.as_str()).collect();
        states.dedup();
        row(&[
            &(limit / 1_000_000),
            &arrivals.len(),
            &each(|a| a.to_completed),
            &each(|a| a.to_beat),
            &each(|a| a.blackout),
            &each(|a| a.downtime),
            &states.join(", "),
        ]);
    }
    Ok(())
}

fn pauses() -> Outcome<Vec<Pause>> {
    let mut stage = Stage::boot(&random(48, 50_000), Wire::Link(RATE))?;
    stage.begin()?;
    stage.pass(2)?;
    // Stopped, it would land within the limit: so a small part of the time only, and slowly.
    stage.set(json!({ "max-bandwidth": 10_000_000 }))?;
    Ok(repeat(REPEATS, |turn| {
        jitter(turn, Duration::from_millis(300));
        let stop = stage.source.ask("stop", json!({}))?.asked;
        let stopped = stage.source.wait_for_event("STOP", stop)?;
        sleep(STOPPED);
        let cont = stage.source.ask("cont", json!({}))?.asked;
        let resumed = stage.source.wait_for_event("RESUME", cont)?;
        let beat = stage.source_beat(cont)?;
        let last = stage.last_beat_before(beat).ok_or("no beat")?;
        Ok(Pause {
            to_stop: stopped - stop,
            to_resume: resumed - cont,
            to_beat: beat - cont,
            beyond: (beat - last).saturating_sub(resumed - stopped),
        })
    }))
}

fn arrive(limit: u64, turn: usize) -> Outcome<Arrival> {
    let mut stage = Stage::boot(&random(48, 50_000), Wire::Link(RATE))?;
    stage.set(json!({ "max-bandwidth": limit }))?;
    stage.begin()?;
    stage.pass(3)?;
    jitter(turn, Duration::from_millis(300));
    let stop = stage.source.ask("stop", json!({}))?.asked;
    let completed = stage.source.wait_for_status("completed", stop)?;
    // The destination has its own idea of when it is done.
    let deadline = Instant::now() + Duration::from_secs(5);
    let state = loop {
        let state = stage.destination.ask("query-status", json!({}))?.value["status"].take();
        if state != "inmigrate" || Instant::now() > deadline {
            break state.as_str().unwrap_or("unknown").to_owned();
        }
        sleep(Duration::from_millis(1));
    };
    let cont = stage.destination.ask("cont", json!({}))?.asked;
    let landing = stage.landed(stop)?;
    Ok(Arrival {
        to_completed: completed - stop,
        to_beat: landing.first_beat - cont,
        blackout: landing.blackout(),
        downtime: landing.downtime,
        state,
    })
}
