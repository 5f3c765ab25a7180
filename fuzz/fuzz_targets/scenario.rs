//! Scenarios: any text is refused, or is a guest and a link that can be simulated to an end.

#![no_main]

use std::time::Duration;

use landfall_sim::{Scenario, Seed, Setup, policies, run};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(scenario) = Scenario::parse(text) else { return };
    // Long enough for every part of a migration, short enough for thousands of them.
    let setup = Setup { patience: Duration::from_secs(20), ..scenario.draw(Seed(1)) };
    if setup.guest.vcpus > 16 {
        return;
    }
    for name in scenario.policies() {
        // A script is a file, and not read here.
        let Ok(mut choice) = policies::by_name(&name) else { continue };
        let run = run(&setup, &mut *choice.policy, Seed(1));
        assert!(run.measured.losses.longest_stall <= run.measured.total);
    }
});
