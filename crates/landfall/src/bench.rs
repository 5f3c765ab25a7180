//! `landfall bench`: policies against each other on real guests. The runs of a comparison take
//! turns, so that a drift of the machine's speed meets them all, and medians and ratios are told;
//! nothing is asserted.

use comfy_table::{CellAlignment, Table, presets};
use landfall_core::units::{ByteRate, Bytes, show_duration};
use landfall_guest::{Kind, PagesPerSecond, Spec};
use landfall_qemu::steer::Stops;
use serde_json::json;
use std::time::Duration;

use crate::cli::Bench;
use crate::live::Live;
use crate::signals;
use crate::trial::{Seen, Trial, asked_of};
use landfall_qemu::say::{say, tell};

/// Link and bandwidth limit of all comparisons.
const LINK: ByteRate = ByteRate::mb(100);

/// A guest, and the policies to move it by; the first is what the others are measured against.
struct Comparison {
    name: &'static str,
    guest: &'static str,
    spec: fn() -> Spec,
    policies: &'static [&'static str],
}

const ALL: &[Comparison] = &[
    Comparison {
        name: "pathological",
        guest: "sweep, 96 MiB of 256 MiB, flat out",
        spec: || Spec::new(Kind::Sweep),
        policies: &["auto-converge", "progressive", "pause-and-ship"],
    },
    Comparison {
        name: "middle",
        guest: "random, 144 MiB of 256 MiB, writing twice what the link carries",
        spec: || Spec { working_set: Bytes::mib(144), ..random(2.0) },
        policies: &["auto-converge", "progressive", "pause-and-ship"],
    },
    Comparison {
        name: "unaided",
        guest: "random, 96 MiB of 256 MiB, writing a tenth of what the link carries",
        spec: || random(0.1),
        policies: &["plain", "progressive"],
    },
    Comparison {
        name: "idle",
        guest: "idle, 96 MiB of 256 MiB",
        spec: || Spec::new(Kind::Idle),
        policies: &["plain", "progressive"],
    },
];

/// A guest that writes at random, so many times what the link carries.
fn random(times: f64) -> Spec {
    Spec::new(Kind::Random { rate: PagesPerSecond((times * LINK.0 / 4096.0) as u64) })
}

/// The names of all comparisons.
pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|comparison| comparison.name).collect()
}

/// Runs the comparisons and gives the exit status.
pub async fn run(options: Bench) -> u8 {
    let mut stops = signals::listen();
    let mut all = Vec::new();
    let chosen = |name: &str| options.only.is_empty() || options.only.iter().any(|n| n == name);
    for comparison in ALL.iter().filter(|comparison| chosen(comparison.name)) {
        let runs = match comparison.run(options.repeat.max(1), &mut stops).await {
            Ok(runs) => runs,
            Err(problem) => {
                say(&format!("landfall: {problem}"));
                return 5;
            }
        };
        if options.json {
            all.push(as_json(comparison, &runs));
        } else {
            tell(&format!(
                "{}: {}\n{}\n",
                comparison.name,
                comparison.guest,
                table(comparison, &runs)
            ));
        }
    }
    if options.json {
        tell(&json!(all).to_string());
    }
    0
}

impl Comparison {
    /// For each policy its runs, all in turn.
    async fn run(&self, repeat: usize, stops: &mut Stops) -> Result<Vec<Vec<Seen>>, String> {
        let mut runs: Vec<Vec<Seen>> = self.policies.iter().map(|_| Vec::new()).collect();
        for turn in 1..=repeat {
            for (index, policy) in self.policies.iter().enumerate() {
                say(&format!("{} by {policy}, {turn} of {repeat}", self.name));
                let live = Live::new();
                let trial = Trial {
                    guest: self.guest,
                    spec: (self.spec)(),
                    policy,
                    asked: asked_of(policy, LINK),
                    link: LINK,
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

fn table(comparison: &Comparison, runs: &[Vec<Seen>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["policy".to_owned()];
    for (name, _) in FIGURES {
        header.extend([name.to_owned(), "min..max".to_owned(), "ratio".to_owned()]);
    }
    header.extend(["sent", "throttled", "landed"].map(str::to_owned));
    let columns = header.len();
    table.set_header(header);
    for (policy, seen) in comparison.policies.iter().zip(runs) {
        let mut row = vec![(*policy).to_owned()];
        for (_, figure) in FIGURES {
            let (low, mid, high) = spread(seen, figure);
            let (_, baseline, _) = spread(&runs[0], figure);
            row.push(seconds(mid));
            row.push(format!("{}..{}", seconds(low), seconds(high)));
            row.push(format!("{:.3}", mid / baseline));
        }
        let (_, sent, _) = spread(seen, |seen| seen.sent.as_f64());
        let (_, throttled, _) = spread(seen, |seen| seen.report.throttled_s.unwrap_or(f64::NAN));
        row.push(Bytes(sent as u64).to_string());
        row.push(seconds(throttled));
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

/// Smallest, median and largest value of a figure.
fn spread(seen: &[Seen], figure: impl Fn(&Seen) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = seen.iter().map(figure).collect();
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let middle = (at((values.len().max(1) - 1) / 2) + at(values.len() / 2)) / 2.0;
    (at(0), middle, at(values.len().saturating_sub(1)))
}

fn seconds(value: f64) -> String {
    Duration::try_from_secs_f64(value).map_or_else(|_| "-".to_owned(), show_duration)
}

fn as_json(comparison: &Comparison, runs: &[Vec<Seen>]) -> serde_json::Value {
    let of_run = |seen: &Seen| {
        json!({
            "total_s": seen.total.as_secs_f64(),
            "work_lost_s": seen.lost.as_secs_f64(),
            "longest_stall_s": seen.longest_stall.as_secs_f64(),
            "sent_bytes": seen.sent.0,
            "report": seen.report,
        })
    };
    let of_policy = |(policy, seen): (&&str, &Vec<Seen>)| json!({ "policy": policy, "runs": seen.iter().map(of_run).collect::<Vec<_>>() });
    let policies: Vec<_> = comparison.policies.iter().zip(runs).map(of_policy).collect();
    json!({ "comparison": comparison.name, "guest": comparison.guest, "policies": policies })
}
