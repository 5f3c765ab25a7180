//! A script that has been read: everything that can be found wrong in it before a migration is.

use std::fmt;
use std::sync::Arc;

use landfall_core::policy::Needs;
use rhai::{AST, CallFnOptions, Dynamic, Engine, Map, ParseError, Position, Scope};

use crate::failure::ScriptFailure;
use crate::policy::{Script, Tell};
use crate::sandbox;

/// No script is longer: it is kept in every recording.
const LONGEST: usize = 64 * 1024;

/// Why a script cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// It is not Rhai, or uses what there is not.
    #[error("{at}{problem}; mend it there (docs/scripts.md has what a script can use)")]
    Syntax {
        /// "line 3, column 5: ", where that is known.
        at: String,
        /// What.
        problem: String,
    },
    /// It says too little of what it decides.
    #[error(
        "it has no fn decide(view): write one that answers with hold(...), leave_alone(...) or another decision"
    )]
    NoDecide,
    /// Its preparations fail.
    #[error("{function}: {problem}; {remedy}")]
    Prepare {
        /// The function.
        function: &'static str,
        /// What is wrong.
        problem: String,
        /// What it shall give.
        remedy: &'static str,
    },
    /// It is a program, not a policy.
    #[error("it has {0} bytes; write at most {LONGEST}")]
    TooLong(usize),
}

/// A script, ready to make policies of. Cheap to clone.
#[derive(Clone)]
pub struct Program(Arc<Parts>);

struct Parts {
    name: String,
    text: String,
    engine: Engine,
    ast: AST,
    constants: Scope<'static>,
    needs: Needs,
    start: Map,
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Program").field(&self.0.name).finish()
    }
}

impl Program {
    /// Reads a script. `name` is what the policy shall be called, `script:FILE`.
    ///
    /// # Errors
    /// [`ScriptError`]: where it is wrong, and how to mend it.
    pub fn read(name: &str, text: &str) -> Result<Program, ScriptError> {
        if text.len() > LONGEST {
            return Err(ScriptError::TooLong(text.len()));
        }
        let mut engine = sandbox::engine();
        let constants = constants(&engine, text)?;
        engine.set_strict_variables(true);
        let ast = engine.compile_with_scope(&constants, text).map_err(syntax)?;
        let mut parts = Parts {
            name: name.to_owned(),
            text: text.to_owned(),
            engine,
            ast,
            constants,
            needs: Needs { quota: true, ..Needs::default() },
            start: Map::new(),
        };
        if !parts.has("decide", 1) {
            return Err(ScriptError::NoDecide);
        }
        parts.needs = parts.read_needs()?;
        parts.start = parts.read_start()?;
        Ok(Program(Arc::new(parts)))
    }

    /// What the policy is called.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The script itself.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// A policy that decides by it. `tell` hears, once, of a failure.
    pub fn policy(&self, tell: Tell) -> Script {
        Script::new(self.clone(), tell)
    }

    pub(crate) fn needs(&self) -> Needs {
        self.0.needs
    }

    pub(crate) fn start(&self) -> Map {
        self.0.start.clone()
    }

    pub(crate) fn has(&self, function: &str, parameters: usize) -> bool {
        self.0.has(function, parameters)
    }

    /// Calls a function with `this` for its memory, which stays within bounds.
    pub(crate) fn call(
        &self,
        function: &str,
        this: &mut Dynamic,
        argument: Vec<Dynamic>,
    ) -> Result<Dynamic, ScriptFailure> {
        let answer = self.0.call(function, Some(this), argument)?;
        let bounds = self.0.engine.ensure_data_size_within_limits(this);
        bounds.map_err(ScriptFailure::MemoryTooLarge)?;
        Ok(answer)
    }
}

impl Parts {
    fn has(&self, function: &str, parameters: usize) -> bool {
        self.ast.iter_functions().any(|f| f.name == function && f.params.len() == parameters)
    }

    fn call(
        &self,
        function: &str,
        this: Option<&mut Dynamic>,
        arguments: Vec<Dynamic>,
    ) -> Result<Dynamic, ScriptFailure> {
        let mut options = CallFnOptions::new().eval_ast(false);
        if let Some(this) = this {
            options = options.bind_this_ptr(this);
        }
        let mut scope = self.constants.clone();
        let answer =
            self.engine.call_fn_with_options(options, &mut scope, &self.ast, function, arguments);
        answer.map_err(ScriptFailure::Engine)
    }

    /// What it wants set up before the start.
    fn read_needs(&self) -> Result<Needs, ScriptError> {
        const REMEDY: &str = "give a map of quota, post_copy and auto_converge, each true or false: \
                              #{ quota: true }";
        let wrong = |problem| ScriptError::Prepare { function: "needs", problem, remedy: REMEDY };
        let mut needs = self.needs;
        for (name, value) in self.map_of("needs", REMEDY)? {
            let wanted = value.as_bool();
            let wanted = wanted.map_err(|_| wrong(format!("{name} is {value}")))?;
            match name.as_str() {
                "quota" => needs.quota = wanted,
                "post_copy" => needs.post_copy = wanted,
                "auto_converge" => needs.auto_converge = wanted,
                other => return Err(wrong(format!("there is no {other:?}"))),
            }
        }
        Ok(needs)
    }

    /// What it remembers at first.
    fn read_start(&self) -> Result<Map, ScriptError> {
        self.map_of(
            "start",
            "give a map of what the script is to remember at first: #{ grip: 1.0 }",
        )
    }

    /// The map that a function gives; an empty one where there is no such function.
    fn map_of(&self, function: &'static str, remedy: &'static str) -> Result<Map, ScriptError> {
        if !self.has(function, 0) {
            return Ok(Map::new());
        }
        let wrong = |problem| ScriptError::Prepare { function, problem, remedy };
        let value = self.call(function, None, Vec::new());
        let value = value.map_err(|failure| wrong(failure.to_string()))?;
        let kind = value.type_name();
        value.try_cast().ok_or_else(|| wrong(format!("it gives {kind}, not a map")))
    }
}

/// The constants at the top of a script, so that its functions can see them.
fn constants(engine: &Engine, text: &str) -> Result<Scope<'static>, ScriptError> {
    let ast = engine.compile(text).map_err(syntax)?;
    let mut scope = Scope::new();
    engine.run_ast_with_scope(&mut scope, &ast.clone_statements_only()).map_err(|error| {
        ScriptError::Syntax { at: at(error.position()), problem: bare(&error.to_string()) }
    })?;
    let mut constants = Scope::new();
    for (name, is_constant, value) in scope.iter() {
        if is_constant {
            constants.push_constant_dynamic(name.to_owned(), value);
        }
    }
    Ok(constants)
}

fn syntax(error: ParseError) -> ScriptError {
    ScriptError::Syntax { at: at(error.1), problem: error.0.to_string() }
}

fn at(position: Position) -> String {
    match (position.line(), position.position()) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: "),
        (Some(line), None) => format!("line {line}: "),
        _ => String::new(),
    }
}

/// An error without the place at its end.
fn bare(error: &str) -> String {
    error.split(" (line ").next().unwrap_or(error).to_owned()
}
