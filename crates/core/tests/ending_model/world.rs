//! Two QEMUs, a network and three processes of landfall, as a state machine that a model checker walks.
//!
//! What is modelled of QEMU, and where it is so in its source (10.0):
//! - Commands of one connection are executed in order. When it closes, those that wait are dropped; the
//!   next client is served only then (`monitor_qmp_event`, monitor/qmp.c).
//! - The state that is sent says whether the guest ran when QEMU stopped it for the final copy
//!   (`global_state_store` in `migration_stop_vm`). The destination starts a guest that ran, unless it was
//!   told `stop` while it waited (`autostart`).
//! - `migrate_cancel` is executed at any time. After the last byte was sent it stops the destination from
//!   nothing, and the source runs the guest again (`migration_iteration_finish`).
//! - Every answer can be late or never come, and every process can die between any two steps.
//!
//! Left out: the death of the source's QEMU (the guest dies with it), a return path that breaks after
//! the last byte (QEMU 10 then runs the guest twice by itself), and other programs.

use landfall_core::ending::{EndAnswer, EndState, EndStep, GuestState, Obligations};
use landfall_core::telemetry::sample::Status;

/// The protocol under test.
pub trait Protocol: Copy + Eq + std::hash::Hash + std::fmt::Debug + Send + Sync + 'static {
    /// Starts from what was left to be done.
    fn start(obligations: Obligations, destination_known: bool) -> Self;
    fn next_step(&self) -> EndStep;
    fn on_answer(&mut self, answer: EndAnswer);
    /// What landfall does where a `migrate` is not answered in time: whether it still takes the migration
    /// for its own.
    const SILENT_START_IS_REFUSAL: bool;
}

/// What the guest does at the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    Running,
    Paused,
    FinalCopy,
    Sent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Migration {
    None,
    Active,
    /// The guest is stopped, and QEMU waits for `migrate-continue`.
    PreSwitchOver {
        ran: bool,
    },
    /// The state is being sent; whether it says that the guest ran.
    FinalCopy {
        ran: bool,
    },
    /// All of it has arrived; the source does not know that yet.
    Delivered {
        ran: bool,
    },
    /// Cancelled in the final copy, before or after the last byte arrived; what was stored.
    Cancelling {
        ran: bool,
        may_arrive: bool,
    },
    Cancelled,
    Failed,
    Completed,
    /// Pages follow the guest.
    PostCopy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Destination {
    Incoming { autostart: bool },
    Running,
    Paused,
    Dead,
}

/// Commands that a monitor executes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    Migrate,
    StartPostCopy,
    ContinueMigration,
    QueryMigrate,
    QueryStatus,
    Stop,
    Cont,
    Cancel,
}

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    Source,
    Destination,
}

/// A monitor: the commands that its one client has sent and that were not executed yet.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Monitor {
    pub waiting: Vec<Command>,
}

/// The processes of landfall, in the order in which one takes over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Landfall,
    Guardian,
    Release,
}

/// What landfall does before it ends the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Steering {
    PersistStart,
    SendMigrate,
    Steers,
    PersistStop,
    SendStop,
    Stopped,
    PersistPostCopy,
    SendPostCopy,
    PostCopy,
    SendContinue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doing<P> {
    Steering(Steering),
    Ending(P),
    /// It has ended by itself, and says where the guest is.
    Ended(EndState),
    /// It was refused before anything was changed, as far as it knows.
    Refused,
    Dead,
}

/// One process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Actor<P> {
    pub role: Role,
    pub doing: Doing<P>,
    /// It waits for an answer of this monitor.
    pub waits_for: Option<Place>,
    /// The answer is there, and was not looked at yet.
    pub answer: Option<EndAnswer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World<P> {
    pub destination_known: bool,
    /// `pause-before-switchover` is set, for a program of the operator that landfall runs then.
    pub pauses: bool,
    pub source: Source,
    pub migration: Migration,
    pub destination: Destination,
    /// Where the destination had the guest when it died.
    pub died_with_guest: bool,
    pub source_monitor: Monitor,
    pub destination_monitor: Monitor,
    pub destination_reachable: bool,
    /// The process that acts now: one takes over when the one before it is gone.
    pub actor: Actor<P>,
    /// What is written down for the next one.
    pub record: Obligations,
    pub crashes_left: u8,
    pub silences_left: u8,
    pub destination_may_die: bool,
    /// Another program may cancel the migration at any moment, and has done so.
    pub other_may_cancel: bool,
    pub other_has_cancelled: bool,
}

impl<P: Protocol> World<P> {
    pub fn new(destination_known: bool, pauses: bool) -> World<P> {
        World {
            destination_known,
            pauses,
            source: Source::Running,
            migration: Migration::None,
            destination: Destination::Incoming { autostart: true },
            died_with_guest: false,
            source_monitor: Monitor::default(),
            destination_monitor: Monitor::default(),
            destination_reachable: true,
            actor: Actor {
                role: Role::Landfall,
                doing: Doing::Steering(Steering::PersistStart),
                waits_for: None,
                answer: None,
            },
            record: Obligations::default(),
            crashes_left: 3,
            silences_left: 2,
            destination_may_die: true,
            other_may_cancel: false,
            other_has_cancelled: false,
        }
    }

    pub fn monitor(&mut self, place: Place) -> &mut Monitor {
        match place {
            Place::Source => &mut self.source_monitor,
            Place::Destination => &mut self.destination_monitor,
        }
    }

    pub fn runs_at_source(&self) -> bool {
        self.source == Source::Running
    }

    pub fn runs_at_destination(&self) -> bool {
        self.destination == Destination::Running
    }

    // ---- QEMU ----------------------------------------------------------------------------------

    /// Executes the first command that waits at a monitor.
    pub fn execute(&mut self, place: Place) {
        let command = self.monitor(place).waiting.remove(0);
        let answer = match place {
            Place::Source => self.execute_at_source(command),
            Place::Destination => self.execute_at_destination(command),
        };
        // Only the command that was sent last has anyone who waits for its answer.
        let last = self.monitor(place).waiting.is_empty();
        if last && self.actor.waits_for == Some(place) {
            self.actor.answer = Some(answer);
        }
    }

    fn execute_at_source(&mut self, command: Command) -> EndAnswer {
        match command {
            Command::Migrate => match self.migration {
                Migration::None => {
                    self.migration = Migration::Active;
                    EndAnswer::Done
                }
                _ => EndAnswer::Rejected,
            },
            Command::StartPostCopy => match self.migration {
                // The migration thread takes it up later: see `advance`.
                Migration::Active => EndAnswer::Done,
                _ => EndAnswer::Rejected,
            },
            Command::ContinueMigration => match self.migration {
                Migration::PreSwitchOver { ran } => {
                    self.migration = Migration::FinalCopy { ran };
                    EndAnswer::Done
                }
                _ => EndAnswer::Rejected,
            },
            Command::QueryMigrate => EndAnswer::Migration(match self.migration {
                Migration::None => Status::None,
                Migration::PreSwitchOver { .. } => Status::PreSwitchOver,
                Migration::Active | Migration::FinalCopy { .. } | Migration::Delivered { .. } => {
                    Status::Active
                }
                Migration::Cancelling { .. } => Status::Cancelling,
                Migration::Cancelled => Status::Cancelled,
                Migration::Failed => Status::Failed,
                Migration::Completed => Status::Completed,
                Migration::PostCopy => Status::PostCopy,
            }),
            Command::QueryStatus => EndAnswer::Guest(match self.source {
                Source::Running => GuestState::Running,
                Source::Paused => GuestState::Paused,
                Source::FinalCopy => GuestState::FinalCopy,
                Source::Sent => GuestState::Sent,
            }),
            Command::Stop => {
                if self.source == Source::Running {
                    self.source = Source::Paused;
                }
                EndAnswer::Done
            }
            Command::Cont => match self.source {
                Source::FinalCopy => EndAnswer::Rejected,
                _ => {
                    self.source = Source::Running;
                    EndAnswer::Done
                }
            },
            Command::Cancel => {
                match self.migration {
                    Migration::Active => {
                        let ran = self.source == Source::Running;
                        self.migration = Migration::Cancelling { ran, may_arrive: false };
                    }
                    Migration::FinalCopy { ran } => {
                        self.migration = Migration::Cancelling { ran, may_arrive: true };
                    }
                    Migration::PreSwitchOver { ran } => {
                        self.migration = Migration::Cancelling { ran, may_arrive: false };
                    }
                    Migration::Delivered { ran } => {
                        self.migration = Migration::Cancelling { ran, may_arrive: false };
                    }
                    // QEMU 7.2 takes it and loses the guest.
                    Migration::PostCopy => {
                        self.migration = Migration::Cancelling { ran: true, may_arrive: false };
                    }
                    _ => {}
                }
                EndAnswer::Done
            }
        }
    }

    fn execute_at_destination(&mut self, command: Command) -> EndAnswer {
        match (command, self.destination) {
            (_, Destination::Dead) => EndAnswer::Unreachable,
            (Command::QueryStatus, state) => EndAnswer::Guest(match state {
                Destination::Incoming { .. } => GuestState::Incoming,
                Destination::Running => GuestState::Running,
                Destination::Paused | Destination::Dead => GuestState::Paused,
            }),
            (Command::Stop, state) => {
                self.destination = match state {
                    Destination::Incoming { .. } => Destination::Incoming { autostart: false },
                    Destination::Running => Destination::Paused,
                    other => other,
                };
                EndAnswer::Done
            }
            (Command::Cont, state) => {
                self.destination = match state {
                    Destination::Incoming { .. } => Destination::Incoming { autostart: true },
                    Destination::Paused => Destination::Running,
                    other => other,
                };
                EndAnswer::Done
            }
            _ => EndAnswer::Rejected,
        }
    }

    /// What QEMU's migration thread and the network may do next, by themselves.
    pub fn advances(&self) -> Vec<Advance> {
        let mut found = Vec::new();
        let alive = self.destination != Destination::Dead;
        match self.migration {
            Migration::Active if alive => {
                found.push(Advance::BeginFinalCopy);
                if self.record.post_copy_requested {
                    found.push(Advance::BeginPostCopy);
                }
            }
            Migration::FinalCopy { .. } if alive => {
                found.extend([Advance::Deliver, Advance::Fail]);
            }
            Migration::Delivered { .. } | Migration::PostCopy if alive => {
                found.push(Advance::Complete);
            }
            Migration::Active | Migration::FinalCopy { .. } | Migration::Delivered { .. } => {
                found.push(Advance::Fail);
            }
            Migration::PreSwitchOver { .. } if !alive => found.push(Advance::Fail),
            Migration::Cancelling { may_arrive, .. } => {
                found.push(Advance::FinishCancel);
                if may_arrive && alive {
                    found.push(Advance::Deliver);
                }
            }
            _ => {}
        }
        let cancellable = matches!(
            self.migration,
            Migration::Active | Migration::FinalCopy { .. } | Migration::Delivered { .. }
        );
        if self.other_may_cancel && cancellable {
            found.push(Advance::OtherCancels);
        }
        if self.destination_may_die && self.migration != Migration::PostCopy {
            found.push(Advance::DestinationDies);
        }
        found
    }

    pub fn advance(&mut self, advance: Advance) {
        match (advance, self.migration) {
            (Advance::BeginFinalCopy, _) => {
                let ran = self.source == Source::Running;
                self.source = Source::FinalCopy;
                self.migration = match self.pauses {
                    true => Migration::PreSwitchOver { ran },
                    false => Migration::FinalCopy { ran },
                };
            }
            (Advance::BeginPostCopy, _) => {
                self.source = Source::Sent;
                self.migration = Migration::PostCopy;
                self.destination = Destination::Running;
            }
            (Advance::Deliver, Migration::FinalCopy { ran }) => {
                self.migration = Migration::Delivered { ran };
                self.load(ran);
            }
            (Advance::Deliver, Migration::Cancelling { ran, .. }) => {
                self.migration = Migration::Cancelling { ran, may_arrive: false };
                self.load(ran);
            }
            (Advance::Complete, _) => {
                self.source = Source::Sent;
                self.migration = Migration::Completed;
            }
            (
                Advance::Fail,
                Migration::PreSwitchOver { ran }
                | Migration::FinalCopy { ran }
                | Migration::Delivered { ran },
            ) => {
                self.resume(ran);
                self.migration = Migration::Failed;
            }
            (Advance::Fail, _) => self.migration = Migration::Failed,
            (Advance::FinishCancel, Migration::Cancelling { ran, .. }) => {
                if matches!(self.source, Source::FinalCopy | Source::Sent) {
                    self.resume(ran);
                }
                self.migration = Migration::Cancelled;
            }
            (Advance::OtherCancels, _) => {
                self.other_may_cancel = false;
                self.other_has_cancelled = true;
                self.execute_at_source(Command::Cancel);
            }
            (Advance::DestinationDies, _) => {
                self.destination_may_die = false;
                let has_guest =
                    matches!(self.destination, Destination::Running | Destination::Paused);
                self.died_with_guest = has_guest;
                self.destination = Destination::Dead;
            }
            (advance, migration) => panic!("{advance:?} in {migration:?}"),
        }
    }

    fn load(&mut self, ran: bool) {
        if let Destination::Incoming { autostart } = self.destination {
            self.destination = match ran && autostart {
                true => Destination::Running,
                false => Destination::Paused,
            };
        }
    }

    fn resume(&mut self, ran: bool) {
        self.source = if ran { Source::Running } else { Source::Paused };
    }
}

/// What happens by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advance {
    BeginFinalCopy,
    BeginPostCopy,
    Deliver,
    Complete,
    Fail,
    FinishCancel,
    DestinationDies,
    OtherCancels,
}

impl Advance {
    /// Returns whether it need not happen.
    pub fn is_fault(&self) -> bool {
        matches!(self, Advance::DestinationDies | Advance::OtherCancels)
    }
}
