//! The scripts in `policies/`: the law of 2011 decides as the built-in one does, and all of them move
//! the guests of `scenarios/` without failing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use landfall_core::decision::Decision;
use landfall_core::policy::{self, Needs, Policy, PreflightRefusal};
use landfall_core::report::Outcome;
use landfall_core::requirements::Aggression;
use landfall_core::telemetry::view::View;
use landfall_script::{Program, Script};
use landfall_sim::{Scenario, Seed, run};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)
}

/// A shipped script; it may not fail.
fn shipped(name: &str) -> Script {
    let text = fs::read_to_string(folder("policies").join(name)).unwrap();
    let program = Program::read(&format!("script:{name}"), &text);
    program.unwrap_or_else(|e| panic!("{name}: {e}")).policy(Arc::new(|what| panic!("{what}")))
}

fn scenarios() -> Vec<(String, Scenario)> {
    let files = fs::read_dir(folder("scenarios")).unwrap().map(|file| file.unwrap().path());
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        (path.display().to_string(), Scenario::parse(&text).unwrap())
    };
    files.map(read).collect()
}

/// Decides twice, and asserts that both decisions are the same.
struct Both {
    built_in: Box<dyn Policy>,
    script: Script,
    decisions: usize,
    held: usize,
}

impl Policy for Both {
    fn name(&self) -> &str {
        self.built_in.name()
    }

    fn needs(&self) -> Needs {
        assert_eq!(self.built_in.needs(), self.script.needs());
        self.built_in.needs()
    }

    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        let built_in = self.built_in.preflight(view);
        assert_eq!(built_in, self.script.preflight(view));
        built_in
    }

    fn decide(&mut self, view: &View) -> Decision {
        let built_in = self.built_in.decide(view);
        assert_eq!(built_in, self.script.decide(view), "at {:?}", view.now);
        self.decisions += 1;
        self.held += usize::from(built_in.hold(0).share().get() < 1.0);
        built_in
    }
}

#[test]
fn the_law_of_2011_as_a_script_decides_exactly_as_the_built_in_one() {
    let (mut decisions, mut held) = (0, 0);
    for (name, scenario) in scenarios() {
        for aggression in [0.0, 0.5, 0.9, 1.0] {
            let mut setup = scenario.draw(Seed(7));
            setup.aggression = Aggression::new(aggression).unwrap();
            let built_in = policy::by_name("rfc2011").unwrap();
            let script = shipped("rfc2011.rhai");
            let mut both = Both { built_in, script, decisions: 0, held: 0 };
            run(&setup, &mut both, Seed(7));
            println!("{name} at {aggression}: {} decisions, {} hold", both.decisions, both.held);
            decisions += both.decisions;
            held += both.held;
        }
    }
    println!("{decisions} decisions, all equal; {held} of them hold the guest");
    assert!(decisions > 1000 && held > 100, "{decisions}, {held}");
}

#[test]
fn the_shipped_scripts_move_guests_without_failing() {
    for name in ["rfc2011.rhai", "grip.rhai", "gentle.rhai"] {
        let mut landed = 0;
        for (_, scenario) in scenarios() {
            let run = run(&scenario.draw(Seed(3)), &mut shipped(name), Seed(3));
            landed += usize::from(run.outcome == Outcome::Landed);
        }
        println!("{name} lands {landed}");
        assert!(landed >= 3, "{name} lands {landed}");
    }
}

#[test]
fn the_gentle_script_never_goes_below_its_floor() {
    for (name, scenario) in scenarios() {
        let run = run(&scenario.draw(Seed(3)), &mut shipped("gentle.rhai"), Seed(3));
        let least = run.measured.losses.min_share.get();
        let stood_still = run.measured.losses.longest_stall.as_secs_f64() > 0.5;
        assert!(least > 0.25 || stood_still, "{name}: {least}");
    }
}
