//! The operator's programs that run at set points of a migration, with the facts on their standard input.
//! `docs/scripts.md` has the points and the facts.
//!
//! No hook can keep a guest throttled, and only those that hold the switch-over lengthen a downtime, up to a
//! deadline: before the start nothing has been changed yet, before the switch-over landfall does not wait
//! for the others, and at the end the guest runs freely and the guardian has ended.

mod facts;
mod program;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use landfall_core::decision::Finish;
use landfall_core::report::{Outcome, Report};
use landfall_core::telemetry::view::{Phase, View};
use landfall_qemu::driver::{Decided, GateVerdict, SwitchOverGate, Tick};
use landfall_qemu::stdio::eprint_line;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use program::{HookFailure, LIMIT, NotRunnable};

pub use facts::Facts;

/// Where in a migration a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Nothing has been changed yet; a program that fails refuses the migration.
    BeforeStart,
    /// The guest is about to stand still.
    BeforeSwitchOver,
    /// It stands still, and its last state is sent only once the program has ended; one that fails cancels
    /// the migration.
    HoldSwitchOver,
    /// It runs at the destination.
    Landed,
    /// It did not land, or is not known to have.
    Failed,
}

impl HookPoint {
    const ALL: [(HookPoint, &str); 5] = [
        (HookPoint::BeforeStart, "before-start"),
        (HookPoint::BeforeSwitchOver, "before-switch-over"),
        (HookPoint::HoldSwitchOver, "hold-switch-over"),
        (HookPoint::Landed, "landed"),
        (HookPoint::Failed, "failed"),
    ];

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(point, _)| *point == self);
        found.map_or("", |(_, name)| name)
    }
}

/// A program to be run at a point: `before-start=/usr/local/bin/may-it`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    point: HookPoint,
    program: PathBuf,
}

/// Why a text is no hook.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// It does not begin with a point of the migration.
    #[error(
        "no point {0:?}; write before-start=PROGRAM, before-switch-over=PROGRAM, hold-switch-over=PROGRAM, landed=PROGRAM or failed=PROGRAM"
    )]
    Point(String),
    /// There is no such program.
    #[error("{path} is not a program that can be run ({problem}); name a file by its path, without arguments", path = path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// What it is.
        problem: NotRunnable,
    },
}

impl FromStr for Hook {
    type Err = HookError;

    fn from_str(text: &str) -> Result<Hook, HookError> {
        let (name, path) = text.split_once('=').unwrap_or((text, ""));
        let point = HookPoint::ALL.iter().find(|(_, known)| *known == name);
        let (point, _) = point.ok_or_else(|| HookError::Point(name.to_owned()))?;
        let wrong = |problem| HookError::Program { path: PathBuf::from(path), problem };
        let program = std::path::absolute(path).map_err(|error| wrong(error.into()))?;
        program::check(&program).map_err(wrong)?;
        Ok(Hook { point: *point, program })
    }
}

/// The hooks of one migration.
pub struct Hooks {
    hooks: Vec<Hook>,
    facts: Facts,
    /// The programs before the switch-over, once they have been started.
    switching: Option<JoinHandle<()>>,
}

impl Hooks {
    /// These hooks, with the facts as they are before the start.
    pub fn new(hooks: Vec<Hook>, facts: Facts) -> Hooks {
        Hooks { hooks, facts, switching: None }
    }

    /// Returns the facts, to be completed.
    pub fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Runs those before the start, in their order, up to the first that refuses.
    ///
    /// # Errors
    /// [`FailedHook`].
    pub async fn before_start(&self) -> Result<(), FailedHook> {
        let facts = self.facts.to_json(HookPoint::BeforeStart, None, None);
        for program in self.programs(HookPoint::BeforeStart) {
            let run = program::run(&program, HookPoint::BeforeStart, &facts, LIMIT).await;
            let point = HookPoint::BeforeStart;
            run.map_err(|failure| FailedHook { point, program, failure })?;
        }
        Ok(())
    }

    /// Returns where the migration waits for those that hold the switch-over, each for at most `deadline`;
    /// `None` if there are none.
    pub fn gate(&self, deadline: Duration) -> Option<SwitchOverGate> {
        let point = HookPoint::HoldSwitchOver;
        let programs = self.programs(point);
        if programs.is_empty() {
            return None;
        }
        let (reached, is_reached) = oneshot::channel();
        let (answer, verdict) = oneshot::channel();
        let facts = self.facts.to_json(point, None, None);
        tokio::spawn(async move {
            if is_reached.await.is_err() {
                return;
            }
            for program in programs {
                if let Err(failure) = program::run(&program, point, &facts, deadline).await {
                    let failed = FailedHook { point, program, failure }.to_string();
                    let _ = answer.send(GateVerdict::Refuse(failed));
                    return;
                }
            }
            let _ = answer.send(GateVerdict::GoOn);
        });
        Some(SwitchOverGate { reached, verdict })
    }

    /// Starts those before the switch-over as soon as it is near, without waiting for them.
    pub fn on_tick(&mut self, tick: &Tick) {
        if let Some(decided) = &tick.decided
            && self.switching.is_none()
            && is_near(decided)
        {
            let facts = self.facts.to_json(HookPoint::BeforeSwitchOver, Some(decided), None);
            self.start_switching(facts);
        }
    }

    fn start_switching(&mut self, facts: String) {
        let programs = self.programs(HookPoint::BeforeSwitchOver);
        self.switching = Some(tokio::spawn(run_all(HookPoint::BeforeSwitchOver, programs, facts)));
    }

    /// Runs those of the end, once the earlier ones have ended.
    pub async fn on_end(mut self, report: &Report) {
        let landed = report.outcome == Outcome::Landed;
        if landed && self.switching.is_none() {
            // The switch-over came between two looks.
            let facts = self.facts.to_json(HookPoint::BeforeSwitchOver, None, None);
            self.start_switching(facts);
        }
        if let Some(switching) = self.switching.take() {
            // Each of its programs has a time limit.
            let _ = switching.await;
        }
        let point = if landed { HookPoint::Landed } else { HookPoint::Failed };
        let facts = self.facts.to_json(point, None, Some(report));
        run_all(point, self.programs(point), facts).await;
    }

    fn programs(&self, point: HookPoint) -> Vec<PathBuf> {
        let of_point = self.hooks.iter().filter(|hook| hook.point == point);
        of_point.map(|hook| hook.program.clone()).collect()
    }
}

/// Returns whether the guest is about to stand still: that was decided, what remains fits the allowed stall,
/// or it stands still already.
fn is_near(decided: &Decided) -> bool {
    let ends = matches!(decided.observation.decision.finish, Some(Finish::Ship | Finish::PostCopy));
    ends || match decided.observation.view.phase {
        Phase::SwitchOver | Phase::PostCopy => true,
        Phase::Iterating => fits(&decided.observation.view),
        _ => false,
    }
}

fn fits(view: &View) -> bool {
    view.downtime_if_shipped().is_some_and(|downtime| downtime <= view.requirements.max_stall)
}

/// Runs programs one after the other, and says what goes wrong.
async fn run_all(point: HookPoint, programs: Vec<PathBuf>, facts: String) {
    for program in programs {
        if let Err(failure) = program::run(&program, point, &facts, LIMIT).await {
            eprint_line(&format!("landfall: {}", FailedHook { point, program, failure }));
        }
    }
}

/// A hook that failed.
#[derive(Debug, thiserror::Error)]
#[error("--hook {point}={}: {failure}", .program.display())]
pub struct FailedHook {
    /// When it ran.
    point: HookPoint,
    /// Its program.
    program: PathBuf,
    /// How it failed.
    failure: HookFailure,
}

impl fmt::Display for HookPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_a_point_and_a_program_that_can_be_run() {
        let hook: Hook = "landed=/bin/true".parse().unwrap();
        assert_eq!(hook, Hook { point: HookPoint::Landed, program: PathBuf::from("/bin/true") });
        for (text, says) in [
            ("/bin/true", "before-start=PROGRAM"),
            ("later=/bin/true", "no point \"later\""),
            ("landed", "name a file by its path"),
            ("landed=", "name a file by its path"),
            ("landed=/no/such/file", "/no/such/file is not a program"),
            ("landed=/etc/passwd", "chmod +x"),
            ("landed=/etc", "not a file"),
            ("landed=/bin/true --now", "without arguments"),
        ] {
            let error = text.parse::<Hook>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
