//! A CFS quota on the vCPU thread: what it does to `stop`, to QMP, to the guest, to its dirty rate.

use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_qemu::cgroup::{CpuLever, Quota};
use landfall_testguest::GuestSpec;
use serde_json::json;

use crate::figures::{Figures, head, row, short};
use crate::stage::{RATE, Stage, Wire, jitter};
use crate::{Outcome, random, sweep};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// Quotas and periods, in microseconds and milliseconds; none first, to compare with.
const QUOTAS: [Option<(u64, u64)>; 13] = [
    None,
    Some((50_000, 100)),
    Some((5_000, 20)),
    Some((12_500, 50)),
    Some((25_000, 100)),
    Some((2_000, 20)),
    Some((5_000, 50)),
    Some((10_000, 100)),
    Some((5_000, 100)),
    Some((1_000, 100)),
    Some((1_000, 20)),
    Some((1_000, 10)),
    Some((10_000, 1000)),
];
const STOPS: usize = 20;
/// How long the guest's gaps are watched.
const WATCH: Duration = Duration::from_secs(2);
/// A gap that a quota makes; shorter ones are the host's.
const GAP: Duration = Duration::from_millis(4);
/// How long QMP is asked in a migration, and how often.
const ASKED: Duration = Duration::from_millis(2500);
const ASK_EVERY: Duration = Duration::from_millis(5);

pub fn measure() -> Outcome {
    for (name, spec) in [("random, 50 000 pages/s", random(48, 50_000)), ("sweep", sweep(48))] {
        println!("Guest: {name}, 48 MiB. Times in ms (least / median / most).\n");
        head(&[
            "quota/period ms",
            "`stop` to STOP event",
            "gaps seen by the guest",
            "gaps counted by the kernel",
            "work %",
            "bulk pass s",
            "dirty rate MB/s",
            "QMP p50 / p99 / most in migration",
        ]);
        for quota in QUOTAS {
            let quota = quota.map(|(us, ms)| Quota::new(Duration::from_micros(us), MS(ms)));
            if let Err(error) = line(&spec, quota) {
                eprintln!("{quota:?} failed: {error}");
            }
        }
        println!();
    }
    Ok(())
}

fn line(spec: &GuestSpec, quota: Option<Quota>) -> Outcome {
    let mut stage = Stage::boot(spec, Wire::Link(RATE))?;
    let from = Instant::now();
    sleep(MS(500));
    let free = stage.rate(from, Instant::now());
    let mut lever = stage.held(quota)?;
    let stops = stops(&mut stage, quota)?;
    sleep(quota.map_or(MS(0), |quota| quota.period * 2));
    let (seen, counted, work) = gaps(&stage, &lever)?;
    let moving = moving(&mut stage)?;
    lever.release_all();
    let name = quota.map_or("none".to_owned(), |q| {
        format!("{}/{}", q.quota.as_secs_f64() * 1e3, q.period.as_millis())
    });
    row(&[
        &name,
        &stops,
        &seen,
        &counted,
        &short(work / free * 100.0),
        &short(moving.bulk.as_secs_f64()),
        &moving.dirty_rate.map_or("-".to_owned(), short),
        &format!(
            "{} / {} / {}",
            short(moving.answers.median()),
            short(moving.answers.quantile(0.99)),
            short(moving.answers.most())
        ),
    ]);
    Ok(())
}

/// From `stop` until the STOP event, at moments spread over the period.
fn stops(stage: &mut Stage, quota: Option<Quota>) -> Outcome<Figures> {
    let period = quota.map_or(MS(20), |quota| quota.period);
    let mut times = Vec::new();
    for turn in 0..STOPS {
        // Past what the stop before it left unused.
        sleep(period.mul_f64(1.2));
        jitter(turn, period);
        let asked = stage.source.ask("stop", json!({}))?.asked;
        times.push(stage.source.wait_for_event("STOP", asked)? - asked);
        stage.source.ask("cont", json!({}))?;
    }
    Ok(Figures::ms(times))
}

/// The guest's gaps, the kernel's, and beats per second.
fn gaps(stage: &Stage, lever: &CpuLever) -> Outcome<(Figures, Figures, f64)> {
    let begin = Instant::now();
    let (mut last, mut counted) = (lever.vcpu_stats(0)?.throttled_time, Vec::new());
    while begin.elapsed() < WATCH {
        sleep(MS(1));
        let throttled = lever.vcpu_stats(0)?.throttled_time;
        counted.extend(Some(throttled - last).filter(|step| *step > GAP));
        last = throttled;
    }
    let end = Instant::now();
    let timeline = stage.pair.source.heartbeats().timeline();
    let beats = timeline.beats_in(0, begin, end);
    let seen = beats.windows(2).map(|two| two[1] - two[0]).filter(|gap| *gap > GAP);
    Ok((Figures::ms(seen), Figures::ms(counted), timeline.rate(0, begin, end)))
}

struct Moving {
    bulk: Duration,
    /// MB/s, as QEMU counts it.
    dirty_rate: Option<f64>,
    answers: Figures,
}

/// A migration with the quota in force all the time.
fn moving(stage: &mut Stage) -> Outcome<Moving> {
    let begin = stage.begin()?;
    let bulk = stage.pass(2)? - begin;
    let (mut times, mut dirty_rate) = (Vec::new(), None);
    let asking = Instant::now();
    while asking.elapsed() < ASKED {
        let answer = stage.source.ask("query-migrate", json!({}))?;
        times.push(answer.took());
        let pages = answer.value["ram"]["dirty-pages-rate"].as_f64().filter(|pages| *pages > 0.0);
        dirty_rate = pages.map(|pages| pages * 4096.0 / 1e6).or(dirty_rate);
        sleep(ASK_EVERY);
    }
    Ok(Moving { bulk, dirty_rate, answers: Figures::ms(times) })
}
