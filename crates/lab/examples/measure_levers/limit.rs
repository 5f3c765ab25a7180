//! Guests that land by themselves: the blackout they see against the downtime limit set.

use std::time::Duration;

use landfall_core::units::ByteRate;
use landfall_testguest::GuestSpec;
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
/// Landings over each of the other links.
const OTHERS: usize = 5;

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
                let spec = random(WORKING_SET, rate);
                landings.extend(repeat(REPEATS, |_| land(&spec, RATE, limit, &setting)));
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

/// What is in the socket's buffer when the guest stops takes longer the slower the link is.
pub fn other_links() -> Outcome {
    println!(
        "`downtime-limit` 240, random guest that dirties at 0.4 of the link's rate. Times in ms.\n"
    );
    head(&[
        "link MB/s",
        "max-bandwidth MB/s",
        "landings",
        "sent before STOP, not arrived MB",
        "beyond the limit",
    ]);
    for mb in [25, 50, 100, 200] {
        let link = ByteRate::mb(mb);
        // As long a way to the limit for each.
        let spec = random(mb.max(24), mb * 100);
        for limit in [134, mb * 95 / 100] {
            let setting = json!({ "max-bandwidth": limit * 1_000_000 });
            let landings = repeat(OTHERS, |_| land(&spec, link, 240, &setting));
            let landings: Vec<Landing> = landings.into_iter().flatten().collect();
            let waiting = |l: &Landing| (l.over_link.as_f64() - l.downtime_bytes.as_f64()) / 1e6;
            row(&[
                &mb,
                &limit,
                &landings.len(),
                &Figures::new(landings.iter().map(waiting)),
                &Figures::new(landings.iter().map(|l| ms(l.blackout()) - 240.0)),
            ]);
        }
    }
    Ok(())
}

/// `None` where QEMU does not know the setting.
fn land(spec: &GuestSpec, link: ByteRate, limit: u64, setting: &Value) -> Outcome<Option<Landing>> {
    let mut stage = Stage::boot(spec, Wire::Link(link))?;
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
