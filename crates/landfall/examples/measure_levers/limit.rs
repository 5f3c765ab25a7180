//! Guests that land by themselves: the blackout they see against the downtime limit set.

use std::time::Duration;

use serde_json::{Value, json};

use crate::figures::{Figures, head, ms, row, short};
use crate::stage::{Landing, RATE, Stage, Wire};
use crate::{Outcome, random, repeat};

/// What an operator allows the guest to stand still.
const ALLOWED: f64 = 300.0;
const LIMITS: [u64; 3] = [240, 280, 300];
/// Pages per second: 41, 82 and 106 MB/s over a link of 100.
const DIRTYING: [u64; 3] = [10_000, 20_000, 26_000];
/// MiB. So large that what is left comes down to the limit from above: with less, a guest's whole
/// dirty memory may fit, and nothing is learnt.
const WORKING_SET: u64 = 96;
const REPEATS: usize = 4;

pub fn measure() -> Outcome {
    let link = RATE.per_second();
    let settings = [
        ("neither", json!({})),
        ("avail-switchover-bandwidth 100 MB/s", json!({ "avail-switchover-bandwidth": link })),
        ("both", json!({ "avail-switchover-bandwidth": link, "max-bandwidth": link / 100 * 95 })),
    ];
    println!(
        "Random guests of 41, 82 and 106 MB/s, link 100 MB/s, {REPEATS} landings of each. Times in ms.\n"
    );
    head(&[
        "set besides the limit",
        "downtime-limit",
        "landings",
        "blackout seen",
        "p90",
        "beyond the limit",
        "QEMU `downtime`",
        "above 300",
    ]);
    for (name, setting) in settings {
        for limit in LIMITS {
            let mut landings = Vec::new();
            for rate in DIRTYING {
                landings.extend(repeat(REPEATS, |_| land(rate, limit, &setting)));
            }
            let Some(landings) = landings.into_iter().collect::<Option<Vec<Landing>>>() else {
                row(&[&name, &limit, &"not known to this QEMU"]);
                break;
            };
            let blackouts = Figures::ms(landings.iter().map(Landing::blackout));
            let beyond = landings.iter().map(|l| ms(l.blackout()) - limit as f64);
            row(&[
                &name,
                &limit,
                &blackouts.count(),
                &blackouts,
                &short(blackouts.quantile(0.9)),
                &Figures::new(beyond),
                &Figures::ms(landings.iter().map(|l| l.downtime)),
                &blackouts.above(ALLOWED),
            ]);
        }
    }
    Ok(())
}

/// `None` where QEMU does not know the setting.
fn land(rate: u64, limit: u64, setting: &Value) -> Outcome<Option<Landing>> {
    let mut stage = Stage::boot(&random(WORKING_SET, rate), Wire::Link(RATE))?;
    let names = setting.as_object().into_iter().flatten().map(|(name, _)| name);
    for name in names {
        if !stage.knows(name)? {
            return Ok(None);
        }
    }
    stage.set(setting.clone())?;
    stage.set(json!({ "downtime-limit": limit }))?;
    // A guest that has just booted has dirtied nothing twice.
    std::thread::sleep(Duration::from_millis(300));
    let began = stage.begin()?;
    stage.landed(began).map(Some)
}
