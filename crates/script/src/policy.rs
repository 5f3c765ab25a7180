//! A policy that decides by a script, and by `predictive` once the script has failed.
//!
//! A script fails at its first error, whatever kind: after that it is not asked any more, for one that
//! steers by turns with another policy would be worse than either. That it failed is told at once, is
//! in the reason of every decision from there on, and in the report.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use landfall_core::decision::Decision;
use landfall_core::policy::{Needs, Policy, Predictive, PreflightRefusal};
use landfall_core::telemetry::view::View;
use rhai::Dynamic;

use crate::decision_api::Answer;
use crate::failure::ScriptFailure;
use crate::program::Program;
use crate::view_api::Seen;

/// Hears of a script's failure.
pub type Tell = Arc<dyn Fn(&str) + Send + Sync>;

/// Letters of a script's error that are passed on.
const SHOWN: usize = 300;

/// See the module.
pub struct Script {
    program: Program,
    /// What it remembers: `this`.
    memory: Dynamic,
    tell: Tell,
    failed: Option<Failed>,
}

/// What steers instead, and why.
struct Failed {
    why: String,
    policy: Predictive,
}

/// Names of the function that may refuse the start.
const PREFLIGHT: [&str; 2] = ["preflight", "before"];

impl Script {
    pub(crate) fn new(program: Program, tell: Tell) -> Script {
        let memory = program.start().into();
        Script { program, memory, tell, failed: None }
    }

    /// Asks a function of the script about a view.
    fn ask(&mut self, function: &str, view: &View) -> Result<Dynamic, ScriptFailure> {
        let seen = Dynamic::from(Seen(Arc::new(view.clone())));
        let (program, memory) = (&self.program, &mut self.memory);
        let called = AssertUnwindSafe(|| program.call(function, memory, vec![seen]));
        panic::catch_unwind(called).unwrap_or(Err(ScriptFailure::Panicked))
    }

    fn answer(&mut self, view: &View) -> Result<Decision, ScriptFailure> {
        let answer = self.ask("decide", view)?;
        let given = answer.type_name();
        let answer = answer.try_cast::<Answer>().ok_or(ScriptFailure::NotADecision { given })?;
        answer.decision(view)
    }

    /// Switches to `predictive` for the rest of the migration.
    fn fail(&mut self, view: &View, failure: &ScriptFailure) -> &mut Failed {
        let mut problem: String = failure.to_string().chars().take(SHOWN).collect();
        problem.retain(|letter| !letter.is_control());
        let (name, at) = (self.program.name(), view.now.as_secs_f64());
        let why =
            format!("{name} failed at {at:.1} s ({problem}); policy predictive steers from there");
        (self.tell)(&why);
        self.failed.insert(Failed { why, policy: Predictive::default() })
    }
}

impl Failed {
    fn decide(&mut self, view: &View) -> Decision {
        let decision = self.policy.decide(view);
        let why = format!("{}: {}", self.why, decision.reason).into();
        Decision { reason: why, ..decision }
    }
}

impl Policy for Script {
    fn name(&self) -> &str {
        self.program.name()
    }

    fn needs(&self) -> Needs {
        self.program.needs()
    }

    fn preflight(&mut self, view: &View) -> Result<(), PreflightRefusal> {
        // `before` is what landfall 0.1 called it.
        let Some(function) = PREFLIGHT.into_iter().find(|name| self.program.has(name, 1)) else {
            return Ok(());
        };
        let failure = match self.ask(function, view) {
            Ok(answer) if answer.is_unit() => return Ok(()),
            Ok(answer) => match answer.into_string() {
                Ok(refusal) => return Err(PreflightRefusal::Script(refusal)),
                Err(given) => ScriptFailure::NotAnAnswer { function, given },
            },
            Err(failure) => failure,
        };
        self.fail(view, &failure).policy.preflight(view)
    }

    fn explanation(&self) -> Option<String> {
        let failed = self.failed.as_ref()?;
        Some(match failed.policy.explanation() {
            Some(account) => format!("{}; {account}", failed.why),
            None => failed.why.clone(),
        })
    }

    fn fallback_reason(&self) -> Option<&str> {
        self.failed.as_ref().map(|failed| failed.why.as_str())
    }

    fn decide(&mut self, view: &View) -> Decision {
        if let Some(failed) = &mut self.failed {
            return failed.decide(view);
        }
        match self.answer(view) {
            Ok(decision) => decision,
            Err(failure) => self.fail(view, &failure).decide(view),
        }
    }
}
