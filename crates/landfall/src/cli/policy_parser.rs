//! Reads a policy from the command line, and lists the names for help and completions.

use std::path::Path;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use landfall_core::policy;
use landfall_migration::policy_registry::NamedPolicy;
use landfall_sim::policies::SCRIPT;

/// Reads the name of a policy.
#[derive(Debug, Clone, Copy)]
pub struct PolicyParser {
    /// Whether the policies that only the simulator has are allowed too.
    pub simulated: bool,
}

impl PolicyParser {
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

impl TypedValueParser for PolicyParser {
    type Value = NamedPolicy;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&clap::Arg>,
        value: &std::ffi::OsStr,
    ) -> Result<NamedPolicy, clap::Error> {
        let name = value.to_string_lossy();
        if !name.starts_with(SCRIPT) {
            PossibleValuesParser::new(self.values()).parse_ref(command, arg, value)?;
        }
        NamedPolicy::by_name(&name, Path::new("")).map_err(|problem| {
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
