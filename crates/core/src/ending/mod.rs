//! Ending a migration so that the guest runs in exactly one place, whatever dies or hangs meanwhile.
//!
//! **Problem.** `migrate_cancel` makes the source run the guest again. Once the source has sent the whole
//! state, the destination starts the guest too, whatever becomes of the source. So a cancel that is
//! executed a moment too late leaves the guest running twice; a guest that was told not to start, and is
//! then forgotten, runs nowhere. Commands are answered late or never, and every process that takes part
//! can die at every step.
//!
//! **Approach.** [`EndProtocol`] is a state machine without I/O. It is asked for the next [`EndStep`] and
//! told the [`EndAnswer`]. landfall, its guardian and `landfall release` all run this one machine, each from
//! the [`Obligations`] that the one before it left. `tests/ending_model` checks the machine exhaustively
//! against a model of both QEMUs, with a crash of each process at every step.
//!
//! **Terms.** A *fence* keeps the guest from starting at the destination:
//! - *at the destination*: QMP `stop` while it waits for the migration;
//! - *at the source*: QMP `stop`, and `query-status` then says `paused`. The state that is sent says so,
//!   and the destination does not start a guest that arrives paused. `finish-migrate` instead of `paused`
//!   means that QEMU had stopped the guest itself, as one that runs: that is no fence.
//!
//! **Rules.**
//! 1. Cancel only behind a fence, and never once post-copy was asked for.
//! 2. Write down what a command obliges to *before* it is sent ([`EndStep::Persist`]).
//! 3. A command without an answer may have been executed, or may yet be: nothing is concluded from
//!    silence. QEMU executes the commands of one connection in their order, and drops those that
//!    wait when the connection closes (`monitor_qmp_cleanup_queue_and_resume`, monitor/qmp.c). So the
//!    answer to a later question tells what became of the command.
//! 4. An obligation ends only when the guest is seen to run.
//! 5. A guest does not wait, stopped, for a cancel that takes long: it is continued at the source once the
//!    migration is seen, twice, to be cancelled behind a fence. What may still arrive starts nowhere.
//!    QEMU 7.2 is `cancelling` for as long as the kernel tries to connect to a destination that does not
//!    answer, 130 s, and nothing ends that, `yank` neither (docs/measurements/levers-qemu-10.0.md).

mod obligations;

use crate::telemetry::sample::Status;

pub use obligations::Obligations;

/// What a guest does at one end, as far as ending a migration is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GuestState {
    /// It runs.
    Running,
    /// It waits for an incoming migration.
    Incoming,
    /// It was told to stop, or not to start: QMP `cont` makes it run.
    Paused,
    /// The hypervisor has stopped it for the final copy.
    FinalCopy,
    /// Its state has left for the destination.
    Sent,
    /// It stands still for a reason of its own: an I/O error, a panic, a shutdown.
    Halted,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndStep {
    /// Ask the source for the migration's status.
    QueryMigration,
    /// Ask the source what the guest does.
    QuerySource,
    /// Ask the destination what the guest does.
    QueryDestination,
    /// Write these down where they outlive every process of landfall, before anything else is done.
    Persist(Obligations),
    /// Stop the guest at the source.
    StopSource,
    /// Continue the guest at the source.
    ContinueSource,
    /// Tell the destination not to start the guest.
    StopDestination,
    /// Continue the guest at the destination.
    ContinueDestination,
    /// Cancel the migration.
    Cancel,
    /// Break the migration's connection, out of band.
    BreakLink,
    /// Wait a moment.
    Wait,
    /// Nothing more is to be done.
    End(EndState),
}

/// What became of a [`EndStep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndAnswer {
    /// It was done.
    Done,
    /// It was refused: nothing has changed.
    Rejected,
    /// No answer yet. It may have been done, or may still be.
    Silent,
    /// No answer for so long that the final copy must hang. Only of the source.
    Hung,
    /// There is no connection to that end, or none any more.
    Unreachable,
    /// Nothing has listened at the destination's monitor for so long that its QEMU must have ended.
    Gone,
    /// The answer to [`EndStep::QueryMigration`].
    Migration(Status),
    /// The answer to [`EndStep::QuerySource`] and [`EndStep::QueryDestination`].
    Guest(GuestState),
}

/// Where the guest is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndState {
    /// It was seen to run at the destination.
    RunsAtDestination,
    /// The migration has completed; the destination's monitor is not known, so it was not asked.
    AtDestination,
    /// The migration has completed, and the destination's QEMU has ended since, perhaps with the guest.
    DestinationGone,
    /// It has arrived, and stands still because of something that landfall did not do.
    StandsAtDestination(GuestState),
    /// It was seen to run at the source.
    RunsAtSource,
    /// It runs at the source; a copy that arrived paused waits at the destination, whose monitor is not
    /// known. It must not be continued there.
    RunsAtSourceCopyPaused,
    /// It runs at the source. It had started at the destination as well, by no doing of landfall's, and was
    /// stopped there.
    RunsAtSourceAfterTwice,
    /// It is at the source, and stands still because of something that landfall did not do.
    StandsAtSource(GuestState),
    /// The migration has completed after the guest was told to stop, and it cannot be known whether it
    /// arrived running or paused.
    ArrivedRunningOrPaused,
    /// Post-copy is under way, which nothing may cancel.
    InPostCopy,
    /// A migration is under way that landfall did not start.
    MigratedByOther,
}

/// The machine. It has the same next step until it is told the answer, and no memory of time: the caller
/// decides how long to wait and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndProtocol {
    obligations: Obligations,
    destination_known: bool,
    /// The destination was seen to be fenced by this process. That it was written down before says less:
    /// the one that wrote it may have died before it did it.
    destination_is_fenced: bool,
    /// The guest was seen to run at the destination although the migration had not completed.
    ran_twice: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// How far is the migration?
    AskMigration,
    /// It goes on, and is asked again later.
    AwaitMigration,
    /// It is being cancelled behind a fence: the guest need not wait for that.
    AwaitCancelled,
    AskCancelled,
    AskSourceMeanwhile,
    ContinueMeanwhile,
    /// It runs again: a later pause is another program's.
    PersistContinued,
    /// Can the destination be fenced, so that this may follow?
    AskDestinationBefore(Ended),
    PersistDestinationFence(Ended),
    FenceDestination(Ended),
    ConfirmDestinationFence(Ended),
    /// The destination is not known, or does not answer: can the source be fenced?
    AskSourceBefore,
    PersistStop,
    FenceSource,
    ConfirmSourceFence,
    PersistSourceFence,
    /// Behind a fence: end it.
    EndBy(Ended),
    /// It did not complete, and was not ended behind a fence: may the guest start at the destination
    /// nevertheless? Another program that cancels too late brings that about, and a return path that
    /// breaks.
    AskDestinationAfter,
    PersistLateFence,
    StopLateGuest,
    /// It did not complete: the guest belongs to the source.
    AskSource,
    AwaitSource,
    ContinueSource,
    /// It has completed: the guest belongs to the destination.
    AskDestination,
    AwaitDestination,
    ContinueDestination,
    /// A guest that arrived paused where it cannot be continued.
    TakeBack,
    ConfirmTakenBack,
    /// The guest was seen to run, or is not landfall's to continue.
    Settle(EndState),
    Ended(EndState),
}

/// How a migration behind a fence is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Ended {
    ByCancel,
    ByBreakingLink,
}

impl EndProtocol {
    /// Starts with what earlier processes have left to be done.
    pub fn new(obligations: Obligations, destination_known: bool) -> EndProtocol {
        EndProtocol {
            obligations,
            destination_known,
            destination_is_fenced: false,
            ran_twice: false,
            state: State::AskMigration,
        }
    }

    /// What to do next.
    pub fn next_step(&self) -> EndStep {
        match self.state {
            State::AskMigration | State::AskCancelled => EndStep::QueryMigration,
            State::AwaitMigration
            | State::AwaitCancelled
            | State::AwaitSource
            | State::AwaitDestination => EndStep::Wait,
            State::AskDestinationBefore(_)
            | State::ConfirmDestinationFence(_)
            | State::AskDestinationAfter
            | State::AskDestination => EndStep::QueryDestination,
            State::PersistDestinationFence(_) | State::PersistLateFence => {
                EndStep::Persist(self.obligations.with_destination_fence())
            }
            State::FenceDestination(_) | State::StopLateGuest => EndStep::StopDestination,
            State::AskSourceBefore
            | State::ConfirmSourceFence
            | State::AskSource
            | State::AskSourceMeanwhile
            | State::ConfirmTakenBack => EndStep::QuerySource,
            State::PersistStop => EndStep::Persist(self.obligations.with_guest_stopped()),
            State::PersistContinued => EndStep::Persist(self.obligations.without_guest_stopped()),
            State::FenceSource => EndStep::StopSource,
            State::PersistSourceFence => EndStep::Persist(self.obligations.with_source_fence()),
            State::EndBy(Ended::ByCancel) => EndStep::Cancel,
            State::EndBy(Ended::ByBreakingLink) => EndStep::BreakLink,
            State::ContinueSource | State::ContinueMeanwhile | State::TakeBack => {
                EndStep::ContinueSource
            }
            State::ContinueDestination => EndStep::ContinueDestination,
            State::Settle(_) => EndStep::Persist(Obligations::default()),
            State::Ended(end) => EndStep::End(end),
        }
    }

    /// Takes in what became of the step.
    pub fn on_answer(&mut self, answer: EndAnswer) {
        self.state = self.state_after(answer);
    }

    fn state_after(&mut self, answer: EndAnswer) -> State {
        match self.state {
            State::AskMigration => self.after_migration(answer),
            State::AwaitMigration => State::AskMigration,
            State::AwaitCancelled => State::AskCancelled,
            State::ContinueMeanwhile => State::AwaitCancelled,
            State::AskCancelled => match answer {
                EndAnswer::Migration(Status::Cancelling) => State::AskSourceMeanwhile,
                answer => self.after_migration(answer),
            },
            State::AskSourceMeanwhile => match answer {
                EndAnswer::Guest(GuestState::Paused) => State::ContinueMeanwhile,
                EndAnswer::Guest(GuestState::Running) => State::PersistContinued,
                _ => State::AwaitMigration,
            },
            State::PersistContinued => {
                self.obligations = self.obligations.without_guest_stopped();
                State::AwaitMigration
            }
            State::AskDestinationBefore(how) => match answer {
                EndAnswer::Guest(GuestState::Incoming) => State::PersistDestinationFence(how),
                // It has the guest already.
                EndAnswer::Guest(_) => State::AwaitMigration,
                _ => State::without_destination(how),
            },
            State::PersistDestinationFence(how) => {
                self.obligations = self.obligations.with_destination_fence();
                State::FenceDestination(how)
            }
            // A stop without an answer may have been lost with its connection, and the destination shows
            // no difference: nothing but an answer to the stop itself tells that it is fenced.
            State::FenceDestination(how) => match answer {
                EndAnswer::Done => State::ConfirmDestinationFence(how),
                _ => State::without_destination(how),
            },
            // The guest may have started between the question and the stop.
            State::ConfirmDestinationFence(how) => match answer {
                EndAnswer::Guest(GuestState::Incoming) => {
                    self.destination_is_fenced = true;
                    State::EndBy(how)
                }
                EndAnswer::Guest(_) => State::AwaitMigration,
                _ => State::without_destination(how),
            },
            State::AskSourceBefore => self.before_source_fence(answer),
            State::PersistStop => {
                self.obligations = self.obligations.with_guest_stopped();
                State::FenceSource
            }
            State::FenceSource => State::ConfirmSourceFence,
            State::ConfirmSourceFence => match answer {
                EndAnswer::Guest(GuestState::Paused | GuestState::Halted) => {
                    State::PersistSourceFence
                }
                _ => State::AwaitMigration,
            },
            State::PersistSourceFence => {
                self.obligations = self.obligations.with_source_fence();
                State::EndBy(Ended::ByCancel)
            }
            State::EndBy(_) => State::AwaitMigration,
            State::AskDestinationAfter => match answer {
                EndAnswer::Guest(state @ (GuestState::Incoming | GuestState::Running)) => {
                    self.ran_twice = state == GuestState::Running;
                    State::PersistLateFence
                }
                _ => State::AskSource,
            },
            State::PersistLateFence => {
                self.obligations = self.obligations.with_destination_fence();
                State::StopLateGuest
            }
            State::StopLateGuest => State::AskSource,
            State::AskSource => self.at_source(answer),
            State::AwaitSource | State::ContinueSource => State::AskSource,
            State::AskDestination => self.at_destination(answer),
            State::AwaitDestination | State::ContinueDestination => State::AskDestination,
            State::TakeBack => State::ConfirmTakenBack,
            State::ConfirmTakenBack => match answer {
                EndAnswer::Guest(GuestState::Running) => {
                    State::Settle(EndState::RunsAtSourceCopyPaused)
                }
                // Its disks are in use at the destination, for example.
                EndAnswer::Guest(_) => {
                    State::Ended(EndState::StandsAtDestination(GuestState::Paused))
                }
                _ => State::ConfirmTakenBack,
            },
            State::Settle(end) => {
                self.obligations = Obligations::default();
                State::Ended(end)
            }
            State::Ended(end) => State::Ended(end),
        }
    }

    fn after_migration(&self, answer: EndAnswer) -> State {
        let status = match answer {
            EndAnswer::Migration(status) => status,
            EndAnswer::Hung if self.may_end() && self.destination_known => {
                return State::AskDestinationBefore(Ended::ByBreakingLink);
            }
            _ => return State::AwaitMigration,
        };
        match status {
            Status::Setup | Status::Active | Status::SwitchOver => match self.may_end() {
                true if self.destination_known => State::AskDestinationBefore(Ended::ByCancel),
                true => State::AskSourceBefore,
                false if self.obligations.migration_started => State::AwaitMigration,
                false => self.during_migration_by_other(),
            },
            // Nothing of the state of its devices has been sent, and will not be before the hypervisor is
            // told to go on: no fence is needed. Another program may tell it that between this answer and
            // the cancel; the destination's fence covers that where there is one.
            Status::PreSwitchOver if self.obligations.migration_started => {
                match self.destination_known {
                    true => State::AskDestinationBefore(Ended::ByCancel),
                    false => State::EndBy(Ended::ByCancel),
                }
            }
            Status::Cancelling if self.obligations.guest_stopped && self.is_fenced() => {
                State::AwaitCancelled
            }
            Status::PreSwitchOver | Status::Cancelling | Status::Unknown => State::AwaitMigration,
            Status::Completed if self.destination_known => State::AskDestination,
            Status::Completed => self.arrived_unseen(),
            Status::Cancelled | Status::Failed if self.may_arrive_late() => {
                State::AskDestinationAfter
            }
            Status::None | Status::Cancelled | Status::Failed => State::AskSource,
            Status::PostCopy | Status::PostCopyPaused => State::Ended(EndState::InPostCopy),
        }
    }

    /// Returns whether a guest that the source has back may start at the destination as well.
    fn may_arrive_late(&self) -> bool {
        self.destination_known && self.obligations.migration_started && !self.is_fenced()
    }

    /// Returns whether a guest that arrives does not start.
    fn is_fenced(&self) -> bool {
        self.obligations.source_fenced || self.destination_is_fenced
    }

    /// Returns whether the migration is landfall's to end.
    fn may_end(&self) -> bool {
        self.obligations.migration_started && !self.obligations.post_copy_requested
    }

    /// A guest that landfall has stopped is continued under the migration of another program, which
    /// found it stopped.
    fn during_migration_by_other(&self) -> State {
        match self.obligations.guest_stopped {
            true => State::AskSource,
            false => State::Ended(EndState::MigratedByOther),
        }
    }

    fn before_source_fence(&self, answer: EndAnswer) -> State {
        match answer {
            EndAnswer::Guest(GuestState::Running) => State::PersistStop,
            // By landfall, or by another program whose pause outlasts a cancel.
            EndAnswer::Guest(GuestState::Paused | GuestState::Halted) => State::PersistSourceFence,
            _ => State::AwaitMigration,
        }
    }

    fn at_source(&self, answer: EndAnswer) -> State {
        match answer {
            EndAnswer::Guest(GuestState::Running) if self.ran_twice => {
                State::Settle(EndState::RunsAtSourceAfterTwice)
            }
            EndAnswer::Guest(GuestState::Running) => State::Settle(EndState::RunsAtSource),
            EndAnswer::Guest(GuestState::Paused) if self.obligations.guest_stopped => {
                State::ContinueSource
            }
            EndAnswer::Guest(state @ (GuestState::Paused | GuestState::Halted)) => {
                State::Settle(EndState::StandsAtSource(state))
            }
            // QEMU is about to continue it.
            _ => State::AwaitSource,
        }
    }

    fn at_destination(&self, answer: EndAnswer) -> State {
        match answer {
            EndAnswer::Guest(GuestState::Running) => State::Settle(EndState::RunsAtDestination),
            EndAnswer::Guest(GuestState::Paused) if self.obligations.continues_at_destination() => {
                State::ContinueDestination
            }
            EndAnswer::Guest(state @ (GuestState::Paused | GuestState::Halted)) => {
                State::Settle(EndState::StandsAtDestination(state))
            }
            EndAnswer::Gone => State::Settle(EndState::DestinationGone),
            // It is being loaded, or the monitor is busy with that.
            _ => State::AwaitDestination,
        }
    }

    /// It has completed, and the destination cannot be asked.
    fn arrived_unseen(&self) -> State {
        let Obligations { guest_stopped, source_fenced, .. } = self.obligations;
        match (guest_stopped, source_fenced) {
            (false, _) => State::Settle(EndState::AtDestination),
            (true, true) => State::TakeBack,
            (true, false) => State::Ended(EndState::ArrivedRunningOrPaused),
        }
    }
}

impl State {
    /// The destination does not answer. The link is broken only behind its fence, a cancel may be sent
    /// behind that of the source.
    fn without_destination(how: Ended) -> State {
        match how {
            Ended::ByCancel => State::AskSourceBefore,
            Ended::ByBreakingLink => State::AwaitMigration,
        }
    }
}
