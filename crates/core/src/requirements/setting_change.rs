//! Settings that changed while a migration ran.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::requirements::{Requirement, Requirements, Setting, Settings};

/// A setting that had another value before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SettingChange {
    /// When, in seconds after the start.
    pub at_s: f64,
    /// Its name on the command line, without the dashes.
    pub name: String,
    /// Its value before, as people type it.
    pub was: String,
    /// Its value from then on, as people type it.
    pub now: String,
}

impl fmt::Display for SettingChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {} (was {})", self.name, self.now, self.was)
    }
}

/// Returns the settings that changed.
pub fn changes_between(was: &Settings, now: &Settings, at_s: f64) -> Vec<SettingChange> {
    let pairs = was.all().into_iter().zip(now.all()).filter(|(was, now)| was != now);
    let change = |(was, now): (Setting, Setting)| SettingChange {
        at_s,
        name: now.name().to_owned(),
        was: was.text(),
        now: now.text(),
    };
    pairs.map(change).collect()
}

/// Returns whether a requirement is harder to keep than before. What was measured before then does not
/// count against it.
pub fn is_tighter(was: &Requirements, now: &Requirements, which: Requirement) -> bool {
    let lower =
        |now: Option<f64>, was: Option<f64>| now.is_some_and(|now| was.is_none_or(|was| now < was));
    match which {
        Requirement::MaxBandwidth => {
            lower(now.max_bandwidth.map(|rate| rate.0), was.max_bandwidth.map(|rate| rate.0))
        }
        Requirement::MinCpu => now.min_cpu > was.min_cpu,
        Requirement::MaxStall => now.max_stall < was.max_stall,
        Requirement::MaxTime => lower(
            now.max_time.map(|time| time.as_secs_f64()),
            was.max_time.map(|time| time.as_secs_f64()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(&str, &str)]) -> Settings {
        let mut settings = Settings::default();
        changes.iter().for_each(|(name, text)| settings.set(name, text).unwrap());
        settings
    }

    #[test]
    fn what_changed_is_told_as_it_is_typed_and_nothing_else_is() {
        let was = with(&[("max-stall", "500ms"), ("aggression", "0.8")]);
        let now = with(&[("max-stall", "1.5s"), ("aggression", "0.8"), ("give-way", "max-time")]);
        let told: Vec<String> =
            changes_between(&was, &now, 2.5).iter().map(SettingChange::to_string).collect();
        assert_eq!(told, ["--max-stall 1.5s (was 500ms)", "--give-way max-time (was none)"]);
        assert_eq!(changes_between(&was, &was, 2.5), []);
    }

    #[test]
    fn tighter_is_what_is_harder_to_keep() {
        let asked = |changes: &[(&str, &str)]| with(changes).requirements;
        let loose = asked(&[("max-stall", "1s")]);
        let tight = asked(&[("max-bandwidth", "9MB/s"), ("min-cpu", "20%"), ("max-time", "9s")]);
        for which in Requirement::ALL {
            assert!(is_tighter(&loose, &tight, which), "{which}");
            assert!(!is_tighter(&tight, &loose, which), "{which}");
            assert!(!is_tighter(&loose, &loose, which), "{which}");
        }
    }
}
