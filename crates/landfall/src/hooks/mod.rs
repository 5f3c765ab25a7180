//! Programs of the operator's, run at set points of a migration with the facts on standard input.
//! `docs/scripts.md` has the points and the facts.
//!
//! None of them can stretch a blackout or keep a guest held: before the start nothing has been changed
//! yet, before the switch-over nobody waits for them, and at the end the guest is settled and the
//! guardian gone.

mod facts;
mod program;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use landfall_core::decision::Finish;
use landfall_core::report::{Outcome, Report};
use landfall_core::telemetry::view::{Phase, View};
use landfall_qemu::driver::{Decided, Look};
use landfall_qemu::stdio::eprint_line;
use tokio::task::JoinHandle;

pub use facts::Facts;

/// Where in a migration a program is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Nothing has been changed yet; a program that fails refuses the migration.
    BeforeStart,
    /// The guest is about to stand still.
    BeforeSwitchOver,
    /// It runs at the destination.
    Landed,
    /// It did not land, or is not known to have.
    Failed,
}

impl Point {
    const ALL: [(Point, &str); 4] = [
        (Point::BeforeStart, "before-start"),
        (Point::BeforeSwitchOver, "before-switch-over"),
        (Point::Landed, "landed"),
        (Point::Failed, "failed"),
    ];

    fn name(self) -> &'static str {
        let found = Self::ALL.iter().find(|(point, _)| *point == self);
        found.map_or("", |(_, name)| name)
    }
}

/// A program to be run at a point: `before-start=/usr/local/bin/may-it`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    point: Point,
    program: PathBuf,
}

/// Text that is no hook.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HookError {
    /// It does not say where.
    #[error(
        "no point {0:?}; write before-start=PROGRAM, before-switch-over=PROGRAM, landed=PROGRAM or failed=PROGRAM"
    )]
    Point(String),
    /// There is no such program.
    #[error("{path} is not a program that can be run ({problem}); name a file by its path, without arguments", path = path.display())]
    Program {
        /// The file.
        path: PathBuf,
        /// What it is.
        problem: String,
    },
}

impl FromStr for Hook {
    type Err = HookError;

    fn from_str(text: &str) -> Result<Hook, HookError> {
        let (name, path) = text.split_once('=').unwrap_or((text, ""));
        let point = Point::ALL.iter().find(|(_, known)| *known == name);
        let (point, _) = point.ok_or_else(|| HookError::Point(name.to_owned()))?;
        let wrong = |problem: String| HookError::Program { path: PathBuf::from(path), problem };
        let program = std::path::absolute(path).map_err(|error| wrong(error.to_string()))?;
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

    /// What has become known since.
    pub fn facts(&mut self) -> &mut Facts {
        &mut self.facts
    }

    /// Asks those before the start, in their order, up to the first that has something against it.
    ///
    /// # Errors
    /// In words: who refuses, and why.
    pub async fn before_start(&self) -> Result<(), String> {
        let facts = self.facts.at(Point::BeforeStart, None, None);
        for program in self.programs(Point::BeforeStart) {
            let run = program::run(&program, Point::BeforeStart, &facts).await;
            run.map_err(|problem| in_words(Point::BeforeStart, &program, &problem))?;
        }
        Ok(())
    }

    /// Starts those before the switch-over as soon as a look shows that it is near, and waits for none.
    pub fn look(&mut self, look: &Look) {
        if let Some(decided) = &look.decided
            && self.switching.is_none()
            && is_near(decided)
        {
            let facts = self.facts.at(Point::BeforeSwitchOver, Some(decided), None);
            self.start_switching(facts);
        }
    }

    fn start_switching(&mut self, facts: String) {
        let programs = self.programs(Point::BeforeSwitchOver);
        self.switching = Some(tokio::spawn(run_all(Point::BeforeSwitchOver, programs, facts)));
    }

    /// Runs those of the end, when whatever came before has ended.
    pub async fn ended(mut self, report: &Report) {
        let landed = report.outcome == Outcome::Landed;
        if landed && self.switching.is_none() {
            // QEMU was quicker than the looks.
            let facts = self.facts.at(Point::BeforeSwitchOver, None, None);
            self.start_switching(facts);
        }
        if let Some(switching) = self.switching.take() {
            // Each of its programs has a time limit.
            let _ = switching.await;
        }
        let point = if landed { Point::Landed } else { Point::Failed };
        let facts = self.facts.at(point, None, Some(report));
        run_all(point, self.programs(point), facts).await;
    }

    fn programs(&self, point: Point) -> Vec<PathBuf> {
        let of_point = self.hooks.iter().filter(|hook| hook.point == point);
        of_point.map(|hook| hook.program.clone()).collect()
    }
}

/// Whether the guest is about to stand still: it was decided, what remains fits the stall, or it does.
fn is_near(decided: &Decided) -> bool {
    let ends = matches!(decided.decision.finish, Some(Finish::Ship | Finish::PostCopy));
    ends || match decided.view.phase {
        Phase::SwitchOver | Phase::PostCopy => true,
        Phase::Iterating => fits(decided.view),
        _ => false,
    }
}

fn fits(view: &View) -> bool {
    view.downtime_if_shipped().is_some_and(|blackout| blackout <= view.requirements.max_stall)
}

/// Runs programs one after the other, and says what goes wrong.
async fn run_all(point: Point, programs: Vec<PathBuf>, facts: String) {
    for program in programs {
        if let Err(problem) = program::run(&program, point, &facts).await {
            eprint_line(&format!("landfall: {}", in_words(point, &program, &problem)));
        }
    }
}

fn in_words(point: Point, program: &Path, problem: &program::Problem) -> String {
    format!("--hook {point}={}: {problem}", program.display())
}

impl fmt::Display for Point {
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
        assert_eq!(hook, Hook { point: Point::Landed, program: PathBuf::from("/bin/true") });
        for (text, says) in [
            ("/bin/true", "before-start=PROGRAM"),
            ("later=/bin/true", "no point \"later\""),
            ("landed", "name a file by its path"),
            ("landed=", "name a file by its path"),
            ("landed=/no/such/file", "/no/such/file is not a program"),
            ("landed=/etc/passwd", "it may not be executed"),
            ("landed=/etc", "it is no file"),
            ("landed=/bin/true --now", "without arguments"),
        ] {
            let error = text.parse::<Hook>().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
