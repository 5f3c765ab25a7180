//! The one place where a name becomes a policy: a built-in one, `script:FILE`, and for the simulator
//! the auto-converge that no QEMU has any more.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use landfall_core::policy::{self, Policy, PolicyEntry};
use landfall_core::recording::RecordingHeader;
use landfall_qemu::stdio::eprint_line;
use landfall_script::{Program, Tell};
use landfall_sim::policies::{self, AutoConverge2013, Choice, SCRIPT};

/// A policy that was chosen: makes as many of it as are needed. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Law {
    /// One of landfall's own.
    BuiltIn(&'static PolicyEntry),
    /// QEMU's auto-converge of 2013; in the simulator alone.
    AutoConverge2013,
    /// A script, read and found sound.
    Script(Program),
}

impl Law {
    /// The law of a name. A script's file is looked for in a folder, or where its path says.
    ///
    /// # Errors
    /// In words: there is no such policy, or what is wrong with the script, and where.
    pub fn named(name: &str, folder: &Path) -> Result<Law, String> {
        match name.strip_prefix(SCRIPT) {
            Some(file) => {
                let path = folder.join(file);
                let wrong =
                    |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
                let text = fs::read_to_string(&path).map_err(|error| {
                    wrong(&format!("{error}; name a file with a script, as in policies/"))
                })?;
                Program::read(name, &text).map(Law::Script).map_err(|error| wrong(&error))
            }
            None if name == AutoConverge2013.name() => Ok(Law::AutoConverge2013),
            None => match policy::ALL.iter().find(|entry| entry.name == name) {
                Some(entry) => Ok(Law::BuiltIn(entry)),
                None => Err(policy::UnknownPolicy(name.to_owned()).to_string()),
            },
        }
    }

    /// The law that a recording was made by; a script as it was then. `None` where this landfall does
    /// not have it.
    pub fn recorded(head: &RecordingHeader) -> Option<Law> {
        match &head.script {
            Some(text) => Program::read(&head.policy, text).ok().map(Law::Script),
            None => Self::named(&head.policy, Path::new("")).ok().filter(|law| law.is_of_today()),
        }
    }

    fn is_of_today(&self) -> bool {
        matches!(self, Law::BuiltIn(_))
    }

    /// What it is called on the command line and in reports.
    pub fn name(&self) -> &str {
        match self {
            Law::BuiltIn(entry) => entry.name,
            Law::AutoConverge2013 => "auto-converge-2013",
            Law::Script(program) => program.name(),
        }
    }

    /// The text of a script.
    pub fn script(&self) -> Option<String> {
        match self {
            Law::Script(program) => Some(program.text().to_owned()),
            _ => None,
        }
    }

    /// A policy by it. `tell` hears at once of a script that fails.
    pub fn policy(&self, tell: &Tell) -> Box<dyn Policy> {
        self.choice(tell).policy
    }

    /// The same, with the QEMU that it is for.
    pub fn choice(&self, tell: &Tell) -> Choice {
        let policy: Box<dyn Policy> = match self {
            Law::BuiltIn(entry) => (entry.make)(),
            Law::AutoConverge2013 => return policies::auto_converge_2013(),
            Law::Script(program) => Box::new(program.policy(Arc::clone(tell))),
        };
        Choice::of_today(policy)
    }
}

/// Says once, on standard error, that a script has failed: of a thousand simulated migrations it is
/// enough to hear it of one.
pub fn say_once(place: &'static str) -> Tell {
    let said = AtomicBool::new(false);
    Arc::new(move |what| {
        if !said.swap(true, Ordering::Relaxed) {
            eprint_line(&format!("landfall: {place}: {what}"));
        }
    })
}

/// Reads laws from the command line.
#[derive(Debug, Clone, Copy)]
pub struct LawParser {
    /// Those that only the simulator has, too.
    pub simulated: bool,
}

impl LawParser {
    fn values(self) -> Vec<PossibleValue> {
        let listed = policy::ALL.iter().map(|e| PossibleValue::new(e.name).help(e.help));
        let mut values: Vec<PossibleValue> = listed.collect();
        if self.simulated {
            let help = "QEMU's throttle as it was from 2013 to 2015";
            values.push(PossibleValue::new("auto-converge-2013").help(help));
        }
        values
    }
}

impl TypedValueParser for LawParser {
    type Value = Law;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<Law, clap::Error> {
        let name = value.to_string_lossy();
        if !name.starts_with(SCRIPT) {
            PossibleValuesParser::new(self.values()).parse_ref(command, arg, value)?;
        }
        Law::named(&name, Path::new("")).map_err(|problem| {
            let mut error = clap::Error::raw(ErrorKind::ValueValidation, format!("{problem}\n"));
            error = error.with_cmd(command);
            error.insert(ContextKind::InvalidValue, ContextValue::String(name.into_owned()));
            error
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let script =
            PossibleValue::new("script:FILE").help("a policy of your own (docs/scripts.md)");
        Some(Box::new(self.values().into_iter().chain([script])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_sim::policies;

    #[test]
    fn every_name_leads_to_its_policy() {
        let tell = say_once("test");
        for name in policies::names() {
            let law = Law::named(name, Path::new("")).unwrap();
            assert_eq!((law.name(), law.policy(&tell).name()), (name, name));
        }
        let error = Law::named("magic", Path::new("")).unwrap_err();
        assert!(error.contains("progressive"), "{error}");
    }

    #[test]
    fn a_script_is_found_in_its_folder_and_a_wrong_one_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.rhai");
        fs::write(&file, "fn decide(view) { leave_alone(\"mine\") }").unwrap();
        let law = Law::named("script:mine.rhai", folder.path()).unwrap();
        assert_eq!(
            (law.name(), law.policy(&say_once("test")).name()),
            ("script:mine.rhai", law.name())
        );
        fs::write(&file, "fn decide(view) {\n  hold(shrae, \"\")\n}").unwrap();
        let error = Law::named("script:mine.rhai", folder.path()).unwrap_err();
        assert!(error.contains("mine.rhai: line 2, column 8: "), "{error}");
        let error = Law::named("script:none.rhai", folder.path()).unwrap_err();
        assert!(error.contains("none.rhai") && error.contains("name a file"), "{error}");
    }
}
