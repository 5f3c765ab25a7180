//! `landfall bench`: policies against each other on real guests. The runs of a comparison take
//! turns, so that a drift of the machine's speed meets them all, and medians and ratios are told;
//! nothing is asserted.

use comfy_table::{CellAlignment, Table, presets};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::units::{ByteRate, Bytes, Share, show_duration};
use landfall_qemu::driver::Stops;
use landfall_sim::Spread;
use landfall_testguest::{Kind, PagesPerSecond, Phase, Processors, Spec};
use serde_json::json;
use std::time::Duration;

use crate::cli::Bench;
use crate::live::Live;
use crate::signals;
use crate::trial::{Seen, Trial, asked_of, set_a_processor_apart};
use landfall_qemu::stdio::{eprint_line, print_line};

/// A guest, a link, and the ways to move it; the first is what the others are measured against.
struct Comparison {
    name: &'static str,
    guest: &'static str,
    link: ByteRate,
    spec: fn(ByteRate) -> Spec,
    ways: &'static [Way],
}

/// A policy, and what is asked of it.
struct Way {
    name: &'static str,
    policy: &'static str,
    asked: fn(&str, ByteRate) -> Requirements,
}

impl Way {
    const fn of(policy: &'static str) -> Way {
        Way { name: policy, policy, asked: asked_of }
    }
}

const AUTO_CONVERGE: Way = Way::of("auto-converge");
const PLAIN: Way = Way { name: "plain", policy: "plain", asked: strictly };
const PREDICTIVE: Way = Way { name: "predictive", policy: "predictive", asked: strictly };

const ALL: &[Comparison] = &[
    Comparison {
        name: "pathological",
        guest: "sweep, 96 MiB of 256 MiB, flat out",
        link: ByteRate::mb(100),
        spec: |_| Spec::new(Kind::Sweep),
        ways: &[
            AUTO_CONVERGE,
            Way { name: "predictive, may pause", policy: "predictive", asked: asked_of },
            Way::of("progressive"),
            Way::of("pause-and-ship"),
        ],
    },
    Comparison {
        name: "middle",
        guest: "random, 144 MiB of 256 MiB, writing twice what the link carries",
        link: ByteRate::mb(25),
        // Told a little more: while dirty pages are logged a CPU second does less work (`docs/theory.md`),
        // and QEMU lets a little more through than it is told. By its syncs it is twice.
        spec: |link| Spec { working_set: Bytes::mib(144), ..random(2.25, link) },
        ways: &[
            AUTO_CONVERGE,
            PREDICTIVE,
            Way { name: "predictive, 20 %", policy: "predictive", asked: with_a_floor },
            Way::of("progressive"),
        ],
    },
    Comparison {
        name: "phases",
        guest: "96 MiB of 256 MiB, by turns 2 s busy and 2 s quiet",
        link: ByteRate::mb(50),
        spec: phases,
        ways: &[AUTO_CONVERGE, PREDICTIVE],
    },
    Comparison {
        name: "unaided",
        guest: "random, 96 MiB of 256 MiB, writing a tenth of what the link carries",
        link: ByteRate::mb(100),
        spec: |link| random(0.1, link),
        ways: &[PLAIN, PREDICTIVE],
    },
    Comparison {
        name: "idle",
        guest: "idle, 96 MiB of 256 MiB",
        link: ByteRate::mb(100),
        spec: |_| Spec::new(Kind::Idle),
        ways: &[PLAIN, PREDICTIVE],
    },
];

/// A guest that writes at random, so many times what the link carries.
fn random(times: f64, link: ByteRate) -> Spec {
    Spec::new(Kind::Random { rate: PagesPerSecond((times * link.0 / 4096.0) as u64) })
}

/// A guest that writes four times what the link carries, then hardly anything, and so on.
fn phases(link: ByteRate) -> Spec {
    let rate = |times: f64| PagesPerSecond((times * link.0 / 4096.0) as u64);
    let lasts = Duration::from_secs(2);
    Spec::new(Kind::Phases {
        busy: Phase { lasts, rate: rate(4.0), memory: Share::FULL },
        quiet: Phase { lasts, rate: rate(0.02), memory: Share::FULL },
    })
}

/// Nothing may give way.
fn strictly(policy: &str, link: ByteRate) -> Requirements {
    Requirements { give_way: Vec::new(), ..asked_of(policy, link) }
}

/// Nothing may give way, and a fifth of the CPU is to be kept.
fn with_a_floor(policy: &str, link: ByteRate) -> Requirements {
    Requirements { min_cpu: Share::clamped(0.2), ..strictly(policy, link) }
}

/// The names of all comparisons.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|comparison| comparison.name).collect()
}

/// Runs the comparisons and gives the exit status.
pub async fn run(options: Bench) -> u8 {
    let mut stops = signals::listen();
    let processors = set_a_processor_apart();
    let chosen = chosen(&options);
    if chosen.is_empty() {
        eprint_line(&format!(
            "landfall: --policy {}: none of the comparisons is by that policy; {}",
            options.policy.join(" --policy "),
            ways_in_words(&options)
        ));
        return 2;
    }
    let mut all = Vec::new();
    for (comparison, ways) in chosen {
        let runs = match comparison.run(&ways, &options, processors, &mut stops).await {
            Ok(runs) => runs,
            Err(problem) => {
                eprint_line(&format!("landfall: {problem}"));
                return 5;
            }
        };
        if options.json {
            all.push(as_json(comparison, &ways, &runs));
        } else {
            print_line(&format!(
                "{}: {}\n{}\n",
                comparison.name,
                comparison.guest,
                table(&ways, &runs)
            ));
        }
    }
    if options.json {
        print_line(&json!(all).to_string());
    }
    0
}

/// The comparisons that were asked for, with the ways to make them.
fn chosen(options: &Bench) -> Vec<(&'static Comparison, Vec<&'static Way>)> {
    let named = |way: &&Way| {
        options.policy.is_empty() || options.policy.iter().any(|name| name == way.policy)
    };
    let ways = |comparison: &'static Comparison| comparison.ways.iter().filter(named).collect();
    let all = asked(options).map(|comparison| (comparison, ways(comparison)));
    all.filter(|(_, ways): &(_, Vec<&Way>)| !ways.is_empty()).collect()
}

/// The comparisons that were asked for, whatever the policy.
fn asked(options: &Bench) -> impl Iterator<Item = &'static Comparison> {
    let only = |name: &str| options.only.is_empty() || options.only.iter().any(|n| n == name);
    ALL.iter().filter(move |comparison| only(comparison.name))
}

/// What the comparisons that were asked for are by.
fn ways_in_words(options: &Bench) -> String {
    let by = |comparison: &Comparison| {
        let mut policies: Vec<&str> = comparison.ways.iter().map(|way| way.policy).collect();
        policies.dedup();
        format!("{} is by {}", comparison.name, policies.join(", "))
    };
    asked(options).map(by).collect::<Vec<_>>().join("; ")
}

impl Comparison {
    /// For each policy its runs, all in turn.
    async fn run(
        &self,
        ways: &[&Way],
        options: &Bench,
        processors: Option<Processors>,
        stops: &mut Stops,
    ) -> Result<Vec<Vec<Seen>>, String> {
        let mut runs: Vec<Vec<Seen>> = ways.iter().map(|_| Vec::new()).collect();
        let repeat = options.repeat.max(1);
        for turn in 1..=repeat {
            for (index, way) in ways.iter().enumerate() {
                let policy = way.name;
                eprint_line(&format!("{} by {policy}, {turn} of {repeat}", self.name));
                let live = Live::new();
                let trial = Trial {
                    guest: self.guest,
                    spec: (self.spec)(self.link),
                    policy: way.policy,
                    asked: (way.asked)(way.policy, self.link),
                    aggression: Aggression::DEFAULT,
                    link: self.link,
                    record: options.record.as_ref().map(|folder| {
                        folder.join(format!("{}-{}-{turn}.jsonl", self.name, index + 1))
                    }),
                    processors,
                };
                let seen = trial.run(stops, &mut |look| live.look(look)).await;
                live.clear();
                let seen = seen.map_err(|error| format!("{} by {policy}: {error}", self.name))?;
                if !seen.memory_intact {
                    return Err(format!("{} by {policy}: the guest's memory is spoilt", self.name));
                }
                runs[index].push(seen);
            }
        }
        Ok(runs)
    }
}

/// A figure of a run.
type Figure = (&'static str, fn(&Seen) -> f64);

const FIGURES: [Figure; 3] = [
    ("total", |seen| seen.total.as_secs_f64()),
    ("work lost", |seen| seen.lost.as_secs_f64()),
    ("longest stall", |seen| seen.longest_stall.as_secs_f64()),
];

fn table(ways: &[&Way], runs: &[Vec<Seen>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["policy".to_owned()];
    for (name, _) in FIGURES {
        header.extend([name.to_owned(), "min..max".to_owned(), "ratio".to_owned()]);
    }
    header.extend(["sent", "throttled", "steering", "landed"].map(str::to_owned));
    let columns = header.len();
    table.set_header(header);
    for (way, seen) in ways.iter().zip(runs) {
        let mut row = vec![way.name.to_owned()];
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
        let steering = spread(seen, |seen| seen.steering).median;
        row.push(format!("{:.2} %", 100.0 * steering));
        let landed = seen.iter().filter(|seen| seen.landed()).count();
        row.push(format!("{landed} of {}", seen.len()));
        table.add_row(row);
    }
    for index in 1..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A figure over all runs of a way, of which there is at least one.
fn spread(seen: &[Seen], figure: impl Fn(&Seen) -> f64) -> Spread {
    let none = Spread { low: f64::NAN, median: f64::NAN, high: f64::NAN };
    Spread::of(seen.iter().map(figure)).unwrap_or(none)
}

fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "-".to_owned(), show_duration)
}

fn as_json(comparison: &Comparison, ways: &[&Way], runs: &[Vec<Seen>]) -> serde_json::Value {
    let of_run = |seen: &Seen| {
        json!({
            "total_s": seen.total.as_secs_f64(),
            "work_lost_s": seen.lost.as_secs_f64(),
            "longest_stall_s": seen.longest_stall.as_secs_f64(),
            "sent_bytes": seen.sent.0,
            "steering_cpu_share": seen.steering,
            "report": seen.report,
        })
    };
    let of_way = |(way, seen): (&&Way, &Vec<Seen>)| json!({ "way": way.name, "policy": way.policy, "runs": seen.iter().map(of_run).collect::<Vec<_>>() });
    let ways: Vec<_> = ways.iter().zip(runs).map(of_way).collect();
    json!({ "comparison": comparison.name, "guest": comparison.guest, "ways": ways })
}
