//! What is asked of a migration, on the command line: the options that `landfall migrate` and
//! `landfall plan` share, and a file with the same names and texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use landfall_core::policy;
use landfall_core::requirements::Settings;
use landfall_core::units::parse_duration;
use landfall_migration::policy_registry::NamedPolicy;

use super::policy_parser::PolicyParser;
use super::setting_args::StartSettingArgs;

/// The options.
#[derive(Debug, Clone, Args)]
pub struct RequirementArgs {
    #[command(flatten)]
    settings: StartSettingArgs,

    /// Read settings from this file first; the options above take precedence. TOML with the names of the
    /// options, for example max-stall = "300ms"
    #[arg(long, value_name = "FILE")]
    pub requirements: Option<PathBuf>,

    /// Process id of the QEMU that the guest is to leave. Needed only where another program serves its
    /// monitor (a relay), or landfall may not see who does; all vCPUs that the monitor names must be threads
    /// of this process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub qemu_pid: Option<i32>,

    /// What to do about a guest that dirties its memory faster than the link carries it
    #[arg(long, value_name = "NAME", default_value = policy::DEFAULT,
          value_parser = PolicyParser { simulated: false })]
    pub policy: NamedPolicy,

    /// How long to watch how the guest writes before the start, for the forecast and the first plan.
    /// 0s skips the probe
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub probe: Duration,
}

/// A requirements file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RequirementsFileError {
    /// It cannot be read.
    #[error("cannot read {}: {error}", .file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not TOML, or one of its settings is not valid.
    #[error("{}: {}", .file.display(), .error.to_string().trim_end())]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Where and why.
        error: Box<toml::de::Error>,
    },
}

impl RequirementArgs {
    /// Returns the settings: those of the file, replaced by those that were given as options.
    ///
    /// # Errors
    /// [`RequirementsFileError`].
    pub fn settings(&self) -> Result<Settings, RequirementsFileError> {
        let mut settings = match &self.requirements {
            Some(file) => read_settings(file)?,
            None => Settings::default(),
        };
        self.settings.given().iter().for_each(|setting| settings.apply(setting.clone()));
        Ok(settings)
    }
}

fn read_settings(file: &Path) -> Result<Settings, RequirementsFileError> {
    let unreadable = |error| RequirementsFileError::Unreadable { file: file.to_owned(), error };
    let text = fs::read_to_string(file).map_err(unreadable)?;
    let invalid =
        |error| RequirementsFileError::Invalid { file: file.to_owned(), error: Box::new(error) };
    toml::from_str(&text).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use landfall_core::requirements::Requirement;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        asked: RequirementArgs,
    }

    fn parse(options: &[&str]) -> Result<Settings, String> {
        let line = [&["landfall"], options].concat();
        let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
        line.asked.settings().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_not_asked_has_its_default() {
        assert_eq!(parse(&[]), Ok(Settings::default()));
    }

    #[test]
    fn options_go_before_the_file_and_the_file_before_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asked.toml");
        let text =
            "max-stall = \"1s\"\nmin-cpu = \"20%\"\naggression = 0.25\ngive-way = [\"max-time\"]\n";
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let read = parse(&["--requirements", file, "--max-stall", "2s"]).unwrap();
        assert_eq!(read.requirements.max_stall, Duration::from_secs(2));
        assert_eq!(read.requirements.min_cpu.get(), 0.2);
        assert_eq!(read.requirements.give_way, [Requirement::MaxTime]);
        assert_eq!(read.aggression.get(), 0.25);
    }

    #[test]
    fn a_file_that_asks_for_what_cannot_be_is_refused_with_its_name_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asked.toml");
        for (text, remedy) in [
            ("max-stall = 300", "300ms"),
            ("max-pain = \"1s\"", "max-stall"),
            ("give-way = [\"all\"]", "max-stall"),
            ("max-stall =", "asked.toml"),
        ] {
            fs::write(&file, text).unwrap();
            let error = parse(&["--requirements", file.to_str().unwrap()]).unwrap_err();
            assert!(error.contains("asked.toml") && error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_list_may_be_said_in_one_or_bit_by_bit() {
        for options in [
            &["--give-way", "max-stall,min-cpu"][..],
            &["--give-way", "max-stall", "--give-way", "min-cpu"],
        ] {
            let read = parse(options).unwrap();
            assert_eq!(read.requirements.give_way, [Requirement::MaxStall, Requirement::MinCpu]);
        }
    }
}
