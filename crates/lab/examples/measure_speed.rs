//! How fast the simulator is: migrations a second of each scenario of the library by each policy, and
//! how long a policy takes to decide, in CPU time of one core. Reports Markdown and asserts nothing.
//!
//! `cargo run --release -p landfall-lab --example measure_speed -- [SCENARIO] [POLICY]`

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_core::decision::Decision;
use landfall_core::policy::{Needs, Policy, PreflightRefusal};
use landfall_core::telemetry::view::View;
use landfall_core::units::Moment;
use landfall_sim::{Qemu, Scenario, Seed, Setup, policies, run};
use rustix::time::{ClockId, clock_gettime};

/// Each pair is simulated for so long.
const LONG_ENOUGH: Duration = Duration::from_millis(100);

/// Draws of a scenario that are simulated in turn.
const DRAWS: u64 = 20;

/// CPU time of this thread so far: other work on the machine does not count.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// A policy with a stop watch.
struct Timed {
    policy: Box<dyn Policy>,
    times: Vec<f64>,
}

impl Policy for Timed {
    fn name(&self) -> &str {
        self.policy.name()
    }
    fn needs(&self) -> Needs {
        self.policy.needs()
    }
    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        self.policy.preflight(view)
    }
    fn decide(&mut self, view: &View) -> Decision {
        let began = Instant::now();
        let decision = self.policy.decide(view);
        self.times.push(began.elapsed().as_secs_f64() * 1e6);
        decision
    }
    fn valid_until(&self, view: &View) -> Option<Moment> {
        self.policy.valid_until(view)
    }
}

/// A scenario by a policy: all times in microseconds but that which was simulated, in seconds.
struct Pair {
    scenario: String,
    policy: String,
    each: f64,
    simulated: f64,
    decisions: Vec<f64>,
}

fn measure(scenario: &Scenario, name: &str, policy: &str) -> Pair {
    let choice = || policies::by_name(policy).unwrap();
    let setup = |n| {
        let seed = scenario.seed.fork(n);
        let setup = scenario.draw(seed);
        let qemu = Qemu { auto_converge: choice().auto_converge, ..setup.qemu };
        (seed, Setup { qemu, ..setup })
    };
    let setups: Vec<(Seed, Setup)> = (0..DRAWS).map(setup).collect();
    let (began, mut runs, mut simulated) = (cpu(), 0u32, 0.0);
    while cpu() - began < LONG_ENOUGH {
        for (seed, setup) in &setups {
            let run = run(setup, &mut *choice().policy, *seed);
            simulated += run.measured.total.as_secs_f64();
            runs += 1;
        }
    }
    let each = (cpu() - began).as_secs_f64() * 1e6 / f64::from(runs);
    let mut decisions = Vec::new();
    for (seed, setup) in &setups {
        let mut timed = Timed { policy: choice().policy, times: Vec::new() };
        run(setup, &mut timed, *seed);
        decisions.append(&mut timed.times);
    }
    let (scenario, policy) = (name.to_owned(), policy.to_owned());
    Pair { scenario, policy, each, simulated: simulated / f64::from(runs), decisions }
}

fn percentile(values: impl IntoIterator<Item = f64>, part: f64) -> f64 {
    let mut sorted: Vec<f64> = values.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(((sorted.len().max(1) - 1) as f64 * part) as usize).copied().unwrap_or(f64::NAN)
}

/// One line about some of the pairs.
fn summary<'a>(of: &str, pairs: impl Iterator<Item = &'a Pair> + Clone) -> String {
    let median = percentile(pairs.clone().map(|pair| pair.each), 0.5);
    let slowest = percentile(pairs.clone().map(|pair| pair.each), 1.0);
    let decision = pairs.map(|pair| percentile(pair.decisions.iter().copied(), 0.99));
    format!(
        "| {of} | {:.0} | {:.0} | {:.2} |",
        1e6 / median,
        1e6 / slowest,
        percentile(decision, 1.0)
    )
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let mut files: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    println!("| scenario | policy | migrations/s | simulated s | decision p50 / p99 / most us |");
    println!("|:--|:--|--:|--:|--:|");
    let mut pairs = Vec::new();
    for path in files {
        let scenario = Scenario::parse(&fs::read_to_string(&path).unwrap()).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        for policy in scenario.policies() {
            if !wanted.iter().all(|wanted| [&name, &policy].contains(&wanted)) {
                continue;
            }
            let pair = measure(&scenario, &name, &policy);
            let decision = |part| percentile(pair.decisions.iter().copied(), part);
            println!(
                "| {name} | {policy} | {:.0} | {:.1} | {:.2} / {:.2} / {:.2} |",
                1e6 / pair.each,
                pair.simulated,
                decision(0.5),
                decision(0.99),
                decision(1.0)
            );
            pairs.push(pair);
        }
    }
    println!("\n| of | median migrations/s | least migrations/s | worst decision p99 us |");
    println!("|:--|--:|--:|--:|");
    for group in [|pair: &Pair| pair.scenario.clone(), |pair: &Pair| pair.policy.clone()] {
        let mut names: Vec<String> = pairs.iter().map(group).collect();
        names.sort();
        names.dedup();
        for name in names {
            println!("{}", summary(&name, pairs.iter().filter(|pair| group(pair) == name)));
        }
    }
    println!("{}", summary("all pairs", pairs.iter()));
}
