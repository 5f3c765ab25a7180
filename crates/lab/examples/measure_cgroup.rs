//! Measures what the kernel makes of CFS quotas: the share reached, the gaps, what a hold costs,
//! and the least quota that is kept without paying overruns back in whole periods.
//!
//! `cargo run --release -p landfall-lab --example measure_cgroup [SECONDS]`, as root, on an idle
//! machine. Each line takes SECONDS (default 3) or 12 periods, whichever is longer. Writes Markdown.
//! `docs/measurements/` has results and says how to run it inside a guest with cgroup v2.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use landfall_qemu::cgroup::{CpuLever, Quota, find_cpu_lever, scheduler_tick};

/// Milliseconds.
const PERIODS: [u64; 6] = [1, 10, 20, 50, 100, 1000];
/// Milliseconds; those below the period are measured with each (1 ms has only itself).
const QUOTAS: [u64; 13] = [1, 2, 3, 4, 5, 6, 8, 10, 20, 50, 100, 200, 500];
/// Shorter gaps are the host's interrupts and other threads, not the quota's.
const GAP: Duration = Duration::from_micros(500);
/// Percent. A quota is honest if not more of its gaps are longer than the period, that is, if the
/// thread runs in (nearly) every period.
const SKIPS_ALLOWED: f64 = 5.0;

fn main() -> Result<(), Box<dyn Error>> {
    // Inside a guest this runs in the place of a test binary and is given that one's options.
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(3.0);
    let least = Duration::try_from_secs_f64(seconds)?;
    let spinner = Spinner::start()?;
    let mut lever = find_cpu_lever(std::process::id() as i32, &[spinner.tid])?;

    let tick = scheduler_tick();
    println!("Kernel {}, cgroup {:?}, tick {tick:?}.", kernel_release(), lever.cgroup_version());
    println!();
    println!(
        "| period ms | quota ms | share asked | share got | gap expected ms | gaps seen: median | longest | gaps in cpu.stat: median | longest | periods skipped |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let mut lines = Vec::new();
    for period in PERIODS {
        for quota in QUOTAS.into_iter().filter(|quota| *quota < period || *quota == 1) {
            let asked = Quota::new(Duration::from_millis(quota), Duration::from_millis(period));
            let line = measure(&mut lever, &spinner, asked, least)?;
            line.print();
            lines.push(line);
        }
    }
    println!();
    match honest_quantum(&lines) {
        Some(quota) => println!("Smallest honest quantum of this machine: {quota:?}."),
        None => println!("No quota measured was kept at every period."),
    }
    println!();
    cost_of_a_hold(&mut lever)?;
    cost_of_rewriting(&mut lever, &spinner)?;
    for failure in lever.release_all() {
        eprintln!("not put back: {failure}");
    }
    Ok(())
}

/// What came of one quota.
struct Line {
    asked: Quota,
    share: f64,
    seen: Gaps,
    counted: Gaps,
}

impl Line {
    fn print(&self) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let Quota { quota, period } = self.asked;
        println!(
            "| {} | {} | {:.2} % | {:.2} % | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} % |",
            period.as_millis(),
            quota.as_millis(),
            self.asked.share().get() * 100.0,
            self.share * 100.0,
            (period - quota).as_millis(),
            ms(self.seen.median()),
            ms(self.seen.longest()),
            ms(self.counted.median()),
            ms(self.counted.longest()),
            percent(self.skipped(), self.counted.0.len()),
        );
    }

    /// How many gaps were longer than the period, by the kernel's count: what the thread sees also
    /// holds what other load on the host took.
    fn skipped(&self) -> usize {
        self.counted.0.iter().filter(|gap| **gap > self.asked.period).count()
    }
}

/// Lengths of gaps, sorted.
struct Gaps(Vec<Duration>);

impl Gaps {
    fn new(mut gaps: Vec<Duration>) -> Self {
        gaps.sort();
        Self(gaps)
    }

    fn median(&self) -> Duration {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    fn longest(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

/// Holds the spinner for a while and looks at it from inside (the jumps of its clock) and from
/// outside (the steps of the kernel's counter, looked at several times a period).
fn measure(
    lever: &mut CpuLever,
    spinner: &Spinner,
    asked: Quota,
    least: Duration,
) -> Result<Line, Box<dyn Error>> {
    lever.hold_vcpu(0, None)?;
    lever.hold_vcpu(0, Some(asked))?;
    thread::sleep(asked.period * 2);
    spinner.take_gaps();
    let (start, before) = (Instant::now(), lever.vcpu_stats(0)?);
    let (mut last, mut counted) = (before.throttled_time, Vec::new());
    let look = (asked.period / 5).max(Duration::from_millis(1));
    while start.elapsed() < least.max(asked.period * 12) {
        thread::sleep(look);
        let throttled = lever.vcpu_stats(0)?.throttled_time;
        counted.extend(Some(throttled - last).filter(|step| !step.is_zero()));
        last = throttled;
    }
    let ran = lever.vcpu_stats(0)?.cpu_time - before.cpu_time;
    let share = ran.div_duration_f64(start.elapsed());
    Ok(Line { asked, share, seen: Gaps::new(spinner.take_gaps()), counted: Gaps::new(counted) })
}

/// The least quota from which on every larger one, too, was kept, over all the periods measured.
fn honest_quantum(lines: &[Line]) -> Option<Duration> {
    let honest = |quota: &Duration| {
        let same = || lines.iter().filter(|line| line.asked.quota == *quota);
        let gaps = same().map(|line| line.counted.0.len()).sum();
        percent(same().map(Line::skipped).sum(), gaps) <= SKIPS_ALLOWED
    };
    let quotas = QUOTAS.map(Duration::from_millis);
    let dishonest = quotas.iter().rposition(|quota| !honest(quota));
    quotas.get(dishonest.map_or(0, |last| last + 1)).copied()
}

fn percent(part: usize, of: usize) -> f64 {
    if of == 0 { 0.0 } else { part as f64 / of as f64 * 100.0 }
}

fn cost_of_a_hold(lever: &mut CpuLever) -> Result<(), Box<dyn Error>> {
    let ms = Duration::from_millis;
    let ways = [
        ("another quota", [Quota::new(ms(10), ms(50)), Quota::new(ms(20), ms(50))]),
        ("another period as well", [Quota::new(ms(10), ms(50)), Quota::new(ms(10), ms(100))]),
        ("nothing new", [Quota::new(ms(10), ms(50)); 2]),
    ];
    for (name, quotas) in ways {
        let mut times = Vec::new();
        for quota in quotas.into_iter().cycle().take(400) {
            let start = Instant::now();
            lever.hold_vcpu(0, Some(quota))?;
            times.push(start.elapsed());
        }
        let times = Gaps::new(times);
        println!("- a hold, {name}: median {:?}, longest {:?}", times.median(), times.longest());
    }
    Ok(())
}

/// Every write that changes a limit refills the quota: what a loop gives away that dithers.
fn cost_of_rewriting(lever: &mut CpuLever, spinner: &Spinner) -> Result<(), Box<dyn Error>> {
    for every in [10, 100, 1000] {
        let (start, before) = (Instant::now(), lever.vcpu_stats(0)?.cpu_time);
        for turn in 0..(5000 / every).clamp(5, 100) {
            let period = Duration::from_millis(100 + turn % 2);
            lever.hold_vcpu(0, Some(Quota::new(Duration::from_millis(5), period)))?;
            thread::sleep(Duration::from_millis(every));
        }
        let share = (lever.vcpu_stats(0)?.cpu_time - before).div_duration_f64(start.elapsed());
        println!(
            "- 5 ms per 100 and 101 ms in turn, changed every {every} ms: {:.1} %",
            share * 100.0
        );
    }
    spinner.take_gaps();
    Ok(())
}

/// A thread that wants all of a CPU and notes when it did not have it.
struct Spinner {
    tid: i32,
    gaps: Arc<Mutex<Vec<Duration>>>,
    wanted: Arc<AtomicBool>,
}

impl Spinner {
    fn start() -> Result<Self, mpsc::RecvError> {
        let (gaps, wanted) =
            (Arc::<Mutex<Vec<Duration>>>::default(), Arc::new(AtomicBool::new(true)));
        let (send, receive) = mpsc::channel();
        let (its_gaps, still_wanted) = (gaps.clone(), wanted.clone());
        thread::spawn(move || {
            let _ = send.send(rustix::thread::gettid().as_raw_nonzero().get());
            let mut last = Instant::now();
            while still_wanted.load(Ordering::Relaxed) {
                let now = Instant::now();
                if now - last > GAP
                    && let Ok(mut gaps) = its_gaps.lock()
                {
                    gaps.push(now - last);
                }
                last = now;
            }
        });
        Ok(Self { tid: receive.recv()?, gaps, wanted })
    }

    fn take_gaps(&self) -> Vec<Duration> {
        self.gaps.lock().map(|mut gaps| std::mem::take(&mut *gaps)).unwrap_or_default()
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.wanted.store(false, Ordering::Relaxed);
    }
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}
