//! What somebody has set on the page: as it was typed, and what it means.

use landfall_core::policy;
use landfall_core::requirements::settings::Demands;

use landfall_migration::policy_registry::NamedPolicy;

/// The fields of the form, by the names that the options have on the command line.
pub const FIELDS: [&str; 7] =
    ["aggression", "max-bandwidth", "min-cpu", "max-stall", "max-time", "give-way", "policy"];

/// What was set.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// What was typed, field by field; several for the order in which to give way.
    typed: Vec<(String, String)>,
    /// What it means, where it means anything; the default elsewhere.
    pub demands: Demands,
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
                let values =
                    value.split(',').map(|value| (name.to_owned(), value.trim().to_owned()));
                typed.extend(values);
            }
        }
        let mut settings = Settings {
            typed: Vec::new(),
            demands: Demands::default(),
            policy: policy::DEFAULT.to_owned(),
            wrong: Vec::new(),
        };
        let mut order: Vec<&str> = Vec::new();
        for (name, text) in &typed {
            let text = text.trim();
            match name.as_str() {
                _ if text.is_empty() => {}
                "give-way" => order.push(text),
                "policy" => match policy::by_name(text) {
                    Ok(_) => settings.policy = text.to_owned(),
                    Err(problem) => settings.wrong.push((name.clone(), problem.to_string())),
                },
                _ => settings.set(name, text),
            }
        }
        if !order.is_empty() {
            settings.set("give-way", &order.join(","));
        }
        settings.typed = typed;
        settings
    }

    fn set(&mut self, name: &str, text: &str) {
        if let Err(problem) = self.demands.set(name, text) {
            self.wrong.push((name.to_owned(), problem.to_string()));
        }
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

    /// The n-th of the requirements that give way.
    pub fn gives_way(&self, place: usize) -> &str {
        self.demands.requirements.give_way.get(place).map_or("", |which| which.name())
    }

    /// The policy as it is: one of landfall's own, for a script's file is not for a page to name.
    pub fn law(&self) -> NamedPolicy {
        let entry = policy::ALL.iter().find(|entry| entry.name == self.policy);
        NamedPolicy::BuiltIn(entry.unwrap_or(&policy::ALL[0]))
    }

    /// The options of `landfall migrate` for it.
    pub fn options(&self) -> Vec<String> {
        let default = Demands::default();
        let demands = self.demands.beyond(&default);
        let mut options: Vec<String> =
            demands.flat_map(|demand| [format!("--{}", demand.name()), demand.text()]).collect();
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
        assert_eq!(settings.demands.requirements.max_stall, Duration::from_millis(500));
        let options = settings.options().join(" ");
        let expected = "--max-bandwidth 125MB/s --max-stall 500ms --give-way max-stall,min-cpu \
                        --aggression 0.7";
        assert_eq!(options, expected);
    }

    #[test]
    fn a_remedy_takes_the_place_of_what_was_typed() {
        let fields = [("max-stall", "1ms"), ("give-way", "min-cpu")];
        let remedied = read(&[&fields[..], &[("apply", "max-stall=1.1s")]].concat());
        assert_eq!(remedied.typed("max-stall"), "1.1s");
        let order = read(&[&fields[..], &[("apply", "give-way=max-stall,min-cpu")]].concat());
        let expected = [Requirement::MaxStall, Requirement::MinCpu];
        assert_eq!(order.demands.requirements.give_way, expected);
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
