//! `landfall simulate`: a scenario by several policies in virtual time, side by side.

mod page;

use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use landfall_core::policy;
use landfall_core::report::Outcome;
use landfall_core::requirements::Aggression;
use landfall_core::units::{Bytes, Share};
use landfall_qemu::stdio::{eprint_line, print_line};
use landfall_sim::{
    Compared, Judged, Run, Scenario, Seed, Spread, compare, compare_of, judge, trace,
};
use serde_json::{Value, json};

use crate::cli::Simulate;
use crate::law::{Law, say_once};
use crate::picture::{self, BLUE, Curve, ORANGE, Panel, percent};

/// Where a script has failed.
const SIMULATED: &str = "in a simulated migration";

/// Simulates the scenarios and gives the exit status: 0, or 2 where one cannot be read.
pub fn run(options: &Simulate) -> u8 {
    if options.picture.is_some() && options.scenarios.len() > 1 {
        eprint_line("landfall: --picture is of one scenario; name one, or leave the picture out");
        return 2;
    }
    let mut all = Vec::new();
    let mut judgements = Vec::new();
    for path in &options.scenarios {
        let scenario = match read(path) {
            Ok(scenario) => scenario,
            Err(problem) => {
                eprint_line(&format!("landfall: {}: {problem}", path.display()));
                return 2;
            }
        };
        let scenario = options.aggression.map_or(scenario.clone(), |dial| scenario.at(dial));
        let chosen = match Chosen::of(&scenario, options, path) {
            Ok(chosen) => chosen,
            Err(problem) => {
                eprint_line(&format!("landfall: {}: policies: {problem}", path.display()));
                return 2;
            }
        };
        let once = say_once(SIMULATED);
        let find = |name: &str| chosen.law(name).map(|law| law.choice(&once));
        let mut runs = compare_of(&find, &scenario, &chosen.names(), chosen.seed, chosen.draws);
        if options.docs.is_some()
            && let Some(gentlest) = gentlest(&scenario, chosen.seed, chosen.draws)
        {
            runs.insert(0, gentlest);
        }
        let judged = judge(&scenario, &runs, chosen.seed);
        if options.json {
            all.push(as_json(path, &scenario, &chosen, &runs, &judged));
        } else {
            let heading = heading(path, &scenario, &chosen);
            print_line(&format!(
                "{heading}{}\n\n{}\n",
                oracle_in_words(&judged),
                table(&runs, &judged)
            ));
        }
        if options.docs.is_some() {
            judgements.push(page::Judgement::of(name(path), &scenario, &runs, &judged));
        }
        if let Some(picture) = &options.picture {
            if let Err(error) = draw(picture, &scenario, &chosen) {
                let picture = picture.display();
                eprint_line(&format!("landfall: the picture {picture} cannot be written: {error}"));
                return 2;
            }
            if !options.json {
                print_line(&format!("How the first draw went is in {}", picture.display()));
            }
        }
    }
    if options.json {
        print_line(&json!({ "scenarios": all }).to_string());
    }
    if let Some(folder) = &options.docs
        && let Err(error) = page::write(folder, &judgements)
    {
        eprint_line(&format!("landfall: {}: {error}", folder.display()));
        return 2;
    }
    0
}

/// The default policy at the gentle end of its dial.
fn gentlest(scenario: &Scenario, seed: Seed, draws: u32) -> Option<Compared> {
    let at = scenario.at(Aggression::new(0.0)?);
    let runs = compare(&at, &[policy::DEFAULT.to_owned()], seed, draws).pop()?.runs;
    Some(Compared { policy: page::GENTLEST.to_owned(), runs })
}

fn read(path: &Path) -> Result<Scenario, String> {
    let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
    Scenario::parse(&text).map_err(|error| error.to_string())
}

/// What of a scenario is simulated: as it says, or as the command line does.
struct Chosen {
    policies: Vec<Law>,
    seed: Seed,
    draws: u32,
}

impl Chosen {
    /// The scripts that a scenario names are looked for beside it.
    fn of(scenario: &Scenario, options: &Simulate, path: &Path) -> Result<Chosen, String> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let named = |names: Vec<String>| {
            names.iter().map(|name| Law::named(name, folder)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Chosen {
            policies: match (options.policy.is_empty(), &options.docs) {
                (false, _) => options.policy.clone(),
                (true, Some(_)) => named(page::POLICIES.map(str::to_owned).to_vec())?,
                (true, None) => named(scenario.policies())?,
            },
            seed: options.seed.unwrap_or(scenario.seed),
            draws: options.draws.unwrap_or(scenario.draws),
        })
    }

    fn names(&self) -> Vec<String> {
        self.policies.iter().map(|law| law.name().to_owned()).collect()
    }

    fn law(&self, name: &str) -> Option<&Law> {
        self.policies.iter().find(|law| law.name() == name)
    }
}

fn heading(path: &Path, scenario: &Scenario, chosen: &Chosen) -> String {
    let Chosen { seed, draws, .. } = chosen;
    let about = &scenario.about;
    format!("{}: {about}\nseed {seed}, draws {draws}; median (least..most)\n", name(path))
}

fn name(path: &Path) -> String {
    path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

/// A figure of a run, in seconds.
type Figure = fn(&Run) -> f64;

/// The figures in seconds: heading, name in JSON, how to get it.
const FIGURES: [(&str, &str, Figure); 3] = [
    ("total s", "total_s", |run| run.measured.total.as_secs_f64()),
    ("longest stall s", "longest_stall_s", |run| run.measured.losses.longest_stall.as_secs_f64()),
    ("CPU lost s", "guest_cpu_lost_s", lost),
];

fn lost(run: &Run) -> f64 {
    run.measured.losses.guest_cpu.map_or(f64::NAN, |lost| lost.as_secs_f64())
}

fn min_share(run: &Run) -> f64 {
    run.measured.losses.min_share.get()
}

fn sent(run: &Run) -> f64 {
    run.measured.transferred.map_or(f64::NAN, Bytes::as_f64)
}

/// What the oracle loses, in a line.
fn oracle_in_words(judged: &[Judged]) -> String {
    let known = || judged.iter().filter_map(|draw| draw.oracle);
    let Some(lost) = Spread::of(known().map(|oracle| oracle.lost.0)) else {
        return "Oracle: no plan lands it".to_owned();
    };
    let how = match known().all(|oracle| oracle.exact) {
        true => "the best plan, solved for",
        false => "the best of the plans that were tried, and at least as good as every policy",
    };
    let count = known().count();
    format!("Oracle: lands {count} of {}, loses {} s; {how}", judged.len(), in_seconds(lost))
}

/// What a policy lost beyond the oracle; `None` where no draw tells.
fn regrets(judged: &[Judged], policy: usize) -> Option<Spread> {
    Spread::of(judged.iter().filter_map(|draw| *draw.regrets.get(policy)?))
}

/// Landings of a policy that broke a requirement which the oracle keeps.
fn broke(by: &Compared, judged: &[Judged], policy: usize) -> usize {
    let landed = by.runs.iter().map(|run| run.outcome == Outcome::Landed);
    let none = judged.iter().map(|draw| draw.regrets.get(policy).is_none_or(Option::is_none));
    landed.zip(none).filter(|(landed, none)| *landed && *none).count()
}

fn in_per_cent(part: f64) -> String {
    format!("{:.0} %", part * 100.0)
}

fn table(all: &[Compared], judged: &[Judged]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut header = vec!["policy", "landed"];
    header.extend(FIGURES.map(|(heading, _, _)| heading));
    header.extend(["least CPU", "sent", "regret", "worst"]);
    let columns = header.len();
    table.set_header(header);
    for (index, by) in all.iter().enumerate() {
        let mut row = vec![by.policy.clone(), outcomes(by, broke(by, judged, index))];
        row.extend(FIGURES.map(|(_, _, figure)| by.spread(figure).map_or_else(none, in_seconds)));
        let share = by.spread(min_share).map(|share| Share::clamped(share.median).to_string());
        let sent = by.spread(sent).map(|sent| Bytes(sent.median as u64).to_string());
        row.extend([share.unwrap_or_else(none), sent.unwrap_or_else(none)]);
        let regret = regrets(judged, index);
        row.extend(regret.map_or([none(), none()], |r| [r.median, r.high].map(in_per_cent)));
        table.add_row(row);
    }
    for index in 2..columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn none() -> String {
    "-".to_owned()
}

fn in_seconds(spread: Spread) -> String {
    let Spread { low, median, high } = spread;
    let digits = usize::from(median < 10.0) + usize::from(median < 100.0);
    format!("{median:.digits$} ({low:.digits$}..{high:.digits$})")
}

/// What is not a landing, by its word.
const NOT_LANDED: [(Outcome, &str); 4] = [
    (Outcome::Cancelled, "cancelled"),
    (Outcome::Failed, "failed"),
    (Outcome::Refused, "refused"),
    (Outcome::Unknown, "unknown"),
];

/// How the runs ended; `broke` of them broke what could be kept.
fn outcomes(by: &Compared, broke: usize) -> String {
    let landed = format!("{} of {}", by.count(Outcome::Landed), by.runs.len());
    let broke = (broke > 0).then(|| format!("{broke} broke what could be kept"));
    let others = NOT_LANDED.iter().filter_map(|(outcome, word)| match by.count(*outcome) {
        0 => None,
        count => Some(format!("{count} {word}")),
    });
    [landed].into_iter().chain(broke).chain(others).collect::<Vec<_>>().join(", ")
}

fn as_json(
    path: &Path,
    scenario: &Scenario,
    chosen: &Chosen,
    all: &[Compared],
    judged: &[Judged],
) -> Value {
    let by = |(index, by): (usize, &Compared)| {
        let beyond = |n: usize| judged.get(n).and_then(|draw| *draw.regrets.get(index)?);
        let runs = by.runs.iter().enumerate().map(|(n, run)| run_as_json(run, beyond(n)));
        let mut object = json!({
            "policy": by.policy,
            "landed": by.count(Outcome::Landed),
            "min_cpu_share": by.spread(min_share).map(spread_as_json),
            "transferred_bytes": by.spread(sent).map(spread_as_json),
            "regret": regrets(judged, index).map(spread_as_json),
            "runs": runs.collect::<Vec<_>>(),
        });
        for (_, name, figure) in FIGURES {
            object[name] = json!(by.spread(figure).map(spread_as_json));
        }
        object
    };
    json!({
        "scenario": name(path),
        "about": scenario.about,
        "seed": chosen.seed,
        "draws": chosen.draws,
        "oracles": judged.iter().map(oracle_as_json).collect::<Vec<_>>(),
        "policies": all.iter().enumerate().map(by).collect::<Vec<_>>(),
    })
}

fn spread_as_json(spread: Spread) -> Value {
    json!({ "low": spread.low, "median": spread.median, "high": spread.high })
}

fn oracle_as_json(draw: &Judged) -> Value {
    json!(draw.oracle.map(|oracle| json!({
        "guest_cpu_lost_s": oracle.lost,
        "exact": oracle.exact,
    })))
}

fn run_as_json(run: &Run, regret: Option<f64>) -> Value {
    let measured = &run.measured;
    json!({
        "outcome": run.outcome,
        "reason": run.reason,
        "total_s": measured.total.as_secs_f64(),
        "downtime_s": measured.downtime.map(|time| time.as_secs_f64()),
        "longest_stall_s": measured.losses.longest_stall.as_secs_f64(),
        "guest_cpu_lost_s": lost(run),
        "throttled_s": measured.losses.throttled.as_secs_f64(),
        "transferred_bytes": measured.transferred.map(|bytes| bytes.0),
        "passes": measured.passes,
        "min_cpu_share": min_share(run),
        "regret": regret,
    })
}

/// Draws what remained and the guest's CPU over time, a panel for each policy.
fn draw(
    path: &Path,
    scenario: &Scenario,
    chosen: &Chosen,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut runs = Vec::new();
    let once = say_once(SIMULATED);
    let find = |name: &str| chosen.law(name).map(|law| law.choice(&once));
    for law in &chosen.policies {
        let name = law.name();
        runs.extend(trace(&find, scenario, name, chosen.seed).map(|run| (name, run)));
    }
    let longest = runs.iter().map(|(_, run)| run.measured.total.as_secs_f64()).fold(1.0, f64::max);
    let panels: Vec<Panel> = runs.iter().map(|(policy, run)| panel(policy, run)).collect();
    picture::draw(path, longest, &panels)
}

fn panel(policy: &str, run: &Run) -> Panel {
    let most = run.trace.iter().map(|point| point.remaining).max().unwrap_or_default();
    let all = most.as_f64().max(1.0);
    let remaining = run.trace.iter().map(|p| (p.at.as_secs_f64(), p.remaining.as_f64() / all));
    // A share is that of the time since the point before: steps, not slopes.
    let mut share = Vec::with_capacity(2 * run.trace.len());
    let mut before = 0.0;
    for point in &run.trace {
        let at = point.at.as_secs_f64();
        share.extend([(before, point.share.get()), (at, point.share.get())]);
        before = at;
    }
    let measured = &run.measured;
    Panel {
        caption: format!(
            "{policy}: {:.1} s, {:.1} s of CPU lost, longest stall {:.2} s",
            measured.total.as_secs_f64(),
            lost(run),
            measured.losses.longest_stall.as_secs_f64()
        ),
        top: 1.1,
        unit: percent,
        curves: vec![
            Curve {
                label: "left to send, of all memory",
                colour: BLUE,
                filled: true,
                points: remaining.collect(),
            },
            Curve {
                label: "CPU the guest gets, of what it wants",
                colour: ORANGE,
                filled: false,
                points: share,
            },
        ],
        marks: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str, policy: &str) -> (Vec<Compared>, Vec<Judged>) {
        let scenario = Scenario::parse(text).unwrap();
        let runs = compare(&scenario, &[policy.to_owned()], scenario.seed, 3);
        let judged = judge(&scenario, &runs, scenario.seed);
        (runs, judged)
    }

    #[test]
    fn a_pause_that_was_not_needed_is_counted_and_has_no_regret() {
        let (runs, judged) =
            judged(include_str!("../../../../scenarios/middle.toml"), "pause-and-ship");
        assert_eq!(broke(&runs[0], &judged, 0), 3);
        assert_eq!(regrets(&judged, 0), None);
        let table = table(&runs, &judged).to_string();
        assert!(table.contains("3 of 3, 3 broke what could be kept"), "{table}");
    }

    #[test]
    fn the_oracle_says_whether_it_was_solved_or_searched() {
        for (text, how) in [
            (include_str!("../../../../scenarios/middle.toml"), "solved"),
            (include_str!("../../../../scenarios/phase-change.toml"), "tried"),
        ] {
            let (runs, judged) = judged(text, "predictive");
            let words = oracle_in_words(&judged);
            assert!(words.starts_with("Oracle: lands 3 of 3, loses ") && words.contains(how));
            let scenario = Scenario::parse(text).unwrap();
            let chosen = Chosen { policies: Vec::new(), seed: scenario.seed, draws: 3 };
            let json = as_json(Path::new("x.toml"), &scenario, &chosen, &runs, &judged);
            assert_eq!(json["oracles"][0]["exact"], how == "solved");
            assert_eq!(json["policies"][0]["runs"].as_array().unwrap().len(), 3);
            assert!(json["policies"][0]["regret"]["median"].is_number(), "{json}");
        }
    }
}
