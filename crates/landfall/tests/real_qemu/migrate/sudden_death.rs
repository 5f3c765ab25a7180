//! `kill -9` of landfall at a random moment: the guardian releases the guest.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use rustix::process::Signal;

use crate::scene::{Found, Scene, migration_status, run_state, sweep, wait_until};

/// How often landfall is killed; LANDFALL_KILLS sets another number.
const KILLS: u64 = 50;

/// After this time every quota must be what it was before.
const BOUND: Duration = Duration::from_secs(1);

#[test]
fn after_a_kill_at_any_moment_of_a_throttled_migration_no_quota_stays() {
    let Some(mut scene) = Scene::boot(&sweep(16), ByteRate::mb(60)) else { return };
    let kills = std::env::var("LANDFALL_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
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

/// A generator good enough to choose moments (xorshift64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
