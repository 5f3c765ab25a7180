//! The settings that were typed on a page: the text of each field, and what it means.

use landfall_core::policy::{self, UnknownPolicy};
use landfall_core::requirements::{SETTINGS, SettingError, Settings};

use landfall_migration::policy_registry::NamedPolicy;

/// Returns whether a form has a field of this name: a setting, by the name of its option, or the policy.
fn is_form_field(name: &str) -> bool {
    name == "policy" || SETTINGS.iter().any(|spec| spec.name == name)
}

/// The settings in a form.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsForm {
    /// Field and text. `give-way` occurs once for each requirement in its order.
    typed: Vec<(String, String)>,
    /// What the texts mean. A field that is empty or wrong has its default.
    pub settings: Settings,
    /// The name of the policy.
    pub policy: String,
    /// The fields that are wrong.
    pub problems: Vec<FieldProblem>,
}

/// A field with a text that is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldProblem {
    /// The field's name.
    pub field: String,
    /// What is wrong with it.
    pub error: FieldError,
}

/// Why a field's text is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    /// A requirement or the aggression.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// The policy.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
}

impl SettingsForm {
    /// Reads the fields of a form and ignores those that are no settings. A field `apply`, for example
    /// `max-stall=1.1s`, replaces the text of the field that it names.
    pub fn parse(fields: &[(String, String)]) -> SettingsForm {
        let is_setting = |(name, _): &&(String, String)| is_form_field(name);
        let mut typed: Vec<(String, String)> = fields.iter().filter(is_setting).cloned().collect();
        let applied = fields.iter().filter(|(name, _)| name == "apply");
        for (name, value) in applied.filter_map(|(_, change)| change.split_once('=')) {
            if is_form_field(name) {
                typed.retain(|(known, _)| known != name);
                let values =
                    value.split(',').map(|value| (name.to_owned(), value.trim().to_owned()));
                typed.extend(values);
            }
        }
        let mut form = SettingsForm {
            typed: Vec::new(),
            settings: Settings::default(),
            policy: policy::DEFAULT.to_owned(),
            problems: Vec::new(),
        };
        let mut give_way: Vec<&str> = Vec::new();
        for (name, text) in &typed {
            let text = text.trim();
            match name.as_str() {
                _ if text.is_empty() => {}
                "give-way" => give_way.push(text),
                "policy" => match policy::by_name(text) {
                    Ok(_) => form.policy = text.to_owned(),
                    Err(error) => form.add_problem(name, error),
                },
                _ => form.set(name, text),
            }
        }
        if !give_way.is_empty() {
            form.set("give-way", &give_way.join(","));
        }
        form.typed = typed;
        form
    }

    fn set(&mut self, name: &str, text: &str) {
        if let Err(error) = self.settings.set(name, text) {
            self.add_problem(name, error);
        }
    }

    fn add_problem(&mut self, field: &str, error: impl Into<FieldError>) {
        self.problems.push(FieldProblem { field: field.to_owned(), error: error.into() });
    }

    /// Returns the text of a field; the first one if there are several.
    pub fn typed_text(&self, name: &str) -> &str {
        let found = self.typed.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, text)| text.as_str())
    }

    /// Returns what is wrong with a field.
    pub fn problem_of(&self, name: &str) -> Option<&FieldError> {
        self.problems.iter().find(|problem| problem.field == name).map(|problem| &problem.error)
    }

    /// Returns the name of the n-th requirement that may be broken; empty if there are fewer.
    pub fn give_way_name(&self, index: usize) -> &str {
        self.settings.requirements.give_way.get(index).map_or("", |which| which.name())
    }

    /// Returns the policy. It is one of landfall's own: a page must not name a script's file.
    pub fn built_in_policy(&self) -> NamedPolicy {
        let entry = policy::ALL.iter().find(|entry| entry.name == self.policy);
        NamedPolicy::BuiltIn(entry.unwrap_or(&policy::ALL[0]))
    }

    /// Returns the options of `landfall migrate` that mean the same.
    pub fn migrate_options(&self) -> Vec<String> {
        let default = Settings::default();
        let changed = self.settings.changed_from(&default);
        let mut options: Vec<String> =
            changed.flat_map(|setting| [format!("--{}", setting.name()), setting.text()]).collect();
        if self.policy != policy::DEFAULT {
            options.extend(["--policy".to_owned(), self.policy.clone()]);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use landfall_core::requirements::Requirement;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> SettingsForm {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        SettingsForm::parse(&pairs.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn settings_become_the_options_that_mean_the_same() {
        let form = parse(&[
            ("aggression", "0.7"),
            ("max-bandwidth", " 1Gbit/s "),
            ("min-cpu", ""),
            ("max-stall", "500ms"),
            ("give-way", "max-stall"),
            ("give-way", ""),
            ("give-way", "min-cpu"),
            ("to", "elsewhere"),
        ]);
        assert_eq!(form.problems, []);
        assert_eq!(form.settings.requirements.max_stall, Duration::from_millis(500));
        let options = form.migrate_options().join(" ");
        let expected = "--max-bandwidth 125MB/s --max-stall 500ms --give-way max-stall,min-cpu \
                        --aggression 0.7";
        assert_eq!(options, expected);
    }

    #[test]
    fn a_remedy_replaces_what_was_typed() {
        let fields = [("max-stall", "1ms"), ("give-way", "min-cpu")];
        let remedied = parse(&[&fields[..], &[("apply", "max-stall=1.1s")]].concat());
        assert_eq!(remedied.typed_text("max-stall"), "1.1s");
        let order = parse(&[&fields[..], &[("apply", "give-way=max-stall,min-cpu")]].concat());
        let expected = [Requirement::MaxStall, Requirement::MinCpu];
        assert_eq!(order.settings.requirements.give_way, expected);
        assert_eq!(parse(&[("apply", "destination=tcp:evil:1")]).typed_text("destination"), "");
    }

    #[test]
    fn a_wrong_field_is_kept_as_typed_and_its_problem_names_the_remedy() {
        let form = parse(&[("max-stall", "500"), ("min-cpu", "0.2"), ("policy", "magic")]);
        let problem = |name| form.problem_of(name).map(ToString::to_string);
        assert!(problem("max-stall").unwrap().contains("300ms"));
        assert!(problem("min-cpu").unwrap().contains("20%"));
        assert!(problem("policy").is_some() && problem("max-time").is_none());
        assert_eq!(form.typed_text("max-stall"), "500");
    }
}
