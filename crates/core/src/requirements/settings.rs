//! The settings: everything that an operator asks of a migration, by name and text.
//!
//! [`SETTINGS`] is the one table of them. The options of the command line and their help, files, the
//! management page, the control socket and remedies are made from it, so a new setting is a new row
//! here, a variant of [`Setting`] and a field of [`Settings`]. (A scenario of the simulator has the same
//! names, with ranges to draw from in place of values.)
//!
//! A setting has the name of its option and a text with a unit: `max-stall` is `300ms`. One that is
//! left out has its default; `none` removes a limit.

use std::fmt;
use std::time::Duration;

use super::setting_text::{
    NONE, SettingTextError, optional, parse_bandwidth, parse_give_way, parse_time,
};
use super::{Aggression, Requirement, Requirements};
use crate::units::{ByteRate, Share, format};

/// All that an operator asks.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// What may not be broken, or only in a certain order.
    pub requirements: Requirements,
    /// The dial.
    pub aggression: Aggression,
}

/// One setting and its value.
#[derive(Debug, Clone, PartialEq)]
pub enum Setting {
    /// See [`Requirements::max_bandwidth`].
    MaxBandwidth(Option<ByteRate>),
    /// See [`Requirements::min_cpu`].
    MinCpu(Share),
    /// See [`Requirements::max_stall`].
    MaxStall(Duration),
    /// See [`Requirements::max_time`].
    MaxTime(Option<Duration>),
    /// See [`Requirements::give_way`].
    GiveWay(Vec<Requirement>),
    /// See [`Settings::aggression`].
    Aggression(Aggression),
}

/// What there is to know about a setting, whatever its value: a row of [`SETTINGS`].
#[derive(Debug)]
pub struct SettingSpec {
    /// Its name: on the command line without the dashes, in files, on the page.
    pub name: &'static str,
    /// What its value is called in help texts.
    pub value_name: &'static str,
    /// What it sets, in a sentence without its full stop.
    pub help: &'static str,
    /// Texts to type, for help texts; empty where the value's name says enough.
    pub examples: &'static str,
    /// What holds where it is not set, in words.
    pub default: &'static str,
    /// Whether `none` removes it.
    pub removable: bool,
    /// Its label on the page.
    pub label: &'static str,
    /// What the page says below its field.
    pub hint: &'static str,
    parse: fn(&str) -> Result<Setting, SettingTextError>,
    get: fn(&Settings) -> Setting,
}

/// All settings, in the order in which they are shown; the requirements first, in the order of
/// [`Requirement::ALL`].
pub static SETTINGS: [SettingSpec; 6] = [
    SettingSpec {
        name: "max-bandwidth",
        value_name: "RATE",
        help: "Most that the migration may put on the link before the switch-over",
        examples: "100MB/s, 1Gbit/s",
        default: "what QEMU is set to",
        removable: true,
        label: "Bandwidth, at most",
        hint: "100MB/s, 1Gbit/s",
        parse: |text| optional(text, parse_bandwidth).map(Setting::MaxBandwidth),
        get: |settings| Setting::MaxBandwidth(settings.requirements.max_bandwidth),
    },
    SettingSpec {
        name: "min-cpu",
        value_name: "PERCENT",
        help: "Least CPU that each vCPU keeps while the guest runs",
        examples: "20%",
        default: "0%",
        removable: false,
        label: "CPU, at least",
        hint: "of each vCPU, while it runs",
        parse: |text| Ok(Setting::MinCpu(text.parse()?)),
        get: |settings| Setting::MinCpu(settings.requirements.min_cpu),
    },
    SettingSpec {
        name: "max-stall",
        value_name: "DURATION",
        help: "Longest time that the guest may stand still at a stretch, final downtime included",
        examples: "300ms, 1.5s",
        default: "300ms",
        removable: false,
        label: "Stall, at most",
        hint: "at a stretch, downtime included",
        parse: |text| parse_time(text).map(Setting::MaxStall),
        get: |settings| Setting::MaxStall(settings.requirements.max_stall),
    },
    SettingSpec {
        name: "max-time",
        value_name: "DURATION",
        help: "Longest time for the whole migration, from its start",
        examples: "90s, 10min",
        default: "no limit",
        removable: true,
        label: "Time, at most",
        hint: "for the whole migration",
        parse: |text| optional(text, parse_time).map(Setting::MaxTime),
        get: |settings| Setting::MaxTime(settings.requirements.max_time),
    },
    SettingSpec {
        name: "give-way",
        value_name: "LIST",
        help: "Requirements that may be broken if they cannot all be kept, the first one first. \
               If none may, the migration is refused or cancelled and the guest stays unharmed",
        examples: "max-time,max-stall",
        default: "none",
        removable: true,
        label: "May be broken, in this order",
        hint: "if they cannot all be kept",
        parse: |text| parse_give_way(text).map(Setting::GiveWay),
        get: |settings| Setting::GiveWay(settings.requirements.give_way.clone()),
    },
    SettingSpec {
        name: "aggression",
        value_name: "0.0..1.0",
        help: "0.0 disturbs the guest least within the requirements, 1.0 finishes soonest",
        examples: "",
        default: "0.5",
        removable: false,
        label: "Aggression",
        hint: "0.0 disturbs the guest least, 1.0 finishes soonest",
        parse: |text| Ok(Setting::Aggression(text.parse()?)),
        get: |settings| Setting::Aggression(settings.aggression),
    },
];

/// A setting that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no setting of that name.
    #[error(
        "unknown setting {0:?}; choose from {names}",
        names = SETTINGS.each_ref().map(|spec| spec.name).join(", ")
    )]
    Unknown(String),
    /// Its text is not valid.
    #[error("{name}: {error}")]
    Text {
        /// Which setting.
        name: &'static str,
        /// What is wrong with the text, and the remedy.
        error: SettingTextError,
    },
}

impl SettingSpec {
    /// Finds a setting by its name.
    ///
    /// # Errors
    /// [`SettingError::Unknown`], with the names there are.
    pub fn find(name: &str) -> Result<&'static SettingSpec, SettingError> {
        let found = SETTINGS.iter().find(|spec| spec.name == name.trim());
        found.ok_or_else(|| SettingError::Unknown(name.to_owned()))
    }

    /// Reads a value as people type it.
    ///
    /// # Errors
    /// [`SettingTextError`], with the remedy.
    pub fn parse(&self, text: &str) -> Result<Setting, SettingTextError> {
        (self.parse)(text)
    }
}

impl Setting {
    /// Reads the setting of a name as people type it.
    ///
    /// # Errors
    /// [`SettingError`], with the remedy.
    pub fn parse(name: &str, text: &str) -> Result<Setting, SettingError> {
        let spec = SettingSpec::find(name)?;
        spec.parse(text).map_err(|error| SettingError::Text { name: spec.name, error })
    }

    /// Its row of the table.
    pub fn spec(&self) -> &'static SettingSpec {
        let row = match self {
            Setting::MaxBandwidth(_) => 0,
            Setting::MinCpu(_) => 1,
            Setting::MaxStall(_) => 2,
            Setting::MaxTime(_) => 3,
            Setting::GiveWay(_) => 4,
            Setting::Aggression(_) => 5,
        };
        &SETTINGS[row]
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.spec().name
    }

    /// The text that people type for it.
    pub fn text(&self) -> String {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        match self {
            Setting::MaxBandwidth(rate) => or_none(rate.map(format::rate)),
            Setting::MinCpu(share) => format::share(*share),
            Setting::MaxStall(time) => format::duration(*time),
            Setting::MaxTime(time) => or_none(time.map(format::duration)),
            Setting::GiveWay(list) if list.is_empty() => NONE.to_owned(),
            Setting::GiveWay(list) => {
                list.iter().map(|name| name.name()).collect::<Vec<_>>().join(",")
            }
            Setting::Aggression(aggression) => aggression.get().to_string(),
        }
    }
}

/// As an option of the command line: `--max-stall 300ms`.
impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.name(), self.text())
    }
}

impl Settings {
    /// Changes one setting, by its name and what was typed for it.
    ///
    /// # Errors
    /// [`SettingError`], with the remedy; nothing has changed.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), SettingError> {
        self.apply(Setting::parse(name, text)?);
        Ok(())
    }

    /// Changes one setting.
    pub fn apply(&mut self, setting: Setting) {
        let requirements = &mut self.requirements;
        match setting {
            Setting::MaxBandwidth(rate) => requirements.max_bandwidth = rate,
            Setting::MinCpu(share) => requirements.min_cpu = share,
            Setting::MaxStall(time) => requirements.max_stall = time,
            Setting::MaxTime(time) => requirements.max_time = time,
            Setting::GiveWay(list) => requirements.give_way = list,
            Setting::Aggression(aggression) => self.aggression = aggression,
        }
    }

    /// Returns all settings in the order of the table, defaults included.
    pub fn all(&self) -> [Setting; SETTINGS.len()] {
        SETTINGS.each_ref().map(|spec| (spec.get)(self))
    }

    /// Returns those settings that have another value than in `other`.
    pub fn changed_from(&self, other: &Settings) -> impl Iterator<Item = Setting> {
        let pairs = self.all().into_iter().zip(other.all());
        pairs.filter(|(mine, theirs)| mine != theirs).map(|(mine, _)| mine)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(pairs: &[(&str, &str)]) -> Result<Settings, SettingError> {
        let mut settings = Settings::default();
        pairs.iter().try_for_each(|(name, text)| settings.set(name, text))?;
        Ok(settings)
    }

    #[test]
    fn every_setting_is_read_by_its_name_in_the_units_people_type() {
        let settings = set(&[
            ("max-bandwidth", "1Gbit/s"),
            ("min-cpu", "20 %"),
            ("max-stall", "1.5s"),
            ("max-time", "1min 30s"),
            ("give-way", "max-stall, min-cpu,max-stall"),
            ("aggression", "0.7"),
        ])
        .unwrap();
        let asked = &settings.requirements;
        assert_eq!(asked.max_bandwidth, Some(ByteRate::mb(125)));
        assert_eq!(asked.min_cpu, Share::clamped(0.2));
        assert_eq!(asked.max_stall, Duration::from_millis(1500));
        assert_eq!(asked.max_time, Some(Duration::from_secs(90)));
        assert_eq!(asked.give_way, [Requirement::MaxStall, Requirement::MinCpu]);
        assert_eq!(settings.aggression.get(), 0.7);
    }

    #[test]
    fn none_takes_a_limit_back() {
        let limits = [("max-time", "9s"), ("max-bandwidth", "1MB/s"), ("give-way", "max-time")];
        let mut settings = set(&limits).unwrap();
        for (name, _) in limits {
            settings.set(name, "none").unwrap();
        }
        assert_eq!(settings, Settings::default());
        assert!(settings.set("max-stall", "none").is_err(), "there is always a longest stall");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name_and_the_remedy_and_changes_nothing() {
        let mut settings = Settings::default();
        for (name, text, remedy) in [
            ("max-bandwidth", "100", "100MB/s"),
            ("max-bandwidth", "0MB/s", "QEMU's own limit"),
            ("min-cpu", "0.2", "20%"),
            ("max-stall", "300", "300ms"),
            ("max-stall", "0ms", "some tens of ms"),
            ("max-time", "soon", "2min"),
            ("give-way", "all", "max-stall"),
            ("aggression", "2", "0.0"),
        ] {
            let error = settings.set(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(remedy), "{error}");
        }
        let error = settings.set("max-pain", "1").unwrap_err().to_string();
        assert!(error.contains("max-pain") && error.contains("max-stall"), "{error}");
        assert_eq!(settings, Settings::default());
    }

    #[test]
    fn a_file_or_the_web_gives_texts_numbers_and_lists() {
        let json = r#"{"max-stall": "1s", "aggression": 0.25, "give-way": ["max-time"], "max-time": null}"#;
        let read: Settings = serde_json::from_str(json).unwrap();
        assert_eq!(read.requirements.max_stall, Duration::from_secs(1));
        assert_eq!(read.requirements.give_way, [Requirement::MaxTime]);
        assert_eq!(read.aggression.get(), 0.25);
        let error = serde_json::from_str::<Settings>(r#"{"max-stall": 300}"#).unwrap_err();
        assert!(error.to_string().contains("300ms"), "{error}");
    }

    fn settings() -> impl Strategy<Value = Settings> {
        let limits =
            (proptest::option::of(1u64..1_000_000), proptest::option::of(10u64..10_000_000));
        let ways = proptest::sample::subsequence(Requirement::ALL.to_vec(), 0..=4);
        (limits, 0u32..=1000, 10u64..100_000, ways, 0u32..=100).prop_map(
            |((rate, time), share, stall, give_way, dial)| Settings {
                requirements: Requirements {
                    max_bandwidth: rate.map(|kb| ByteRate((kb * 1000) as f64)),
                    min_cpu: Share::clamped(f64::from(share) / 10.0 / 100.0),
                    max_stall: Duration::from_millis(stall),
                    max_time: time.map(Duration::from_millis),
                    give_way,
                },
                aggression: Aggression::new(f64::from(dial) / 100.0).unwrap(),
            },
        )
    }

    #[test]
    fn each_row_of_the_table_is_that_of_its_setting() {
        for (spec, setting) in SETTINGS.iter().zip(Settings::default().all()) {
            assert_eq!(setting.name(), spec.name);
            assert_eq!(spec.parse(NONE).is_ok(), spec.removable, "{}", spec.name);
        }
        for (spec, requirement) in SETTINGS.iter().zip(Requirement::ALL) {
            assert_eq!(requirement.name().parse(), Ok(requirement));
            assert_eq!(requirement.name(), spec.name);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_as_what_it_was(settings in settings()) {
            let text = serde_json::to_string(&settings).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Settings>(&text).unwrap(), &settings);
            let mut again = Settings::default();
            for setting in settings.changed_from(&Settings::default()) {
                again.set(setting.name(), &setting.text()).unwrap();
            }
            prop_assert_eq!(again, settings);
        }

        #[test]
        fn no_text_makes_the_reader_panic(name in 0usize..6, text in "\\PC{0,16}") {
            let _ = Setting::parse(SETTINGS[name].name, &text);
        }
    }
}
