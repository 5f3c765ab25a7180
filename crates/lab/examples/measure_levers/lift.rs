//! A held guest is shipped: as it is held, or let go with the same stroke.

use std::time::Duration;

use landfall_qemu::cgroup::Quota;
use landfall_testguest::GuestSpec;

use crate::figures::{Figures, head, row};
use crate::stage::{Landing, RATE, Stage, Wire, jitter};
use crate::{Outcome, random, repeat, sweep};

const MS: fn(u64) -> Duration = Duration::from_millis;
const REPEATS: usize = 5;

/// What becomes of the hold.
#[derive(Clone, Copy)]
enum Hold {
    Kept,
    /// Released right before the command.
    Lifted,
}

pub fn measure() -> Outcome {
    println!(
        "Shipped as soon as the bulk pass is over, the guest held from before the start. Link"
    );
    println!(
        "100 MB/s. Times in ms. The blackout begins with the last beat, so it has the quota's gap in it.\n"
    );
    head(&[
        "guest",
        "quota/period ms",
        "hold",
        "landings",
        "command to STOP",
        "over the link after STOP MB",
        "blackout seen",
        "last beat to STOP",
        "overhead",
    ]);
    let guests = [
        ("random 48 MiB, 5 000 pages/s", random(48, 5_000)),
        ("random 48 MiB, 50 000 pages/s", random(48, 50_000)),
        ("sweep 48 MiB", sweep(48)),
    ];
    let quotas = [(10, 50), (10, 100), (5, 100)];
    for (name, spec) in guests {
        for (quota, period) in quotas {
            for (word, hold) in [("kept", Hold::Kept), ("lifted", Hold::Lifted)] {
                let quota = Quota::new(MS(quota), MS(period));
                let shipped = repeat(REPEATS, |turn| ship(&spec, quota, hold, turn));
                let each = |value: &dyn Fn(&(Duration, Landing)) -> Duration| {
                    Figures::ms(shipped.iter().map(value))
                };
                row(&[
                    &name,
                    &format!("{}/{period}", quota.quota.as_millis()),
                    &word,
                    &shipped.len(),
                    &each(&|(delay, _)| *delay),
                    &Figures::new(shipped.iter().map(|(_, l)| l.over_link.as_f64() / 1e6)),
                    &each(&|(_, landing)| landing.blackout()),
                    &each(&|(_, landing)| {
                        landing.stop.saturating_duration_since(landing.last_beat)
                    }),
                    &Figures::new(shipped.iter().map(|(_, l)| l.beyond(l.over_link, RATE))),
                ]);
            }
        }
    }
    Ok(())
}

fn ship(spec: &GuestSpec, quota: Quota, hold: Hold, turn: usize) -> Outcome<(Duration, Landing)> {
    let mut stage = Stage::boot(spec, Wire::Link(RATE))?;
    let mut lever = stage.held(Some(quota))?;
    jitter(turn, quota.period);
    let began = stage.begin()?;
    stage.pass(2)?;
    if let Hold::Lifted = hold {
        lever.hold_vcpu(0, None)?;
    }
    let asked = stage.ship()?;
    // A guest that dirties little may have stopped before it was asked to.
    let landing = stage.landed(began)?;
    Ok((landing.stop.saturating_duration_since(asked), landing))
}
