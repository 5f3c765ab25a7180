//! Scripts: any text is refused, or steers a simulated migration to its end without a panic, within
//! the requirements.

#![no_main]

use std::sync::Arc;
use std::time::Duration;

use landfall_script::Program;
use landfall_sim::{Scenario, Seed, Setup, run};
use libfuzzer_sys::fuzz_target;

const GUEST: &str = include_str!("../../scenarios/middle.toml");

fuzz_target!(|text: &str| {
    let Ok(program) = Program::read("script:fuzz", text) else { return };
    let Ok(scenario) = Scenario::parse(GUEST) else { return };
    let setup = Setup { patience: Duration::from_secs(5), ..scenario.draw(Seed(1)) };
    let by_script = || run(&setup, &mut program.policy(Arc::new(|_| {})), Seed(1));
    let (run, again) = (by_script(), by_script());
    assert_eq!(run.measured, again.measured, "the same script decides the same");
    assert!(run.measured.losses.longest_stall <= run.measured.total);
});
