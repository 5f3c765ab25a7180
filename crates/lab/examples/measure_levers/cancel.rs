//! `migrate_cancel` in the states in which a migration can be.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_qemu::cgroup::Quota;
use landfall_testguest::RawEvent;
use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{PATIENCE, RATE, Stage, Wire, jitter};
use crate::{Outcome, repeat, sweep};

const REPEATS: usize = 6;
const MS: fn(u64) -> Duration = Duration::from_millis;

/// Where a migration is when it is cancelled.
#[derive(Clone, Copy)]
enum When {
    /// The destination's host does not take the connection.
    Setup,
    Active,
    Held(Quota),
    /// The link has fallen silent and every buffer on the way is full.
    Stalled,
    Stopped,
}

struct Cancelled {
    to_answer: Duration,
    to_end: Duration,
    /// The longest gap from a little before the command to a little after the end.
    stall: Duration,
    /// The longest gap of as long a while before that.
    before: Duration,
    status: String,
    runs: bool,
    destination_runs: bool,
}

pub fn measure() -> Outcome {
    println!("Guest: sweep 48 MiB, link 100 MB/s. Times in ms.\n");
    head(&[
        "state",
        "times",
        "command to answer",
        "command to the end",
        "ended as",
        "guest's longest gap around it",
        "the same before",
        "source runs",
        "destination still there",
    ]);
    let states = [
        ("setup (no connection yet)", When::Setup),
        ("active", When::Active),
        ("active, held to 10/100 ms", When::Held(Quota::new(MS(10), MS(100)))),
        ("active, held to 1/100 ms", When::Held(Quota::new(MS(1), MS(100)))),
        ("active, link silent", When::Stalled),
        ("guest stopped", When::Stopped),
    ];
    for (name, when) in states {
        let all = repeat(REPEATS, |turn| cancel(when, turn));
        let each = |value: fn(&Cancelled) -> Duration| Figures::ms(all.iter().map(value));
        let mut statuses: Vec<String> = Vec::new();
        for status in ["cancelled", "failed"] {
            let times = all.iter().filter(|c| c.status == status).count();
            statuses.extend((times > 0).then(|| format!("{times} {status}")));
        }
        let count = |is: fn(&Cancelled) -> bool| all.iter().filter(|c| is(c)).count();
        row(&[
            &name,
            &all.len(),
            &each(|c| c.to_answer),
            &each(|c| c.to_end),
            &statuses.join(", "),
            &each(|c| c.stall),
            &each(|c| c.before),
            &count(|c| c.runs),
            &count(|c| c.destination_runs),
        ]);
    }
    Ok(())
}

fn cancel(when: When, turn: usize) -> Outcome<Cancelled> {
    let mut stage = Stage::boot(&sweep(48), Wire::Link(RATE))?;
    let quota = if let When::Held(quota) = when { Some(quota) } else { None };
    // Dropped, and so released, only after all is seen.
    let _lever = stage.held(quota)?;
    let full;
    if let When::Setup = when {
        full = Full::host()?;
        let uri = format!("tcp:{}", full.at);
        stage.source.ask("migrate", json!({ "uri": uri }))?;
    } else {
        stage.begin()?;
        stage.pass(2)?;
    }
    match when {
        When::Stalled => stage.pair.link.set_stalled(true),
        // Slow enough not to be through before it is cancelled.
        When::Stopped => {
            stage.set(json!({ "max-bandwidth": 10_000_000 }))?;
            stage.source.ask("stop", json!({}))?;
        }
        _ => {}
    }
    sleep(MS(700));
    jitter(turn, MS(100));
    let answer = stage.source.ask("migrate_cancel", json!({}))?;
    let over = |event: &RawEvent| {
        event.is_migration_status("cancelled") || event.is_migration_status("failed")
    };
    let end = stage.source.event_within(PATIENCE, answer.asked, over)?.ok_or("it does not end")?;
    if let When::Stopped = when {
        stage.source.ask("cont", json!({}))?;
    }
    sleep(MS(500));
    let (from, to) = (answer.asked - MS(100), end.at + MS(400));
    let state = stage.source.ask("query-status", json!({}))?;
    stage.source_beat(end.at)?;
    Ok(Cancelled {
        to_answer: answer.took(),
        to_end: end.at - answer.asked,
        status: end.data["status"].as_str().unwrap_or_default().to_owned(),
        stall: stage.longest_gap(from, to),
        before: stage.longest_gap(from - MS(500), from),
        runs: state.value["status"] == "running",
        destination_runs: stage.pair.destination.is_running(),
    })
}

/// A host that takes no connections: its queue is full and is not accepted from.
struct Full {
    at: SocketAddr,
    _listener: TcpListener,
    _waiting: Vec<TcpStream>,
}

impl Full {
    fn host() -> Outcome<Full> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let at = listener.local_addr()?;
        let begin = Instant::now();
        let mut waiting = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&at, MS(50)) {
            waiting.push(stream);
            if begin.elapsed() > Duration::from_secs(10) {
                return Err("the queue of connections does not fill".into());
            }
        }
        Ok(Full { at, _listener: listener, _waiting: waiting })
    }
}
