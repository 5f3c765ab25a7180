//! The one place where a name becomes a policy: a built-in one, `script:FILE`, and for the simulator the
//! auto-converge of 2013, which no current QEMU has.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use landfall_core::policy::{self, Policy, PolicyEntry};
use landfall_core::recording::RecordingHeader;
use landfall_qemu::stdio::eprint_line;
use landfall_script::{Program, ScriptError, Tell};
use landfall_sim::policies::{self, AutoConverge2013, Choice, SCRIPT};

/// A policy chosen by its name, of which any number can be created. Cheap to clone.
#[derive(Debug, Clone)]
pub enum NamedPolicy {
    /// One that is part of landfall.
    BuiltIn(&'static PolicyEntry),
    /// QEMU's auto-converge of 2013; the simulator alone has it.
    AutoConverge2013,
    /// A script, read and checked.
    Script(Program),
}

/// Why a name leads to no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// There is no built-in policy of that name.
    #[error(transparent)]
    Unknown(#[from] policy::UnknownPolicy),
    /// The script's file cannot be read.
    #[error("{path}: {source}; name a file with a script, as in policies/", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The script is wrong.
    #[error("{path}: {source}", path = path.display())]
    Script {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: ScriptError,
    },
}

impl NamedPolicy {
    /// Returns the policy of a name. The path of a script's file is relative to `folder`.
    ///
    /// # Errors
    /// [`PolicyError`].
    pub fn by_name(name: &str, folder: &Path) -> Result<NamedPolicy, PolicyError> {
        match name.strip_prefix(SCRIPT) {
            Some(file) => {
                let path = folder.join(file);
                let text = match fs::read_to_string(&path) {
                    Ok(text) => text,
                    Err(source) => return Err(PolicyError::File { path, source }),
                };
                let program = Program::read(name, &text);
                program
                    .map(NamedPolicy::Script)
                    .map_err(|source| PolicyError::Script { path, source })
            }
            None if name == AutoConverge2013.name() => Ok(NamedPolicy::AutoConverge2013),
            None => match policy::ALL.iter().find(|entry| entry.name == name) {
                Some(entry) => Ok(NamedPolicy::BuiltIn(entry)),
                None => Err(policy::UnknownPolicy(name.to_owned()).into()),
            },
        }
    }

    /// Returns the policy that a recording was made by; a script as it was then. `None` if this build of
    /// landfall does not have it.
    pub fn of_recording(head: &RecordingHeader) -> Option<NamedPolicy> {
        match &head.script {
            Some(text) => Program::read(&head.policy, text).ok().map(NamedPolicy::Script),
            None => {
                let found = Self::by_name(&head.policy, Path::new("")).ok();
                found.filter(|policy| matches!(policy, NamedPolicy::BuiltIn(_)))
            }
        }
    }

    /// Returns its name on the command line and in reports.
    pub fn name(&self) -> &str {
        match self {
            NamedPolicy::BuiltIn(entry) => entry.name,
            NamedPolicy::AutoConverge2013 => "auto-converge-2013",
            NamedPolicy::Script(program) => program.name(),
        }
    }

    /// Returns the text of a script; `None` for other policies.
    pub fn script_text(&self) -> Option<String> {
        match self {
            NamedPolicy::Script(program) => Some(program.text().to_owned()),
            _ => None,
        }
    }

    /// Creates the policy. `tell` is called at once when a script fails.
    pub fn create(&self, tell: &Tell) -> Box<dyn Policy> {
        self.create_for_simulator(tell).policy
    }

    /// Creates the policy, with the kind of QEMU that it steers.
    pub fn create_for_simulator(&self, tell: &Tell) -> Choice {
        let policy: Box<dyn Policy> = match self {
            NamedPolicy::BuiltIn(entry) => (entry.make)(),
            NamedPolicy::AutoConverge2013 => return policies::auto_converge_2013(),
            NamedPolicy::Script(program) => Box::new(program.policy(Arc::clone(tell))),
        };
        Choice::of_today(policy)
    }
}

/// Returns a callback that reports on standard error the first time a script fails, and no further ones:
/// of a thousand simulated migrations one message is enough.
pub fn report_first_failure(place: &'static str) -> Tell {
    let said = AtomicBool::new(false);
    Arc::new(move |what| {
        if !said.swap(true, Ordering::Relaxed) {
            eprint_line(&format!("landfall: {place}: {what}"));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_sim::policies;

    #[test]
    fn every_name_leads_to_its_policy() {
        let tell = report_first_failure("test");
        for name in policies::names() {
            let named = NamedPolicy::by_name(name, Path::new("")).unwrap();
            assert_eq!((named.name(), named.create(&tell).name()), (name, name));
        }
        let error = NamedPolicy::by_name("magic", Path::new("")).unwrap_err().to_string();
        assert!(error.contains("progressive"), "{error}");
    }

    #[test]
    fn a_script_is_found_in_its_folder_and_a_wrong_one_refused_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("mine.rhai");
        fs::write(&file, "fn decide(view) { leave_alone(\"mine\") }").unwrap();
        let named = NamedPolicy::by_name("script:mine.rhai", folder.path()).unwrap();
        assert_eq!(
            (named.name(), named.create(&report_first_failure("test")).name()),
            ("script:mine.rhai", named.name())
        );
        fs::write(&file, "fn decide(view) {\n  hold(shrae, \"\")\n}").unwrap();
        let error =
            NamedPolicy::by_name("script:mine.rhai", folder.path()).unwrap_err().to_string();
        assert!(error.contains("mine.rhai: line 2, column 8: "), "{error}");
        let error =
            NamedPolicy::by_name("script:none.rhai", folder.path()).unwrap_err().to_string();
        assert!(error.contains("none.rhai") && error.contains("name a file"), "{error}");
    }
}
