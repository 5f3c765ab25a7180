//! A policy may say until when its decision stands. Looks that are left out for that change no more of
//! a run than chance does.

use std::fs;
use std::path::Path;
use std::time::Duration;

use landfall_core::decision::Decision;
use landfall_core::policy::{Needs, Policy, PreflightRefusal};
use landfall_core::telemetry::view::View;
use landfall_sim::{Qemu, Run, Scenario, Setup, policies, run, run_traced};

/// A policy that wants every look.
struct Wakeful(Box<dyn Policy>);

impl Policy for Wakeful {
    fn name(&self) -> &str {
        self.0.name()
    }
    fn needs(&self) -> Needs {
        self.0.needs()
    }
    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        self.0.preflight(view)
    }
    fn explanation(&self) -> Option<String> {
        self.0.explanation()
    }
    fn decide(&mut self, view: &View) -> Decision {
        self.0.decide(view)
    }
}

fn near(one: Duration, other: Duration) -> bool {
    let (one, other) = (one.as_secs_f64(), other.as_secs_f64());
    (one - other).abs() <= 0.02 * one.max(other) + 0.11
}

fn differ(one: &Run, other: &Run) -> Option<&'static str> {
    let (a, b) = (&one.measured, &other.measured);
    [
        (one.outcome != other.outcome, "outcome"),
        (!near(a.total, b.total), "total"),
        (!near(a.losses.guest_cpu.unwrap(), b.losses.guest_cpu.unwrap()), "lost"),
        (!near(a.losses.longest_stall, b.losses.longest_stall), "longest stall"),
        (!near(a.losses.throttled, b.losses.throttled), "throttled"),
    ]
    .into_iter()
    .find_map(|(differs, what)| differs.then_some(what))
}

#[test]
fn with_every_look_and_with_those_that_matter_a_run_comes_out_the_same() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let (mut runs, mut different) = (0, Vec::new());
    for file in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        let scenario = Scenario::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        for (policy, n) in scenario.policies().iter().flat_map(|policy| [(policy, 0), (policy, 1)])
        {
            let choice = || policies::by_name(policy).unwrap();
            let seed = scenario.seed.fork(n);
            let setup = scenario.draw(seed);
            let qemu = Qemu { auto_converge: choice().auto_converge, ..setup.qemu };
            let setup = Setup { qemu, ..setup };
            let few = run(&setup, &mut *choice().policy, seed);
            let all = run(&setup, &mut Wakeful(choice().policy), seed);
            runs += 1;
            if let Some(what) = differ(&few, &all) {
                different.push(format!("{} {policy}: {what}\n{few:?}\n{all:?}", file.display()));
            }
            let traced = run_traced(&setup, &mut *choice().policy, seed);
            assert_eq!(differ(&traced, &few), None, "{} {policy}", file.display());
        }
    }
    // Where what remains is within a percent of what decides, a moment more or less does.
    assert!(
        different.len() * 20 <= runs,
        "{} of {runs}:\n{}",
        different.len(),
        different.join("\n")
    );
}
