//! Every scenario that the repository ships, by every policy: the figures are kept, so that a change
//! of a policy or of the simulator shows what it changes.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use landfall_core::report::Outcome;
use landfall_core::units::{Bytes, Share};
use landfall_sim::{Compared, Run, Scenario, Spread, compare};

/// Fewer than a scenario asks for, so that a test takes seconds.
const DRAWS: u32 = 5;

fn library() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Scenario {
    let text = fs::read_to_string(path).unwrap();
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn seconds(spread: Option<Spread>) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |s| format!("{:.2} ({:.2}..{:.2})", s.median, s.low, s.high),
    )
}

fn table(scenario: &Scenario) -> String {
    let mut text = format!("{}\nseed {}, {} draws\n\n", scenario.about, scenario.seed, DRAWS);
    let all = compare(scenario, &scenario.policies(), scenario.seed, DRAWS);
    for by in &all {
        writeln!(text, "{}: {}", by.policy, outcomes(by)).unwrap();
        let lost = |run: &Run| run.measured.losses.guest_cpu.unwrap().as_secs_f64();
        let line = |name: &str, spread| format!("  {name:14} {}\n", seconds(spread));
        text += &line("total s", by.spread(|run| run.measured.total.as_secs_f64()));
        text += &line("lost CPU s", by.spread(lost));
        let stall = |run: &Run| run.measured.losses.longest_stall.as_secs_f64();
        text += &line("longest stall", by.spread(stall));
        let share = by.spread(|run| run.measured.losses.min_share.get());
        let share = share.map_or(Share::FULL, |share| Share::clamped(share.median));
        let sent = by.spread(|run| run.measured.transferred.unwrap().as_f64());
        let sent = Bytes(sent.map_or(0.0, |sent| sent.median) as u64);
        writeln!(text, "  least CPU {share}, sent {sent}").unwrap();
    }
    text
}

fn outcomes(by: &Compared) -> String {
    let count = |outcome, word: &str| match by.count(outcome) {
        0 => None,
        count => Some(format!("{count} {word}")),
    };
    let words = [
        count(Outcome::Landed, "landed"),
        count(Outcome::Cancelled, "cancelled"),
        count(Outcome::Failed, "failed"),
        count(Outcome::Refused, "refused"),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[test]
fn every_scenario_of_the_library_gives_the_figures_it_gave() {
    let files = library();
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        insta::with_settings!({ prepend_module_to_snapshot => false }, {
            insta::assert_snapshot!(name, table(&read(&path)));
        });
    }
}

#[test]
fn the_same_seed_gives_the_same_runs_and_another_seed_others() {
    for path in library() {
        let scenario = read(&path);
        let policies = scenario.policies();
        let once = compare(&scenario, &policies, scenario.seed, 1);
        assert_eq!(
            format!("{once:?}"),
            format!("{:?}", compare(&scenario, &policies, scenario.seed, 1))
        );
        let other = compare(&scenario, &policies, scenario.seed.fork(1), 1);
        assert_ne!(once, other, "{}", path.display());
    }
}
