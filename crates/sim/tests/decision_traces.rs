//! What `predictive` decides in every scenario of the library, from the first sample to the last: a
//! snapshot for each, one line for each change of stage or decision.
//!
//! A change of the policy shows here as a change of what it does and why, where the figures of
//! `library.rs` only show what comes of it.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use landfall_core::decision::{Decision, Finish};
use landfall_core::model::prior::Prior;
use landfall_core::policy::{Needs, Policy, Predictive, PreflightRefusal, Stage};
use landfall_core::requirements::Aggression;
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::{Moment, Share, show_duration};
use landfall_sim::{Scenario, run_traced};

/// `predictive`, with a note of each decision that differs from the one before.
#[derive(Default)]
struct Traced {
    policy: Predictive,
    lines: Vec<String>,
    stages: BTreeSet<&'static str>,
    last: Option<String>,
}

impl Policy for Traced {
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
        let decision = self.policy.decide(view);
        let stage = self.policy.stage().unwrap();
        self.stages.insert(stage);
        let decided = describe(stage, view, &decision);
        if self.last.as_ref() != Some(&decided) {
            let at = view.now.as_secs_f64();
            self.lines.push(format!("{at:8.2} s  {decided}"));
            self.last = Some(decided);
        }
        decision
    }

    fn valid_until(&self, view: &View) -> Option<Moment> {
        self.policy.valid_until(view)
    }
}

/// A decision in a line. Figures are rounded, so that only what matters makes a line of its own.
fn describe(stage: &str, view: &View, decision: &Decision) -> String {
    let pass = match view.phase {
        Phase::FirstPass => "first pass".to_owned(),
        Phase::Iterating => format!("pass {}", view.syncs + 1),
        phase => format!("{phase:?}").to_lowercase(),
    };
    let mut text = format!("{pass:10}  {stage:14}");
    let held = decision.hold(0).share();
    if held < Share::FULL {
        write!(text, "  held to {:.1} %", held.get() * 100.0).unwrap();
    }
    let tuning = decision.tuning;
    // Of a guest that lands by itself the limit follows the curve all the time.
    if let Some(limit) = tuning.downtime_limit.filter(|limit| *limit <= Duration::from_millis(1)) {
        write!(text, "  downtime limit {}", show_duration(limit)).unwrap();
    }
    if tuning.max_bandwidth.is_some() {
        text += "  drains the link";
    }
    match decision.finish {
        Some(Finish::Ship) => text += "  ships",
        Some(Finish::PostCopy) => text += "  post-copy",
        Some(Finish::Cancel) => text += "  cancels",
        None => {}
    }
    format!("{text}  ({})", decision.reason)
}

fn library() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

/// The first draw of a scenario.
fn trace(path: &Path) -> (Traced, String) {
    let scenario = Scenario::parse(&fs::read_to_string(path).unwrap()).unwrap();
    let seed = scenario.seed.fork(0);
    let mut policy = Traced::default();
    let run = run_traced(&scenario.draw(seed), &mut policy, seed);
    let mut text = format!("{}\n\n", scenario.about);
    if run.trace.is_empty() {
        text += "not started\n";
    }
    for line in &policy.lines {
        writeln!(text, "{line}").unwrap();
    }
    let total = run.measured.total.as_secs_f64();
    let reason = run.reason.map_or(String::new(), |reason| format!(": {reason}"));
    writeln!(text, "{total:8.2} s  {:?}{reason}", run.outcome).unwrap();
    (policy, text)
}

#[test]
fn predictive_decides_in_every_scenario_as_it_did() {
    let files = library();
    assert!(files.len() >= 12, "{files:?}");
    for path in files {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        insta::with_settings!({ prepend_module_to_snapshot => false, snapshot_path => "decision_traces" }, {
            insta::assert_snapshot!(name, trace(&path).1);
        });
    }
}

#[test]
fn the_library_leads_through_every_stage_that_a_simulated_guest_can_be_in() {
    // The simulator always has CPU counters.
    let never = [Stage::Blind];
    let mut missing: BTreeSet<&str> =
        Stage::ALL.into_iter().filter(|stage| !never.contains(stage)).map(Stage::name).collect();
    let scenarios: Vec<Scenario> = library()
        .iter()
        .map(|path| Scenario::parse(&fs::read_to_string(path).unwrap()).unwrap())
        .collect();
    // A held pass that is nearly over when its hold has become needless is rare.
    for draw in 0..500 {
        for scenario in &scenarios {
            let seed = scenario.seed.fork(draw);
            let mut setup = scenario.draw(seed);
            match draw % 4 {
                // Without a probe the curve is not known before the first sync.
                1 => setup.prior = Prior { link: setup.prior.link, ..Prior::default() },
                // Where the contents are not known nothing is refused before the start.
                2 => {
                    setup.requirements.give_way.clear();
                    setup.prior.contents = None;
                }
                3 => setup.aggression = Aggression::LEAST,
                _ => {}
            }
            let mut policy = Traced::default();
            run_traced(&setup, &mut policy, seed);
            missing.retain(|stage| !policy.stages.contains(stage));
        }
        if missing.is_empty() {
            return;
        }
    }
    panic!("never reached: {missing:?}");
}
