//! The laws, measured on real guests.

use std::time::{Duration, Instant};

use landfall_core::units::ByteRate;
use landfall_guest::{agrees_once_in_three, claim};
use rustix::process::Signal;

use crate::scene::{Scene, random, wait_until};

/// Pages per second that are twice a link of 40 MB/s.
const TWICE: u64 = 2 * 40_000_000 / 4096;

/// How long the share is measured once the guest is held.
const MEASURED: Duration = Duration::from_secs(6);

/// Runs the law of 2011 on a guest that dirties at twice the link's rate; gives the mean of the
/// targets it recorded and the share that the guest's vCPU had meanwhile, by the kernel's count.
fn target_and_share(aggression: &str) -> Option<(f64, f64)> {
    let scene = Scene::boot(&random(160, TWICE), ByteRate::mb(40))?;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("record");
    let thread = scene.pair.source.vcpu_threads().unwrap()[0];
    let mut run = scene.landfall(&[
        "--policy",
        "rfc2011",
        "--aggression",
        aggression,
        "--max-bandwidth",
        "40MB/s",
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
    run.signal(Signal::INT);
    let _ = run.ended();
    let text = std::fs::read_to_string(&file).unwrap();
    let quotas = text.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let quota = &line["decision"]["holds"][0]["quota"];
        let time = |key: &str| {
            let part = |unit: &str| quota[key][unit].as_f64();
            Some(part("secs")? + part("nanos")? / 1e9)
        };
        Some(time("quota")? / time("period")?)
    });
    let quotas: Vec<f64> = quotas.collect();
    scene.assert_unharmed_at_source();
    Some((quotas.iter().sum::<f64>() / quotas.len() as f64, share))
}

#[test]
fn the_law_of_2011_holds_the_guest_at_its_target_and_tighter_with_more_aggression() {
    // Other load on the machine can keep a guest from what its quota grants.
    agrees_once_in_three(|| {
        let (gentle_target, gentle) = target_and_share("0.0")?;
        let (middle_target, middle) = target_and_share("0.5")?;
        println!("aggression 0.0: target {gentle_target:.3}, share {gentle:.3}");
        println!("aggression 0.5: target {middle_target:.3}, share {middle:.3}");
        let near = |share: f64, target: f64| {
            claim((share / target - 1.0).abs() < 0.1, format!("{share:.3} of {target:.3}"))
        };
        Some(
            near(gentle, gentle_target)
                .and(near(middle, middle_target))
                .and(claim(middle < gentle, format!("{middle:.3} is not below {gentle:.3}"))),
        )
    });
}

#[test]
fn the_law_of_2011_at_aggression_1_stalls_the_guest_until_it_has_landed() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&random(48, TWICE), ByteRate::mb(40))?;
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
