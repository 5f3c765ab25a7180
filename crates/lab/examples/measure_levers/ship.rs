//! `downtime-limit` raised while a migration runs: QEMU stops the guest and sends what is left.

use std::time::Duration;

use landfall_core::units::Bytes;
use landfall_testguest::GuestSpec;
use serde_json::json;

use crate::figures::{Figures, head, row};
use crate::stage::{Landing, RATE, Stage, Wire, jitter};
use crate::{Outcome, random, repeat, sweep};

const REPEATS: usize = 6;

/// Below the link, so that what QEMU has written is on the wire and not in a socket's buffer.
const BELOW_LINK: u64 = 90_000_000;

/// A landing, and how long after the command the guest stopped.
struct Shipped {
    /// `None` for a guest that landed by itself.
    delay: Option<Duration>,
    landing: Landing,
}

pub fn measure() -> Outcome {
    println!(
        "Link 100 MB/s. \"Beyond\" is the blackout less the link's time for what QEMU sent in it"
    );
    println!(
        "(`downtime-bytes`), or for all that came over the link after the STOP event, what was in"
    );
    println!(
        "the socket's buffer included. Bandwidth limit 134 MB/s: QEMU's default, above the link.\n"
    );
    head(&[
        "guest",
        "limit MB/s",
        "landings",
        "command to STOP ms",
        "QEMU `downtime-bytes` MB",
        "over the link after STOP MB",
        "blackout seen ms",
        "QEMU `downtime` ms",
        "beyond `downtime-bytes` ms",
        "beyond all over the link ms",
    ]);
    let guests = [
        ("random 24 MiB, 500 pages/s", random(24, 500), true),
        ("random 24 MiB, 50 000 pages/s", random(24, 50_000), false),
        ("random 48 MiB, 50 000 pages/s", random(48, 50_000), false),
        ("random 96 MiB, 50 000 pages/s", random(96, 50_000), false),
        ("sweep 48 MiB", sweep(48), false),
    ];
    for (name, spec, at_once) in guests {
        for limit in [None, Some(BELOW_LINK)] {
            let shipped = repeat(REPEATS, |turn| ship(&spec, limit, at_once, turn));
            line(name, limit, &shipped);
        }
    }
    Ok(())
}

/// A guest that would land by itself is shipped from the start: it lands as soon as it can.
fn ship(spec: &GuestSpec, limit: Option<u64>, at_once: bool, turn: usize) -> Outcome<Shipped> {
    let mut stage = Stage::boot(spec, Wire::Link(RATE))?;
    if let Some(limit) = limit {
        stage.set(json!({ "max-bandwidth": limit }))?;
    }
    if at_once {
        // Small enough that the bulk pass comes first.
        stage.set(json!({ "downtime-limit": 20 }))?;
        let began = stage.begin()?;
        let landing = stage.landed(began)?;
        return Ok(Shipped { delay: None, landing });
    }
    stage.begin()?;
    stage.pass(3)?;
    jitter(turn, Duration::from_millis(300));
    let asked = stage.ship()?;
    let landing = stage.landed(asked)?;
    Ok(Shipped { delay: Some(landing.stop - asked), landing })
}

fn line(name: &str, limit: Option<u64>, shipped: &[Shipped]) {
    let mb = |bytes: Bytes| bytes.as_f64() / 1e6;
    let each = |value: fn(&Shipped) -> Duration| Figures::ms(shipped.iter().map(value));
    let beyond = |bytes: fn(&Landing) -> Bytes| {
        Figures::new(shipped.iter().map(|s| s.landing.beyond(bytes(&s.landing), RATE)))
    };
    let delays = shipped.iter().filter_map(|s| s.delay);
    row(&[
        &name,
        &limit.map_or(134, |limit| limit / 1_000_000),
        &shipped.len(),
        &Figures::ms(delays),
        &Figures::new(shipped.iter().map(|s| mb(s.landing.downtime_bytes))),
        &Figures::new(shipped.iter().map(|s| mb(s.landing.over_link))),
        &each(|s| s.landing.blackout()),
        &each(|s| s.landing.downtime),
        &beyond(|landing| landing.downtime_bytes),
        &beyond(|landing| landing.over_link),
    ]);
}
