//! Boots a guest and tells every second how its work goes.
//!
//!     cargo run -p landfall-testguest --example boot -- sweep
//!     cargo run -p landfall-testguest --example boot -- random rate=50000 vcpus=2 seconds=10

use landfall_core::units::Share;
use landfall_testguest::{GuestSpec, PagesPerSecond, Vm, WorkPhase, Workload};
use std::error::Error;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

const USAGE: &str = "boot sweep|random|hotcold|phases|idle [rate=PAGES/S] [memory=SIZE] [ws=SIZE] \
                     [cold=SIZE] [vcpus=N] [dirtiers=N] [seconds=N]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}\nusage: {USAGE}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let (spec, seconds) = arguments()?;
    let begin = Instant::now();
    let vm = Vm::builder(&spec).start()?;
    let beats = vm.heartbeats();
    let header = beats.ready(Duration::from_secs(60))?;
    let first = beats.lines().first().map_or(begin, |line| line.at);
    println!("first line after {:?}, at work after {:?}", first - begin, begin.elapsed());
    println!("{header:#?}");

    let threads = vm.vcpu_threads()?;
    for _ in 0..seconds {
        let cpu_time = || threads.iter().map(|t| vm.cpu_time(*t)).collect::<Result<Vec<_>, _>>();
        let (from, before) = (Instant::now(), cpu_time()?);
        sleep(Duration::from_secs(1));
        let (to, after) = (Instant::now(), cpu_time()?);
        let timeline = beats.timeline();
        for vcpu in 0..timeline.vcpus() {
            let cpu = (after[vcpu] - before[vcpu]).as_secs_f64();
            let count = timeline.beats_in(vcpu, from, to).len() as f64;
            print!(
                "vCPU {vcpu}: {:6.1} beats/s, {:6.1} per CPU second, longest gap {:5.1} ms   ",
                timeline.rate(vcpu, from, to),
                count / cpu,
                timeline.longest_gap(vcpu, from, to).as_secs_f64() * 1e3,
            );
        }
        println!();
    }
    println!(
        "{:?}, complaints: {}",
        beats.verify(Duration::from_secs(60))?,
        beats.corruptions().len()
    );
    Ok(())
}

fn arguments() -> Result<(GuestSpec, u64), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (kind, settings) = words.split_first().ok_or("which kind of guest?")?;
    let setting = |name: &str| {
        let value = settings.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        value.map(str::to_owned)
    };
    let rate = PagesPerSecond(setting("rate").map_or(Ok(50_000), |n| n.parse())?);
    let phase = |rate, memory| WorkPhase {
        lasts: Duration::from_secs(2),
        rate: PagesPerSecond(rate),
        memory: Share::clamped(memory),
    };
    let mut spec = GuestSpec::new(match kind.as_str() {
        "sweep" => Workload::Sweep,
        "random" => Workload::Random { rate },
        "hotcold" => {
            let (hot_writes, hot_memory) = (Share::clamped(0.9), Share::clamped(0.1));
            Workload::HotCold { rate, hot_writes, hot_memory }
        }
        "phases" => Workload::Phases { busy: phase(rate.0, 1.0), quiet: phase(1000, 0.05) },
        "idle" => Workload::Idle,
        other => return Err(format!("{other:?} is no kind of guest").into()),
    });
    for (name, size) in
        [("memory", &mut spec.memory), ("ws", &mut spec.working_set), ("cold", &mut spec.cold)]
    {
        if let Some(text) = setting(name) {
            *size = text.parse()?;
        }
    }
    spec.vcpus = setting("vcpus").map_or(Ok(1), |n| n.parse())?;
    spec.dirtiers = setting("dirtiers").map_or(Ok(1), |n| n.parse())?;
    Ok((spec, setting("seconds").map_or(Ok(5), |n| n.parse())?))
}
