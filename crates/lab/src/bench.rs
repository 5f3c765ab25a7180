//! `landfall bench`: policies against each other on real guests. The runs of a comparison take turns, so that
//! a drift of the machine's speed affects all of them. It reports medians and ratios, and asserts nothing.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::units::{ByteRate, Bytes, Share, show_duration};
use landfall_migration::progress::ProgressLine;
use landfall_migration::tables::{Table, borderless_table};
use landfall_qemu::driver::Interrupts;
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_sim::Spread;
use landfall_testguest::{GuestSpec, IsolatedCpus, PagesPerSecond, WorkPhase, Workload};
use serde_json::json;

use crate::accuracy::AccuracyArgs;
use crate::error::ExperimentError;
use crate::run::{LabResult, LabRun, isolate_guest_cpu, standard_requirements};
use crate::theory::TheoryArgs;

/// Moves guests whose behaviour is known by several policies in turn, several times, and prints the
/// medians and their ratios. Needs QEMU, root, and a machine with nothing else to do.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    /// Another experiment instead
    #[command(subcommand)]
    pub experiment: Option<Experiment>,

    /// Comparisons to make [default: all]
    #[arg(value_parser = PossibleValuesParser::new(comparison_names()))]
    pub only: Vec<String>,

    /// Move them by these policies alone [default: those that each comparison is about]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(landfall_core::policy::names()))]
    pub policy: Vec<String>,

    /// How often each policy moves each guest
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    pub repeat: usize,

    /// Record every run in this folder, for landfall replay
    #[arg(long, value_name = "FOLDER")]
    pub record: Option<PathBuf>,

    /// Print the figures of every run as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Other experiments.
#[derive(Debug, Subcommand)]
pub enum Experiment {
    /// Whether throttling acts as time dilation, and what a migration costs beyond its bytes
    Theory(TheoryArgs),
    /// How far forecasts and simulations are from what then happens
    Accuracy(AccuracyArgs),
}

/// A guest, a link, and the policies that move it. The others are measured against the first.
struct Comparison {
    name: &'static str,
    guest: &'static str,
    link: ByteRate,
    spec: fn(ByteRate) -> GuestSpec,
    contenders: &'static [Contender],
}

/// A policy and its requirements.
struct Contender {
    name: &'static str,
    policy: &'static str,
    asked: fn(&str, ByteRate) -> Requirements,
}

impl Contender {
    const fn of(policy: &'static str) -> Contender {
        Contender { name: policy, policy, asked: standard_requirements }
    }
}

const AUTO_CONVERGE: Contender = Contender::of("auto-converge");
const PLAIN: Contender = Contender { name: "plain", policy: "plain", asked: strictly };
const PREDICTIVE: Contender =
    Contender { name: "predictive", policy: "predictive", asked: strictly };

const ALL: &[Comparison] = &[
    Comparison {
        name: "pathological",
        guest: "sweep, 96 MiB of 256 MiB, flat out",
        link: ByteRate::mb(100),
        spec: |_| GuestSpec::new(Workload::Sweep),
        contenders: &[
            AUTO_CONVERGE,
            Contender {
                name: "predictive, may pause",
                policy: "predictive",
                asked: standard_requirements,
            },
            Contender::of("progressive"),
            Contender::of("pause-and-ship"),
        ],
    },
    Comparison {
        name: "middle",
        guest: "random, 144 MiB of 256 MiB, writing twice what the link carries",
        link: ByteRate::mb(25),
        // Told a little more: while dirty pages are logged a CPU second does less work (`docs/theory.md`),
        // and QEMU lets a little more through than it is told. By its syncs it is twice.
        spec: |link| GuestSpec { working_set: Bytes::mib(144), ..random(2.25, link) },
        contenders: &[
            AUTO_CONVERGE,
            PREDICTIVE,
            Contender { name: "predictive, 20 %", policy: "predictive", asked: with_a_floor },
            Contender::of("progressive"),
        ],
    },
    Comparison {
        name: "phases",
        guest: "96 MiB of 256 MiB, by turns 2 s busy and 2 s quiet",
        link: ByteRate::mb(50),
        spec: phases,
        contenders: &[AUTO_CONVERGE, PREDICTIVE],
    },
    Comparison {
        name: "unaided",
        guest: "random, 96 MiB of 256 MiB, writing a tenth of what the link carries",
        link: ByteRate::mb(100),
        spec: |link| random(0.1, link),
        contenders: &[PLAIN, PREDICTIVE],
    },
    Comparison {
        name: "idle",
        guest: "idle, 96 MiB of 256 MiB",
        link: ByteRate::mb(100),
        spec: |_| GuestSpec::new(Workload::Idle),
        contenders: &[PLAIN, PREDICTIVE],
    },
];

/// A guest that writes at random, so many times what the link carries.
fn random(times: f64, link: ByteRate) -> GuestSpec {
    GuestSpec::new(Workload::Random { rate: PagesPerSecond((times * link.0 / 4096.0) as u64) })
}

/// A guest that writes four times what the link carries, then hardly anything, and so on.
fn phases(link: ByteRate) -> GuestSpec {
    let rate = |times: f64| PagesPerSecond((times * link.0 / 4096.0) as u64);
    let lasts = Duration::from_secs(2);
    GuestSpec::new(Workload::Phases {
        busy: WorkPhase { lasts, rate: rate(4.0), memory: Share::FULL },
        quiet: WorkPhase { lasts, rate: rate(0.02), memory: Share::FULL },
    })
}

/// Nothing may give way.
fn strictly(policy: &str, link: ByteRate) -> Requirements {
    Requirements { give_way: Vec::new(), ..standard_requirements(policy, link) }
}

/// Nothing may give way, and a fifth of the CPU is to be kept.
fn with_a_floor(policy: &str, link: ByteRate) -> Requirements {
    Requirements { min_cpu: Share::clamped(0.2), ..strictly(policy, link) }
}

/// Returns the names of all comparisons.
pub fn comparison_names() -> Vec<&'static str> {
    ALL.iter().map(|comparison| comparison.name).collect()
}

/// Runs the comparisons, or another experiment.
///
/// # Errors
/// [`ExperimentError`].
pub async fn run(mut options: BenchArgs, mut stops: Interrupts) -> Result<(), ExperimentError> {
    match options.experiment.take() {
        Some(Experiment::Theory(options)) => return crate::theory::run(options, stops).await,
        Some(Experiment::Accuracy(options)) => return crate::accuracy::run(options, stops).await,
        None => {}
    }
    let isolated_cpus = isolate_guest_cpu();
    let chosen = chosen(&options);
    if chosen.is_empty() {
        let about = policies_as_text(&options);
        return Err(ExperimentError::NoComparison { policies: options.policy, about });
    }
    let mut all = Vec::new();
    for (comparison, contenders) in chosen {
        let runs = comparison.run(&contenders, &options, isolated_cpus, &mut stops).await?;
        if options.json {
            all.push(as_json(comparison, &contenders, &runs));
        } else {
            print_line(&format!(
                "{}: {}\n{}\n",
                comparison.name,
                comparison.guest,
                table(&contenders, &runs)
            ));
        }
    }
    if options.json {
        print_line(&json!(all).to_string());
    }
    Ok(())
}

/// Returns the chosen comparisons, each with the chosen policies.
fn chosen(options: &BenchArgs) -> Vec<(&'static Comparison, Vec<&'static Contender>)> {
    let named = |contender: &&Contender| {
        options.policy.is_empty() || options.policy.iter().any(|name| name == contender.policy)
    };
    let contenders =
        |comparison: &'static Comparison| comparison.contenders.iter().filter(named).collect();
    let all = chosen_comparisons(options).map(|comparison| (comparison, contenders(comparison)));
    all.filter(|(_, contenders): &(_, Vec<&Contender>)| !contenders.is_empty()).collect()
}

/// Returns the chosen comparisons, whatever their policies.
fn chosen_comparisons(options: &BenchArgs) -> impl Iterator<Item = &'static Comparison> {
    let only = |name: &str| options.only.is_empty() || options.only.iter().any(|n| n == name);
    ALL.iter().filter(move |comparison| only(comparison.name))
}

/// Returns which policies the chosen comparisons are about.
fn policies_as_text(options: &BenchArgs) -> String {
    let about = |comparison: &Comparison| {
        let mut policies: Vec<&str> =
            comparison.contenders.iter().map(|contender| contender.policy).collect();
        policies.dedup();
        format!("{} is about {}", comparison.name, policies.join(", "))
    };
    chosen_comparisons(options).map(about).collect::<Vec<_>>().join("; ")
}

impl Comparison {
    /// For each policy its runs, all in turn.
    async fn run(
        &self,
        contenders: &[&Contender],
        options: &BenchArgs,
        isolated_cpus: Option<IsolatedCpus>,
        stops: &mut Interrupts,
    ) -> Result<Vec<Vec<LabResult>>, ExperimentError> {
        let mut runs: Vec<Vec<LabResult>> = contenders.iter().map(|_| Vec::new()).collect();
        let repeat = options.repeat.max(1);
        for turn in 1..=repeat {
            for (index, contender) in contenders.iter().enumerate() {
                let policy = contender.name;
                eprint_line(&format!("{} by {policy}, {turn} of {repeat}", self.name));
                let line = ProgressLine::new();
                let run = LabRun {
                    guest: self.guest,
                    spec: (self.spec)(self.link),
                    policy: contender.policy,
                    asked: (contender.asked)(contender.policy, self.link),
                    aggression: Aggression::DEFAULT,
                    link: self.link,
                    record: options.record.as_ref().map(|folder| {
                        folder.join(format!("{}-{}-{turn}.jsonl", self.name, index + 1))
                    }),
                    isolated_cpus,
                };
                let seen = run.run(stops, &mut |tick| line.on_tick(tick)).await;
                line.clear();
                let what = format!("{} by {policy}", self.name);
                let seen = match seen {
                    Ok(seen) if seen.memory_intact => seen,
                    Ok(_) => return Err(ExperimentError::MemoryDamaged { what }),
                    Err(error) => return Err(ExperimentError::Run { what, error }),
                };
                runs[index].push(seen);
            }
        }
        Ok(runs)
    }
}

/// A figure of a run.
type Figure = (&'static str, fn(&LabResult) -> f64);

const FIGURES: [Figure; 3] = [
    ("total", |seen| seen.total.as_secs_f64()),
    ("work lost", |seen| seen.lost.as_secs_f64()),
    ("longest stall", |seen| seen.longest_stall.as_secs_f64()),
];

fn table(contenders: &[&Contender], runs: &[Vec<LabResult>]) -> Table {
    let mut header = vec!["policy".to_owned()];
    for (name, _) in FIGURES {
        header.extend([name.to_owned(), "min..max".to_owned(), "ratio".to_owned()]);
    }
    header.extend(["sent", "throttled", "steering", "landed"].map(str::to_owned));
    let columns = header.len();
    let mut table = borderless_table(header, 1..columns);
    for (contender, seen) in contenders.iter().zip(runs) {
        let mut row = vec![contender.name.to_owned()];
        for (_, figure) in FIGURES {
            let Spread { low, median, high } = spread(seen, figure);
            let baseline = spread(&runs[0], figure).median;
            row.push(seconds(median));
            row.push(format!("{}..{}", seconds(low), seconds(high)));
            row.push(format!("{:.3}", median / baseline));
        }
        let sent = spread(seen, |seen| seen.sent.as_f64()).median;
        let throttled = spread(seen, |seen| seen.report.throttled_s.unwrap_or(f64::NAN)).median;
        row.push(Bytes(sent as u64).to_string());
        row.push(seconds(throttled));
        let steering = spread(seen, |seen| seen.steering_cpu).median;
        row.push(format!("{:.2} %", 100.0 * steering));
        let landed = seen.iter().filter(|seen| seen.landed()).count();
        row.push(format!("{landed} of {}", seen.len()));
        table.add_row(row);
    }
    table
}

/// A figure over all runs of a contender, of which there is at least one.
fn spread(seen: &[LabResult], figure: impl Fn(&LabResult) -> f64) -> Spread {
    let none = Spread { low: f64::NAN, median: f64::NAN, high: f64::NAN };
    Spread::of(seen.iter().map(figure)).unwrap_or(none)
}

fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "-".to_owned(), show_duration)
}

fn as_json(
    comparison: &Comparison,
    contenders: &[&Contender],
    runs: &[Vec<LabResult>],
) -> serde_json::Value {
    let of_run = |seen: &LabResult| {
        json!({
            "total_s": seen.total.as_secs_f64(),
            "work_lost_s": seen.lost.as_secs_f64(),
            "longest_stall_s": seen.longest_stall.as_secs_f64(),
            "sent_bytes": seen.sent.0,
            "steering_cpu_share": seen.steering_cpu,
            "report": seen.report,
        })
    };
    let of_contender = |(contender, seen): (&&Contender, &Vec<LabResult>)| json!({ "way": contender.name, "policy": contender.policy, "runs": seen.iter().map(of_run).collect::<Vec<_>>() });
    let contenders: Vec<_> = contenders.iter().zip(runs).map(of_contender).collect();
    json!({ "comparison": comparison.name, "guest": comparison.guest, "ways": contenders })
}
