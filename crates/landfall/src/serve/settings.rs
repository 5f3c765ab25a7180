//! What somebody has set on the page: as it was typed, and what it means.

use landfall_core::policy;
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::units::{ByteRate, Share, parse_duration};

/// The fields of the form, by the names that the options have on the command line.
pub const FIELDS: [&str; 7] =
    ["aggression", "max-bandwidth", "min-cpu", "max-stall", "max-time", "give-way", "policy"];

/// What was set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What was typed, field by field; several for the order in which to give way.
    typed: Vec<(String, String)>,
    /// What it means, where it means anything; the default elsewhere.
    pub requirements: Requirements,
    pub aggression: Aggression,
    pub policy: String,
    /// Fields that mean nothing, and the remedy.
    pub wrong: Vec<(String, String)>,
}

impl Settings {
    /// Of the fields of a form; what is not a field of ours is let through. `apply` changes another
    /// field, as `max-stall=1.1s` does.
    pub fn read(form: &[(String, String)]) -> Settings {
        let ours = |(name, _): &&(String, String)| FIELDS.contains(&name.as_str());
        let mut typed: Vec<(String, String)> = form.iter().filter(ours).cloned().collect();
        let changes = form.iter().filter(|(name, _)| name == "apply");
        for (name, value) in changes.filter_map(|(_, change)| change.split_once('=')) {
            if FIELDS.contains(&name) {
                typed.retain(|(known, _)| known != name);
                let values = value.split(',').map(|value| (name.to_owned(), value.trim().to_owned()));
                typed.extend(values);
            }
        }
        let mut settings = Settings {
            typed: Vec::new(),
            requirements: Requirements::default(),
            aggression: Aggression::DEFAULT,
            policy: policy::DEFAULT.to_owned(),
            wrong: Vec::new(),
        };
        for (name, text) in &typed {
            if !text.trim().is_empty()
                && let Err(problem) = settings.set(name, text.trim())
            {
                settings.wrong.push((name.clone(), problem));
            }
        }
        settings.typed = typed;
        settings
    }

    fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let asked = &mut self.requirements;
        match name {
            "aggression" => self.aggression = text.parse().map_err(words)?,
            "policy" => {
                policy::by_name(text).map_err(words)?;
                self.policy = text.to_owned();
            }
            "max-bandwidth" => asked.max_bandwidth = Some(text.parse::<ByteRate>().map_err(words)?),
            "min-cpu" => asked.min_cpu = text.parse::<Share>().map_err(words)?,
            "max-stall" => asked.max_stall = parse_duration(text).map_err(words)?,
            "max-time" => asked.max_time = Some(parse_duration(text).map_err(words)?),
            "give-way" => {
                let which: Requirement = text.parse().map_err(words)?;
                if !asked.give_way.contains(&which) {
                    asked.give_way.push(which);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// What was typed into a field; the first where there are several.
    pub fn typed(&self, name: &str) -> &str {
        let of = self.typed.iter().find(|(known, _)| known == name);
        of.map_or("", |(_, text)| text.as_str())
    }

    /// What is wrong with a field.
    pub fn problem(&self, name: &str) -> Option<&str> {
        self.wrong.iter().find(|(known, _)| known == name).map(|(_, problem)| problem.as_str())
    }

    /// The options of `landfall migrate` for it.
    pub fn options(&self) -> Vec<String> {
        let mut options = Vec::new();
        let mut option = |name: &str, value: String| {
            options.extend([format!("--{name}"), value]);
        };
        for name in ["aggression", "max-bandwidth", "min-cpu", "max-stall", "max-time", "policy"] {
            let text = self.typed(name).trim();
            if !text.is_empty() {
                option(name, text.to_owned());
            }
        }
        let order: Vec<&str> =
            self.requirements.give_way.iter().map(|which| which.name()).collect();
        if !order.is_empty() {
            option("give-way", order.join(","));
        }
        options
    }
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(pairs: &[(&str, &str)]) -> Settings {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Settings::read(&pairs.iter().map(own).collect::<Vec<_>>())
    }

    #[test]
    fn what_is_set_becomes_the_options_that_mean_the_same() {
        let settings = read(&[
            ("aggression", "0.7"),
            ("max-bandwidth", " 1Gbit/s "),
            ("min-cpu", ""),
            ("max-stall", "500ms"),
            ("give-way", "max-stall"),
            ("give-way", ""),
            ("give-way", "min-cpu"),
            ("to", "elsewhere"),
        ]);
        assert_eq!(settings.wrong, []);
        assert_eq!(settings.requirements.max_stall, Duration::from_millis(500));
        let options = settings.options().join(" ");
        let expected = "--aggression 0.7 --max-bandwidth 1Gbit/s --max-stall 500ms --give-way \
                        max-stall,min-cpu";
        assert_eq!(options, expected);
    }

    #[test]
    fn a_remedy_takes_the_place_of_what_was_typed() {
        let fields = [("max-stall", "1ms"), ("give-way", "min-cpu")];
        let remedied = read(&[&fields[..], &[("apply", "max-stall=1.1s")]].concat());
        assert_eq!(remedied.typed("max-stall"), "1.1s");
        let order = read(&[&fields[..], &[("apply", "give-way=max-stall,min-cpu")]].concat());
        let expected = [Requirement::MaxStall, Requirement::MinCpu];
        assert_eq!(order.requirements.give_way, expected);
        assert_eq!(read(&[("apply", "destination=tcp:evil:1")]).typed("destination"), "");
    }

    #[test]
    fn what_means_nothing_is_said_with_the_remedy_and_kept_as_typed() {
        let settings = read(&[("max-stall", "500"), ("min-cpu", "0.2"), ("policy", "magic")]);
        assert!(settings.problem("max-stall").unwrap().contains("300ms"));
        assert!(settings.problem("min-cpu").unwrap().contains("20%"));
        assert!(settings.problem("policy").is_some() && settings.problem("max-time").is_none());
        assert_eq!(settings.typed("max-stall"), "500");
    }
}
