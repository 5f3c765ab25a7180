//! The law of 2011, measured on real guests.

use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use landfall_testguest::{agrees_once_in_three, claim};
use rustix::process::Signal;

use crate::scene::{Scene, random, wait_until};

/// Pages per second that are four times a link of 20 MB/s: a guest that other load on the machine
/// slows down is still too fast to land.
const TOO_FAST: u64 = 4 * 20_000_000 / 4096;

/// How long the share is measured once the guest is held.
const MEASURED: Duration = Duration::from_secs(6);

/// What a throttled guest got, as shares of a CPU.
#[derive(Debug)]
struct Held {
    /// The mean of the targets that were recorded.
    target: f64,
    /// What its vCPU got in that time, by the kernel's count.
    share: f64,
    /// What it had before.
    free: f64,
}

impl Held {
    /// Checks that it got its target, or what other load on the machine left it.
    fn got_its_target(&self) -> Result<(), String> {
        let due = self.target.min(self.free);
        claim(self.share < 1.1 * self.target && self.share > 0.9 * due, format!("{self:.3?}"))
    }
}

/// Runs the law of 2011 on a guest that dirties faster than the link carries, and whose passes are
/// longer than the measurement.
fn held_by_the_law(aggression: &str) -> Option<Held> {
    let scene = Scene::boot(&random(160, TOO_FAST), ByteRate::mb(20))?;
    let free = scene.share_of_cpu(Duration::from_secs(1));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record");
    let thread = scene.pair.source.vcpu_threads().unwrap()[0];
    let mut run = scene.landfall(&[
        "--policy",
        "rfc2011",
        "--aggression",
        aggression,
        "--max-bandwidth",
        "20MB/s",
        "--record",
        file.to_str().unwrap(),
    ]);
    wait_until("the guest is held", || scene.is_held() || !run.is_running());
    std::thread::sleep(Duration::from_secs(1));
    let (from, cpu) = (Instant::now(), scene.pair.source.cpu_time(thread).unwrap());
    while from.elapsed() < MEASURED && run.is_running() {
        std::thread::sleep(Duration::from_millis(20));
    }
    let used = scene.pair.source.cpu_time(thread).unwrap().saturating_sub(cpu);
    let share = used.as_secs_f64() / from.elapsed().as_secs_f64();
    if !run.is_running() {
        panic!("it must not land: {:?}", run.ended());
    }
    run.signal(Signal::INT);
    let _ = run.ended();
    let text = std::fs::read_to_string(&file).unwrap();
    let quotas = text.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let quota = &line["decision"]["holds"][0][1]["quota"];
        let time = |key: &str| {
            let part = |unit: &str| quota[key][unit].as_f64();
            Some(part("secs")? + part("nanos")? / 1e9)
        };
        Some(time("quota")? / time("period")?)
    });
    let quotas: Vec<f64> = quotas.collect();
    scene.assert_unharmed_at_source();
    Some(Held { target: quotas.iter().sum::<f64>() / quotas.len() as f64, share, free })
}

#[test]
fn the_law_of_2011_holds_the_guest_at_its_target_and_tighter_with_more_aggression() {
    agrees_once_in_three(|| {
        let (gentle, middle) = (held_by_the_law("0.0")?, held_by_the_law("0.5")?);
        println!("aggression 0.0: {gentle:.3?}\naggression 0.5: {middle:.3?}");
        let tighter = middle.share < gentle.share || middle.free < middle.target;
        let tighter = claim(tighter, format!("{middle:.3?} is not tighter than {gentle:.3?}"));
        Some(gentle.got_its_target().and(middle.got_its_target()).and(tighter))
    });
}

#[test]
fn the_law_of_2011_at_aggression_1_stalls_the_guest_until_it_has_landed() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&random(48, TOO_FAST), ByteRate::mb(40))?;
        let ended = scene.migrate(&[
            "--policy",
            "rfc2011",
            "--aggression",
            "1.0",
            "--max-bandwidth",
            "40MB/s",
            "--give-way",
            "max-stall",
        ]);
        ended.assert(3, "landed", &[]);
        scene.assert_landed();
        let (stall, total) = (ended.number("longest_stall_s"), ended.number("total_s"));
        Some(claim(stall > 0.8 * total, format!("stood still for {stall} of {total} s")))
    });
}
