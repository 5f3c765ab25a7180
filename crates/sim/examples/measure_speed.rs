//! How fast the simulator is: migrations a second of each scenario of the library by each policy, and
//! how long a policy takes to decide, in CPU time of one core. Reports Markdown and asserts nothing.
//!
//! `cargo run --release -p landfall-sim --example measure_speed`

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_core::decision::Decision;
use landfall_core::policy::{Needs, Policy};
use landfall_core::view::View;
use landfall_sim::{Qemu, Scenario, Seed, Setup, policies, run};
use rustix::time::{ClockId, clock_gettime};

/// Each pair is simulated for so long.
const LONG_ENOUGH: Duration = Duration::from_millis(100);

/// CPU time of this thread so far: other work on the machine does not count.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A policy with a stop watch.
struct Timed {
    policy: Box<dyn Policy>,
    times: Vec<Duration>,
}

impl Policy for Timed {
    fn name(&self) -> &'static str {
        self.policy.name()
    }
    fn needs(&self) -> Needs {
        self.policy.needs()
    }
    fn before(&mut self, view: &View) -> Result<(), String> {
        self.policy.before(view)
    }
    fn decide(&mut self, view: &View) -> Decision {
        let began = Instant::now();
        let decision = self.policy.decide(view);
        self.times.push(began.elapsed());
        decision
    }
}

fn percentile<T: Copy>(sorted: &[T], part: f64) -> T {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

fn main() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    println!(
        "| scenario | policy | us a migration | simulated s | us a look | decision p50 / p99 / most us |"
    );
    println!("|:--|:--|--:|--:|--:|--:|");
    let mut all = Vec::new();
    for path in files {
        let scenario = Scenario::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for policy in scenario.policies() {
            if std::env::args().len() > 1 && !std::env::args().any(|a| a == policy || a == name) {
                continue;
            }
            let setups: Vec<(Seed, Setup)> = (0..20)
                .map(|n| {
                    let seed = scenario.seed.fork(n);
                    let setup = scenario.draw(seed);
                    let auto_converge = policies::by_name(&policy).unwrap().auto_converge;
                    (seed, Setup { qemu: Qemu { auto_converge, ..setup.qemu }, ..setup })
                })
                .collect();
            let (began, mut runs, mut simulated) = (cpu(), 0u32, 0.0);
            while cpu() - began < LONG_ENOUGH {
                for (seed, setup) in &setups {
                    let mut choice = policies::by_name(&policy).unwrap();
                    simulated +=
                        run(setup, &mut *choice.policy, *seed).measured.total.as_secs_f64();
                    runs += 1;
                }
            }
            let each = (cpu() - began).as_secs_f64() * 1e6 / f64::from(runs);
            let length = simulated / f64::from(runs);
            let (seed, setup) = &setups[0];
            let policy_timed = policies::by_name(&policy).unwrap().policy;
            let mut timed = Timed { policy: policy_timed, times: Vec::new() };
            run(setup, &mut timed, *seed);
            timed.times.sort();
            let us = |part| percentile(&timed.times, part).as_secs_f64() * 1e6;
            println!(
                "| {name} | {policy} | {each:.1} | {length:.1} | {:.2} | {:.2} / {:.2} / {:.2} |",
                each / (length * 10.0),
                us(0.5),
                us(0.99),
                us(1.0)
            );
            all.push(each);
        }
    }
    all.sort_by(f64::total_cmp);
    let median = percentile(&all, 0.5);
    println!(
        "\nMedian of these: {median:.1} us a migration, {:.0} migrations a second.",
        1e6 / median
    );
}
