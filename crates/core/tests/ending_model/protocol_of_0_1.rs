//! How landfall 0.1 ended a migration (`migration_end.rs`, `finalize.rs`, `guardian.rs` at 5f42052), in the
//! steps of today's protocol. Kept so that the model is seen to find what was wrong with it.

use landfall_core::ending::{EndAnswer, EndState, EndStep, GuestState, Obligations};
use landfall_core::telemetry::sample::Status;

use crate::world::Protocol;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    AskMigration,
    AskDestination,
    Fence,
    Confirm,
    AskSource,
    Cancel,
    Await,
    /// The migration is over: the guardian is told so before the guest is looked at.
    Withdraw(bool),
    SeeSourceRun,
    SeeDestinationRun,
    ContinueSource,
    ContinueDestination,
    Ended(EndState),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProtocolOf01 {
    stopped: bool,
    destination_known: bool,
    continued: bool,
    state: State,
}

const UNKNOWN: EndState = EndState::MigratedByOther;

impl Protocol for ProtocolOf01 {
    const SILENT_START_IS_REFUSAL: bool = true;

    fn start(obligations: Obligations, destination_known: bool) -> Self {
        let state =
            if obligations.migration_started { State::AskMigration } else { State::Ended(UNKNOWN) };
        let stopped = obligations.guest_stopped;
        ProtocolOf01 { stopped, destination_known, continued: false, state }
    }

    fn next_step(&self) -> EndStep {
        match self.state {
            State::AskMigration => EndStep::QueryMigration,
            State::AskDestination | State::Confirm | State::SeeDestinationRun => {
                EndStep::QueryDestination
            }
            State::Fence => EndStep::StopDestination,
            State::AskSource | State::SeeSourceRun => EndStep::QuerySource,
            State::Cancel => EndStep::Cancel,
            State::Await => EndStep::Wait,
            State::Withdraw(_) => EndStep::Persist(Obligations::default()),
            State::ContinueSource => EndStep::ContinueSource,
            State::ContinueDestination => EndStep::ContinueDestination,
            State::Ended(end) => EndStep::End(end),
        }
    }

    fn on_answer(&mut self, answer: EndAnswer) {
        self.state = match self.state {
            State::AskMigration => match answer {
                EndAnswer::Migration(Status::Active | Status::SwitchOver | Status::Setup) => {
                    match self.destination_known {
                        true => State::AskDestination,
                        false => State::AskSource,
                    }
                }
                EndAnswer::Migration(Status::Completed) => State::Withdraw(true),
                EndAnswer::Migration(Status::None | Status::Cancelled | Status::Failed) => {
                    State::Withdraw(false)
                }
                EndAnswer::Migration(Status::PostCopy) => State::Ended(EndState::InPostCopy),
                _ => State::Await,
            },
            State::AskDestination => match answer {
                EndAnswer::Guest(GuestState::Incoming) => State::Fence,
                // "A QEMU that has ended starts nothing."
                EndAnswer::Unreachable => State::Cancel,
                _ => State::Await,
            },
            State::Fence => State::Confirm,
            State::Confirm => match answer {
                EndAnswer::Guest(GuestState::Incoming) => State::Cancel,
                _ => State::Await,
            },
            State::AskSource => match answer {
                EndAnswer::Guest(GuestState::Running) => State::Cancel,
                _ => State::Await,
            },
            State::Cancel => State::Await,
            State::Await => State::AskMigration,
            State::Withdraw(completed) => match (completed, self.destination_known) {
                (true, true) => State::SeeDestinationRun,
                (true, false) => State::Ended(EndState::AtDestination),
                (false, _) => State::SeeSourceRun,
            },
            State::SeeSourceRun => match answer {
                EndAnswer::Guest(GuestState::Running) => State::Ended(EndState::RunsAtSource),
                EndAnswer::Guest(GuestState::Paused) if self.stopped && !self.continued => {
                    State::ContinueSource
                }
                EndAnswer::Guest(state @ GuestState::Paused) => {
                    State::Ended(EndState::StandsAtSource(state))
                }
                EndAnswer::Guest(_) => State::SeeSourceRun,
                _ => State::Ended(UNKNOWN),
            },
            State::SeeDestinationRun => match answer {
                EndAnswer::Guest(GuestState::Running) => State::Ended(EndState::RunsAtDestination),
                EndAnswer::Guest(GuestState::Paused) if !self.continued => {
                    State::ContinueDestination
                }
                EndAnswer::Guest(_) => State::SeeDestinationRun,
                _ => State::Ended(UNKNOWN),
            },
            State::ContinueSource => {
                self.continued = true;
                State::SeeSourceRun
            }
            State::ContinueDestination => {
                self.continued = true;
                State::SeeDestinationRun
            }
            State::Ended(end) => State::Ended(end),
        }
    }
}
