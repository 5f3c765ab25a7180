//! `landfall simulate`: a scenario by several policies in virtual time, side by side.

use std::fs;
use std::path::Path;

use landfall_core::report::Outcome;
use landfall_core::units::{Bytes, Share};
#[cfg(feature = "lab")]
use landfall_lab::regret;
use landfall_migration::charts::time_series::{TimeCurve, TimePanel, draw_time_panels};
use landfall_migration::charts::{BLUE, ChartError, ORANGE, write_svg};
use landfall_migration::comparison::{
    count_broken, cpu_lost_s, format_spread, no_figure, oracle_line, outcome_counts, regret_spread,
};
use landfall_migration::policy_registry::{NamedPolicy, PolicyError, report_first_failure};
use landfall_migration::tables::{Table, borderless_table};
use landfall_migration::text::format_percent;
use landfall_qemu::stdio::print_line;
use landfall_sim::{Compared, Judged, Run, Scenario, Seed, Spread, compare_of, judge, trace};
use serde_json::{Value, json};

use crate::cli::SimulateArgs;
use crate::command_error::CommandError;

/// Where a script has failed, for its message.
const SIMULATED: &str = "in a simulated migration";

/// Simulates the scenarios.
///
/// # Errors
/// [`CommandError`].
pub fn run(options: &SimulateArgs) -> Result<(), CommandError> {
    if options.picture.is_some() && options.scenarios.len() > 1 {
        let message = "--picture is of one scenario; name one, or leave the picture out";
        return Err(CommandError::usage(message));
    }
    let mut all = Vec::new();
    #[cfg(feature = "lab")]
    let mut judgements = Vec::new();
    for path in &options.scenarios {
        let file = path.display();
        let scenario = read(path)?;
        let scenario = options.aggression.map_or(scenario.clone(), |dial| scenario.at(dial));
        let chosen = Chosen::of(&scenario, options, path);
        let chosen =
            chosen.map_err(|error| CommandError::usage(format!("{file}: policies: {error}")))?;
        let once = report_first_failure(SIMULATED);
        let find =
            |name: &str| chosen.policy(name).map(|policy| policy.create_for_simulator(&once));
        #[cfg_attr(not(feature = "lab"), expect(unused_mut, reason = "for the page on regret"))]
        let mut runs = compare_of(&find, &scenario, &chosen.names(), chosen.seed, chosen.draws);
        #[cfg(feature = "lab")]
        if options.docs.is_some() {
            let gentlest = regret::compare_gentlest(&scenario, chosen.seed, chosen.draws);
            runs.splice(0..0, gentlest);
        }
        let judged = judge(&scenario, &runs, chosen.seed);
        if options.json {
            all.push(as_json(path, &scenario, &chosen, &runs, &judged));
        } else {
            let heading = heading(path, &scenario, &chosen);
            print_line(&format!(
                "{heading}{}\n\n{}\n",
                oracle_line(&judged),
                table(&runs, &judged)
            ));
        }
        #[cfg(feature = "lab")]
        if options.docs.is_some() {
            judgements.push(regret::Judgement::of(name(path), &scenario, &runs, &judged));
        }
        if let Some(picture) = &options.picture {
            draw(picture, &scenario, &chosen).map_err(CommandError::usage)?;
            if !options.json {
                print_line(&format!("How the first draw went is in {}", picture.display()));
            }
        }
    }
    if options.json {
        print_line(&json!({ "scenarios": all }).to_string());
    }
    #[cfg(feature = "lab")]
    if let Some(folder) = &options.docs {
        let unwritable = |error| format!("{}: {error}", folder.display());
        regret::write(folder, &judgements).map_err(unwritable).map_err(CommandError::usage)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Scenario, CommandError> {
    let file = path.display();
    let text = fs::read_to_string(path).map_err(|error| {
        CommandError::usage(format!("{file}: {error}"))
            .hint("name a scenario file, as in scenarios/")
    })?;
    Scenario::parse(&text).map_err(|error| CommandError::usage(format!("{file}: {error}")))
}

/// What of a scenario is simulated: as it says, or as the command line does.
struct Chosen {
    policies: Vec<NamedPolicy>,
    seed: Seed,
    draws: u32,
}

impl Chosen {
    /// Paths of scripts that a scenario names are relative to the scenario's folder.
    fn of(scenario: &Scenario, options: &SimulateArgs, path: &Path) -> Result<Chosen, PolicyError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let named = |names: Vec<String>| {
            names
                .iter()
                .map(|name| NamedPolicy::by_name(name, folder))
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Chosen {
            policies: match options.policy.as_slice() {
                #[cfg(feature = "lab")]
                [] if options.docs.is_some() => {
                    named(regret::POLICIES.map(str::to_owned).to_vec())?
                }
                [] => named(scenario.policies())?,
                policies => policies.to_vec(),
            },
            seed: options.seed.unwrap_or(scenario.seed),
            draws: options.draws.unwrap_or(scenario.draws),
        })
    }

    fn names(&self) -> Vec<String> {
        self.policies.iter().map(|policy| policy.name().to_owned()).collect()
    }

    fn policy(&self, name: &str) -> Option<&NamedPolicy> {
        self.policies.iter().find(|policy| policy.name() == name)
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
    ("CPU lost s", "guest_cpu_lost_s", cpu_lost_s),
];

fn min_share(run: &Run) -> f64 {
    run.measured.losses.min_share.get()
}

fn sent(run: &Run) -> f64 {
    run.measured.transferred.map_or(f64::NAN, Bytes::as_f64)
}

fn table(all: &[Compared], judged: &[Judged]) -> Table {
    let mut header = vec!["policy", "landed"];
    header.extend(FIGURES.map(|(heading, _, _)| heading));
    header.extend(["least CPU", "sent", "regret", "worst"]);
    let columns = header.len();
    let mut table = borderless_table(header, 2..columns);
    for (index, by) in all.iter().enumerate() {
        let mut row = vec![by.policy.clone(), outcome_counts(by, count_broken(by, judged, index))];
        row.extend(
            FIGURES.map(|(_, _, figure)| by.spread(figure).map_or_else(no_figure, format_spread)),
        );
        let share = by.spread(min_share).map(|share| Share::clamped(share.median).to_string());
        let sent = by.spread(sent).map(|sent| Bytes(sent.median as u64).to_string());
        row.extend([share.unwrap_or_else(no_figure), sent.unwrap_or_else(no_figure)]);
        let regret = regret_spread(judged, index);
        row.extend(
            regret.map_or([no_figure(), no_figure()], |r| [r.median, r.high].map(format_percent)),
        );
        table.add_row(row);
    }
    table
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
            "regret": regret_spread(judged, index).map(spread_as_json),
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
        "guest_cpu_lost_s": cpu_lost_s(run),
        "throttled_s": measured.losses.throttled.as_secs_f64(),
        "transferred_bytes": measured.transferred.map(|bytes| bytes.0),
        "passes": measured.passes,
        "min_cpu_share": min_share(run),
        "regret": regret,
    })
}

/// Draws what remained and the guest's CPU over time, a panel for each policy.
fn draw(path: &Path, scenario: &Scenario, chosen: &Chosen) -> Result<(), ChartError> {
    let mut runs = Vec::new();
    let once = report_first_failure(SIMULATED);
    let find = |name: &str| chosen.policy(name).map(|policy| policy.create_for_simulator(&once));
    for policy in &chosen.policies {
        let name = policy.name();
        runs.extend(trace(&find, scenario, name, chosen.seed).map(|run| (name, run)));
    }
    let longest = runs.iter().map(|(_, run)| run.measured.total.as_secs_f64()).fold(1.0, f64::max);
    let panels: Vec<TimePanel> = runs.iter().map(|(policy, run)| panel(policy, run)).collect();
    write_svg(path, &draw_time_panels(longest, &panels)?)
}

fn panel(policy: &str, run: &Run) -> TimePanel {
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
    TimePanel {
        caption: format!(
            "{policy}: {:.1} s, {:.1} s of CPU lost, longest stall {:.2} s",
            measured.total.as_secs_f64(),
            cpu_lost_s(run),
            measured.losses.longest_stall.as_secs_f64()
        ),
        top: 1.1,
        unit: format_percent,
        curves: vec![
            TimeCurve {
                label: "left to send, of all memory",
                colour: BLUE,
                filled: true,
                points: remaining.collect(),
            },
            TimeCurve {
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
    use landfall_sim::compare;

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
        assert_eq!(count_broken(&runs[0], &judged, 0), 3);
        assert_eq!(regret_spread(&judged, 0), None);
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
            let words = oracle_line(&judged);
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
