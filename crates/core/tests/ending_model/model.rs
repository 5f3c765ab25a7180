//! The world as a model for the checker: what can happen next, and what must hold.

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;

use landfall_core::ending::{EndAnswer, EndState, EndStep, Obligations};
use stateright::{Model, Property};

use crate::world::{
    Actor, Advance, Command, Destination, Doing, Migration, Place, Protocol, Role, Steering, World,
};

pub const NOT_TWICE: &str = "the guest never runs twice";
pub const RUNS_IN_THE_END: &str = "when nothing more happens the guest runs in one place";
pub const REFUSAL_IS_TRUE: &str = "after a refusal no migration is under way";
pub const REPORT_IS_TRUE: &str = "where landfall says that the guest runs it runs";

/// The longest queue of commands that is looked at: with more silences than that nothing new can happen.
const QUEUE: usize = 3;

pub struct EndingModel<P> {
    destination_known: bool,
    post_copy_allowed: bool,
    pauses: bool,
    other_may_cancel: bool,
    destination_starts_stopped: bool,
    protocol: PhantomData<P>,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// QEMU or the network goes on by itself.
    Advance(Advance),
    /// A monitor executes the first command that waits.
    Execute(Place),
    /// landfall does its next step.
    Act,
    /// landfall begins to end the migration, or sees that it has ended.
    BeginToEnd,
    StopGuest,
    StartPostCopy,
    ContinueMigration,
    /// The process takes the answer in.
    TakeAnswer,
    /// It waits no longer for the answer.
    GiveUpWaiting,
    /// The final copy hangs, as far as the process can tell.
    SeeHang,
    /// The connection to the destination's monitor breaks, which says nothing of its QEMU.
    LoseDestination,
    ReachDestination,
    /// `kill -9`, of a process that is stopped as well.
    Crash,
    /// The connection of a process that is gone drops the commands that wait.
    DropCommands(Place),
    /// The next process takes over.
    TakeOver,
}

impl<P: Protocol> EndingModel<P> {
    pub fn new(destination_known: bool, post_copy_allowed: bool) -> Self {
        EndingModel {
            destination_known,
            post_copy_allowed,
            pauses: false,
            other_may_cancel: false,
            destination_starts_stopped: false,
            protocol: PhantomData,
        }
    }

    /// The same, where QEMU waits before the switch-over until landfall tells it to go on.
    pub fn pausing(self) -> Self {
        EndingModel { pauses: true, ..self }
    }

    /// The same, where the destination was started with `-S`.
    pub fn with_stopped_destination(self) -> Self {
        EndingModel { destination_starts_stopped: true, ..self }
    }

    /// The same, where another program cancels the migration at the worst moment.
    pub fn cancelled_by_other(self) -> Self {
        EndingModel { other_may_cancel: true, ..self }
    }
}

impl<P: Protocol> Model for EndingModel<P> {
    type State = World<P>;
    type Action = Event;

    fn init_states(&self) -> Vec<World<P>> {
        let world = World::new(self.destination_known, self.pauses);
        // A second running guest is ended only where the destination answers.
        let silences_left = if self.other_may_cancel { 0 } else { world.silences_left };
        let autostart = !self.destination_starts_stopped;
        vec![World {
            other_may_cancel: self.other_may_cancel,
            silences_left,
            destination: Destination::Incoming { autostart },
            ..world
        }]
    }

    fn actions(&self, world: &World<P>, events: &mut Vec<Event>) {
        events.extend(world.advances().into_iter().map(Event::Advance));
        for (place, monitor) in [
            (Place::Source, &world.source_monitor),
            (Place::Destination, &world.destination_monitor),
        ] {
            if !monitor.waiting.is_empty() {
                events.push(Event::Execute(place));
                if world.actor.is_gone() {
                    events.push(Event::DropCommands(place));
                }
            }
        }
        let actor = &world.actor;
        if actor.is_gone() {
            let handed_over = world.source_monitor.waiting.is_empty()
                && world.destination_monitor.waiting.is_empty();
            if handed_over && world.must_take_over() {
                events.push(Event::TakeOver);
            }
            return;
        }
        if world.crashes_left > 0 {
            events.push(Event::Crash);
        }
        if world.destination_reachable && self.destination_known && world.silences_left > 0 {
            events.push(Event::LoseDestination);
        } else if !world.destination_reachable && world.actor.waits_for != Some(Place::Destination)
        {
            events.push(Event::ReachDestination);
        }
        if actor.answer.is_some() {
            events.push(Event::TakeAnswer);
        } else if let Some(place) = actor.waits_for {
            let monitor = if place == Place::Source {
                &world.source_monitor
            } else {
                &world.destination_monitor
            };
            if world.silences_left > 0 && monitor.waiting.len() < QUEUE {
                events.push(Event::GiveUpWaiting);
                if place == Place::Source && matches!(actor.doing, Doing::Ending(_)) {
                    events.push(Event::SeeHang);
                }
            }
        } else {
            events.push(Event::Act);
        }
        if let Doing::Steering(steering) = actor.doing {
            if !matches!(steering, Steering::PersistStart | Steering::SendMigrate) {
                events.push(Event::BeginToEnd);
            }
            let waits = matches!(world.migration, Migration::PreSwitchOver { .. });
            if waits && actor.waits_for.is_none() && steering != Steering::SendContinue {
                events.push(Event::ContinueMigration);
            }
            if steering == Steering::Steers && actor.waits_for.is_none() {
                if self.post_copy_allowed {
                    events.push(Event::StartPostCopy);
                }
                // Only where it can be continued at the destination.
                if world.destination_known {
                    events.push(Event::StopGuest);
                }
            }
        }
    }

    fn next_state(&self, before: &World<P>, event: Event) -> Option<World<P>> {
        let mut world = before.clone();
        match event {
            Event::Advance(advance) => world.advance(advance),
            Event::Execute(place) => world.execute(place),
            Event::Act => world.act(),
            Event::BeginToEnd => {
                let protocol = P::start(world.record, world.destination_known);
                world.actor.doing = Doing::Ending(protocol);
                world.actor.waits_for = None;
                world.actor.answer = None;
            }
            Event::StopGuest => world.actor.doing = Doing::Steering(Steering::PersistStop),
            Event::ContinueMigration => {
                world.actor.doing = Doing::Steering(Steering::SendContinue);
            }
            Event::StartPostCopy => world.actor.doing = Doing::Steering(Steering::PersistPostCopy),
            Event::TakeAnswer => {
                let answer = world.actor.answer.take()?;
                world.actor.waits_for = None;
                world.take_answer(answer);
            }
            Event::GiveUpWaiting => {
                world.silences_left -= 1;
                world.actor.waits_for = None;
                world.take_answer(EndAnswer::Silent);
            }
            Event::SeeHang => {
                world.silences_left -= 1;
                world.actor.waits_for = None;
                world.take_answer(EndAnswer::Hung);
            }
            Event::LoseDestination => {
                world.silences_left -= 1;
                world.destination_reachable = false;
                world.destination_monitor.waiting.clear();
                if world.actor.waits_for == Some(Place::Destination) {
                    world.actor.answer = Some(EndAnswer::Unreachable);
                }
            }
            Event::ReachDestination => world.destination_reachable = true,
            Event::Crash => {
                world.crashes_left -= 1;
                world.actor.doing = Doing::Dead;
                world.actor.waits_for = None;
                world.actor.answer = None;
            }
            Event::DropCommands(place) => world.monitor(place).waiting.clear(),
            Event::TakeOver => world.take_over(),
        }
        (world != *before).then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always(NOT_TWICE, |_, world| {
                // That another program makes it run twice cannot be helped, only ended.
                world.other_has_cancelled
                    || !(world.runs_at_source() && world.runs_at_destination())
            }),
            Property::<Self>::always(RUNS_IN_THE_END, |model, world| {
                !model.is_quiet(world)
                    || world.died_with_guest
                    || world.runs_at_source() != world.runs_at_destination()
                    // Said to be unknown: nothing can be asked at the destination.
                    || world.actor.doing == Doing::Ended(EndState::ArrivedRunningOrPaused)
            }),
            Property::<Self>::always(REFUSAL_IS_TRUE, |model, world| {
                world.actor.doing != Doing::Refused
                    || !model.is_quiet(world)
                    || world.runs_at_source()
            }),
            Property::<Self>::always(REPORT_IS_TRUE, |_, world| match world.actor.doing {
                Doing::Ended(
                    EndState::RunsAtSource
                    | EndState::RunsAtSourceCopyPaused
                    | EndState::RunsAtSourceAfterTwice,
                ) => world.runs_at_source(),
                Doing::Ended(EndState::RunsAtDestination) => {
                    world.runs_at_destination() || world.died_with_guest
                }
                _ => true,
            }),
        ]
    }
}

impl<P: Protocol> EndingModel<P> {
    /// Returns whether nothing more happens by itself: no process has anything left to do.
    pub fn is_quiet(&self, world: &World<P>) -> bool {
        world.advances().iter().all(Advance::is_fault)
            && world.source_monitor.waiting.is_empty()
            && world.destination_monitor.waiting.is_empty()
            && world.actor.is_gone()
            && !world.must_take_over()
    }
}

impl<P> Actor<P> {
    fn is_gone(&self) -> bool {
        matches!(self.doing, Doing::Ended(_) | Doing::Refused | Doing::Dead)
    }
}

impl<P: Protocol> World<P> {
    /// Returns whether another process has to go on: the last one has died and has left something to do.
    fn must_take_over(&self) -> bool {
        self.actor.doing == Doing::Dead && !self.record.is_empty()
    }

    fn take_over(&mut self) {
        let role = match self.actor.role {
            Role::Landfall => Role::Guardian,
            Role::Guardian | Role::Release => Role::Release,
        };
        self.destination_reachable = true;
        self.actor = Actor {
            role,
            doing: Doing::Ending(P::start(self.record, self.destination_known)),
            waits_for: None,
            answer: None,
        };
    }

    fn send(&mut self, place: Place, command: Command) {
        let is_dead = self.destination == Destination::Dead;
        if place == Place::Destination && (is_dead || !self.destination_reachable) {
            self.actor.answer = Some(match is_dead {
                true => EndAnswer::Gone,
                false => EndAnswer::Unreachable,
            });
            self.actor.waits_for = Some(place);
            return;
        }
        self.monitor(place).waiting.push(command);
        self.actor.waits_for = Some(place);
    }

    /// Does the next step of the process.
    fn act(&mut self) {
        match self.actor.doing {
            Doing::Steering(steering) => self.steer(steering),
            Doing::Ending(protocol) => self.end_step(protocol),
            Doing::Ended(_) | Doing::Refused | Doing::Dead => {}
        }
    }

    fn steer(&mut self, steering: Steering) {
        let next = match steering {
            Steering::PersistStart => {
                self.record = Obligations { migration_started: true, ..self.record };
                Steering::SendMigrate
            }
            Steering::SendMigrate => {
                self.send(Place::Source, Command::Migrate);
                steering
            }
            Steering::PersistStop => {
                self.record = Obligations { guest_stopped: true, ..self.record };
                Steering::SendStop
            }
            Steering::SendStop => {
                self.send(Place::Source, Command::Stop);
                Steering::Stopped
            }
            Steering::PersistPostCopy => {
                self.record = Obligations { post_copy_requested: true, ..self.record };
                Steering::SendPostCopy
            }
            Steering::SendContinue => {
                self.send(Place::Source, Command::ContinueMigration);
                Steering::Steers
            }
            Steering::SendPostCopy => {
                self.send(Place::Source, Command::StartPostCopy);
                Steering::PostCopy
            }
            Steering::Steers | Steering::Stopped | Steering::PostCopy => steering,
        };
        self.actor.doing = Doing::Steering(next);
    }

    fn end_step(&mut self, mut protocol: P) {
        match protocol.next_step() {
            EndStep::QueryMigration => self.send(Place::Source, Command::QueryMigrate),
            EndStep::QuerySource => self.send(Place::Source, Command::QueryStatus),
            EndStep::QueryDestination => self.send(Place::Destination, Command::QueryStatus),
            EndStep::StopSource => self.send(Place::Source, Command::Stop),
            EndStep::ContinueSource => self.send(Place::Source, Command::Cont),
            EndStep::StopDestination => self.send(Place::Destination, Command::Stop),
            EndStep::ContinueDestination => self.send(Place::Destination, Command::Cont),
            EndStep::Cancel => self.send(Place::Source, Command::Cancel),
            EndStep::BreakLink => {
                // Out of band: at once, also in the final copy.
                if matches!(self.migration, Migration::Active | Migration::FinalCopy { .. }) {
                    self.advance(Advance::Fail);
                }
                protocol.on_answer(EndAnswer::Done);
                self.actor.doing = Doing::Ending(protocol);
            }
            EndStep::Persist(obligations) => {
                self.record = obligations;
                protocol.on_answer(EndAnswer::Done);
                self.actor.doing = Doing::Ending(protocol);
            }
            EndStep::Wait => {
                protocol.on_answer(EndAnswer::Done);
                self.actor.doing = Doing::Ending(protocol);
            }
            EndStep::End(end) => self.actor.doing = Doing::Ended(end),
        }
    }

    fn take_answer(&mut self, answer: EndAnswer) {
        match &mut self.actor.doing {
            Doing::Steering(Steering::SendMigrate) => {
                let refused = match answer {
                    EndAnswer::Rejected => true,
                    EndAnswer::Silent => P::SILENT_START_IS_REFUSAL,
                    _ => false,
                };
                if refused {
                    self.record = Obligations::default();
                    self.actor.doing = Doing::Refused;
                } else {
                    self.actor.doing = Doing::Steering(Steering::Steers);
                }
            }
            Doing::Ending(protocol) => protocol.on_answer(answer),
            _ => {}
        }
    }
}

/// Walks all states and returns how many there are, and those from which no quiet state can be reached.
pub fn states_without_an_end<P: Protocol>(model: &EndingModel<P>) -> (usize, Vec<World<P>>) {
    let mut index: HashMap<World<P>, usize> = HashMap::new();
    let mut before: Vec<Vec<usize>> = Vec::new();
    let mut states = Vec::new();
    let mut queue = VecDeque::new();
    for world in model.init_states() {
        index.insert(world.clone(), 0);
        before.push(Vec::new());
        states.push(world.clone());
        queue.push_back(world);
    }
    while let Some(world) = queue.pop_front() {
        let at = index[&world];
        let mut events = Vec::new();
        model.actions(&world, &mut events);
        for event in events {
            let Some(next) = model.next_state(&world, event) else { continue };
            let known = index.len();
            let to = *index.entry(next.clone()).or_insert(known);
            if to == known {
                before.push(Vec::new());
                states.push(next.clone());
                queue.push_back(next);
            }
            let is_fault = matches!(
                event,
                Event::Crash
                    | Event::Advance(Advance::DestinationDies | Advance::OtherCancels)
                    | Event::SeeHang
                    | Event::GiveUpWaiting
                    | Event::LoseDestination
            );
            if !is_fault {
                before[to].push(at);
            }
        }
    }
    let mut ends = vec![false; states.len()];
    // A guest that died with its destination is looked for in vain: the caller's patience ends that.
    let is_end = |world: &World<P>| model.is_quiet(world) || world.died_with_guest;
    let mut reached: Vec<usize> = (0..states.len()).filter(|at| is_end(&states[*at])).collect();
    while let Some(at) = reached.pop() {
        if !std::mem::replace(&mut ends[at], true) {
            reached.extend(&before[at]);
        }
    }
    let total = states.len();
    let trapped = states.into_iter().zip(ends).filter(|(_, ends)| !ends).map(|(state, _)| state);
    (total, trapped.collect())
}
