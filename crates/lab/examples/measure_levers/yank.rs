//! The link falls silent in the final copy: the guest stands still, QEMU's main loop too. What
//! brings the guest back?

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_testguest::RawQmp;
use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{ANSWER_TIMEOUT, RATE, Stage, Wire};
use crate::{Outcome, repeat, sweep};

const REPEATS: usize = 5;
/// From the silence to the attempt.
const SILENCE: Duration = Duration::from_millis(500);
/// How long an attempt is watched before it counts as failed.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy)]
enum Way {
    YankOutOfBand,
    /// On a monitor where out-of-band commands were not enabled.
    YankInBand,
    CancelInBand,
    /// From outside: the connection breaks, as when the destination dies.
    Break,
    /// The link comes back.
    Mend,
}

struct Attempt {
    /// Until the command was answered; `None` if it was not, or there was none.
    answered: Option<Duration>,
    /// Until the guest ran at the source again; `None` if it did not.
    back: Option<Duration>,
    status: String,
}

pub fn measure() -> Outcome {
    println!(
        "Guest: sweep 48 MiB, shipped; the link falls silent at the STOP event, and {SILENCE:?} later"
    );
    println!("something is tried and watched for {WAIT:?}. Times in ms from the attempt.\n");
    head(&[
        "attempt",
        "times",
        "answered",
        "answer after",
        "guest runs at the source again",
        "after",
        "status then",
    ]);
    let ways = [
        ("yank, out of band", Way::YankOutOfBand),
        ("yank, in band, no out-of-band enabled", Way::YankInBand),
        ("migrate_cancel, in band", Way::CancelInBand),
        ("the connection breaks", Way::Break),
        ("the link comes back", Way::Mend),
    ];
    for (name, way) in ways {
        let attempts = repeat(REPEATS, |_| attempt(way));
        let answers: Vec<Duration> = attempts.iter().filter_map(|a| a.answered).collect();
        let backs: Vec<Duration> = attempts.iter().filter_map(|a| a.back).collect();
        let mut states: Vec<&str> = attempts.iter().map(|a| a.status.as_str()).collect();
        states.dedup();
        row(&[
            &name,
            &attempts.len(),
            &answers.len(),
            &Figures::ms(answers),
            &backs.len(),
            &Figures::ms(backs),
            &states.join(", "),
        ]);
    }
    Ok(())
}

fn attempt(way: Way) -> Outcome<Attempt> {
    let mut stage = Stage::boot(&sweep(48), Wire::Link(RATE))?;
    let mut plain = RawQmp::connect(&stage.pair.source.raw_qmp_socket(), ANSWER_TIMEOUT)?;
    stage.begin()?;
    stage.pass(3)?;
    let asked =
        stage.source.send("migrate-set-parameters", json!({ "downtime-limit": 2_000_000 }))?;
    stage.source.wait_for_event("STOP", asked.asked)?;
    stage.pair.link.set_stalled(true);
    sleep(SILENCE);
    let begin = Instant::now();
    let instances = json!({ "instances": [{ "type": "migration" }] });
    let ticket = match way {
        Way::YankOutOfBand => Some(stage.source.send_oob("yank", instances)?),
        Way::YankInBand => Some(plain.send("yank", instances)?),
        Way::CancelInBand => Some(plain.send("migrate_cancel", json!({}))?),
        Way::Break => {
            stage.pair.link.sever();
            None
        }
        Way::Mend => {
            stage.pair.link.set_stalled(false);
            None
        }
    };
    let place = stage.pair.source.qemu_index();
    let beat = stage.pair.source.heartbeats().beat_from(place, Some(begin), WAIT).ok();
    let monitor = if let Way::YankOutOfBand = way { &stage.source } else { &plain };
    let answer = match ticket {
        Some(sent) => monitor.answer(&sent, Duration::from_millis(200))?,
        None => None,
    };
    // QEMU does not answer this one while the main loop is blocked.
    let asked = stage.source.send("query-migrate", json!({}))?;
    let status = stage.source.answer(&asked, Duration::from_secs(1))?;
    let word = status.and_then(|answer| Some(answer.value["status"].as_str()?.to_owned()));
    Ok(Attempt {
        answered: answer.map(|answer| answer.at - begin),
        back: beat.map(|at| at - begin),
        status: word.unwrap_or_else(|| "no answer".to_owned()),
    })
}
