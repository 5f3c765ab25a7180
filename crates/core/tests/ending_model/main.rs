//! Checks the protocol by which a migration ends, in every order of events, with every process crashing at
//! every step and every answer late.

mod model;
mod protocol_of_0_1;
mod world;

use landfall_core::ending::{EndAnswer, EndProtocol, EndStep, Obligations};
use stateright::{Checker, Model};

use model::EndingModel;
use protocol_of_0_1::ProtocolOf01;
use world::Protocol;

impl Protocol for EndProtocol {
    const SILENT_START_IS_REFUSAL: bool = false;
    fn start(obligations: Obligations, destination_known: bool) -> Self {
        EndProtocol::new(obligations, destination_known)
    }
    fn next_step(&self) -> EndStep {
        self.next_step()
    }
    fn on_answer(&mut self, answer: EndAnswer) {
        self.on_answer(answer);
    }
}

/// Returns the promises that are broken, each with the shortest way to that.
fn check<P: Protocol>(model: EndingModel<P>) -> Vec<(&'static str, String)> {
    let checker = model.checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{states} states");
    let found = checker.discoveries();
    let mut violations: Vec<(&'static str, String)> = found
        .into_iter()
        .map(|(name, path)| {
            let steps: Vec<String> =
                path.into_actions().iter().map(|action| format!("{action:?}")).collect();
            (name, steps.join("\n  "))
        })
        .collect();
    violations.sort();
    violations
}

fn assert_no_violation(destination_known: bool) {
    let model = |post_copy| EndingModel::<EndProtocol>::new(destination_known, post_copy);
    let mut models = vec![model(false), model(true), model(false).pausing()];
    if destination_known {
        models.push(model(false).cancelled_by_other());
        models.push(model(true).with_stopped_destination());
    }
    for model in models {
        let violations = check(model);
        for (name, steps) in &violations {
            println!("NOT: {name}\n  {steps}");
        }
        assert!(violations.is_empty());
    }
}

#[test]
fn with_the_destinations_monitor_exactly_one_guest_runs_in_the_end() {
    assert_no_violation(true);
}

#[test]
fn without_the_destinations_monitor_exactly_one_guest_runs_in_the_end() {
    assert_no_violation(false);
}

#[test]
fn every_state_leads_to_an_end_without_another_fault() {
    for known in [true, false] {
        let model = || EndingModel::<EndProtocol>::new(known, true);
        for model in [model(), model().pausing()] {
            let (states, trapped) = model::states_without_an_end(&model);
            println!("destination known: {known}; {states} states");
            assert!(trapped.is_empty(), "{} states, the first: {:#?}", trapped.len(), trapped[0]);
        }
    }
}

/// The faults of the protocol of landfall 0.1 that this model was made to find: A1 (a `migrate` that was
/// not answered counts as refused), A2 (the guardian's duty ends before the guest is seen to run), A3 (a
/// cancel that is executed after the last byte was sent).
#[test]
fn the_protocol_of_0_1_is_found_to_break_its_promises() {
    for (known, post_copy) in [(true, false), (false, false), (false, true)] {
        let found = check(EndingModel::<ProtocolOf01>::new(known, post_copy));
        for (name, steps) in &found {
            println!("0.1 NOT: {name}\n  {steps}");
        }
        let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
        let mut expected = vec![model::NOT_TWICE, model::REFUSAL_IS_TRUE];
        if known {
            // Only a guest that was stopped or fenced can be left standing.
            expected.push(model::RUNS_IN_THE_END);
        }
        for name in expected {
            assert!(names.contains(&name), "destination known: {known}: {name}");
        }
    }
}
