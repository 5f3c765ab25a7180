//! `kill -9` of landfall at a random moment: the guardian releases the guest.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use landfall_testguest::RawEvent;
use rustix::process::Signal;
use serde_json::json;

use crate::scene::{Found, PATIENCE, Scene, migration_status, run_state, sweep, wait_until};

/// How often landfall is killed; LANDFALL_KILLS sets another number.
const KILLS: u64 = 50;

/// After this time every quota must be what it was before.
const BOUND: Duration = Duration::from_secs(1);

#[test]
fn after_a_kill_at_any_moment_of_a_throttled_migration_no_quota_stays() {
    let Some(mut scene) = Scene::boot(&sweep(16), ByteRate::mb(60)) else { return };
    let kills = kills();
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = Random(u64::from(seed) << 1 | 1);
    let mut slowest = Duration::ZERO;
    let mut while_held = 0;
    for kill in 0..kills {
        let mut run = scene.landfall(&["--policy", "rfc2011", "--max-bandwidth", "60MB/s"]);
        // One in five may come at any time from the start; the others while the guest is held.
        if kill % 5 != 0 {
            wait_until("the guest is held", || scene.is_held() || !run.is_running());
        }
        sleep(Duration::from_micros(random.below(500_000)));
        while_held += u64::from(scene.is_held());
        run.signal(Signal::KILL);
        let killed = Instant::now();
        wait_until("no quota stays", || !scene.is_held());
        let took = killed.elapsed();
        slowest = slowest.max(took);
        assert!(took <= BOUND, "kill {kill} (seed {seed}): a quota stayed for {took:?}");
        let _ = run.ended();
        wait_until("the migration is over", || {
            ["cancelled", "failed", "none", "completed"]
                .contains(&migration_status(&scene.pair.source).as_str())
        });
        wait_until("the settings are back", || {
            Found::of(&scene.pair.source).parameters == scene.before.parameters
        });
        assert_eq!(run_state(&scene.pair.source), "running", "kill {kill} (seed {seed})");
        scene.assert_nothing_left();
        scene.new_destination();
    }
    println!("{kills} kills, {while_held} while the guest was held; slowest release {slowest:?}");
    assert!(while_held * 2 > kills, "most kills must come while the guest is held");
    scene.assert_unharmed_at_source();
}

#[test]
fn after_a_kill_near_the_end_the_guest_runs_in_one_place() {
    let kills = kills() / 4;
    let seed = std::process::id();
    println!("seed {seed}");
    let mut random = Random(u64::from(seed) << 1 | 1);
    let mut landed = 0;
    for kill in 0..kills {
        let Some(scene) = Scene::boot(&sweep(16), ByteRate::mb(60)) else { return };
        let mut probe = scene.pair.source.raw_qmp().unwrap();
        // QEMU tells how a migration stands only when asked to.
        let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
        probe.run_with("migrate-set-capabilities", events).unwrap();
        let began = Instant::now();
        let run = scene.landfall(&[
            "--policy",
            "rfc2011",
            "--aggression",
            "1.0",
            "--max-bandwidth",
            "60MB/s",
            "--give-way",
            "max-stall",
        ]);
        let active = probe.event_within(PATIENCE, began, |it| it.is_migration_status("active"));
        active.unwrap().expect("the migration begins");
        // Some at any time, some while the guest is stopped; most while landfall learns that the migration
        // is complete and continues the guest.
        let at_end = kill % 4 > 1;
        let is_moment = |it: &RawEvent| match kill % 4 {
            0 => it.is_migration_status("active"),
            1 => it.name == "STOP",
            _ => it.is_migration_status("completed"),
        };
        let _ = probe.event_within(PATIENCE, began, is_moment);
        drop(probe);
        sleep(Duration::from_micros(random.below(if at_end { 150_000 } else { 600_000 })));
        run.signal(Signal::KILL);
        let place = scene.assert_runs_once(PATIENCE);
        println!("kill {kill} (seed {seed}): it runs at the {place}");
        landed += u64::from(place == "destination");
        wait_until("no quota stays", || !scene.is_held());
        let _ = run.ended();
        scene.assert_nothing_left();
    }
    println!("{kills} kills, {landed} of the guests landed");
}

/// How often something is killed in this process's tests: `LANDFALL_KILLS`, or 50.
pub(super) fn kills() -> u64 {
    std::env::var("LANDFALL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS)
}

/// A generator good enough to choose moments (xorshift64).
pub(super) struct Random(u64);

impl Random {
    /// One of its own for each process, with the seed printed.
    pub(super) fn seeded() -> Random {
        let seed = std::process::id();
        println!("seed {seed}");
        Random(u64::from(seed) << 1 | 1)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
