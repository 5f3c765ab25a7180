//! All that an operator demands of a migration, by name and text: one reader for the command line, a file
//! and the web.
//!
//! Each demand has the name of its option and a text with a unit: `max-stall` is `300ms`. A file has
//! the same names and texts, and so has JSON:
//!
//! ```toml
//! max-bandwidth = "1Gbit/s"
//! min-cpu = "20%"
//! max-stall = "300ms"
//! max-time = "2min"
//! aggression = 0.5
//! give-way = ["max-time", "max-stall"]
//! ```
//!
//! What an operator leaves out has its default; `none` takes a limit back.

use std::fmt;
use std::time::Duration;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::requirements::{Aggression, Requirement, Requirements};
use crate::units::format;
use crate::units::{ByteRate, Share, parse_duration};

/// The requirements and the dial.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Demands {
    /// What may not be broken, or only in a certain order.
    pub requirements: Requirements,
    /// The dial.
    pub aggression: Aggression,
}

/// One demand.
#[derive(Debug, Clone, PartialEq)]
pub enum Demand {
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
    /// See [`Demands::aggression`].
    Aggression(Aggression),
}

/// A demand that cannot be: names it, what was typed, and what to type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DemandError {
    /// There is none of that name.
    #[error(
        "{0:?} is nothing to demand; choose from max-bandwidth, min-cpu, max-stall, max-time, give-way, aggression"
    )]
    Unknown(String),
    /// Its text means nothing, or nothing that can be kept.
    #[error("{name}: {problem}")]
    Text {
        /// Which demand.
        name: &'static str,
        /// What is wrong, and the remedy.
        problem: String,
    },
}

impl DemandError {
    /// What is wrong, for whoever says the name himself.
    pub fn problem(&self) -> String {
        match self {
            DemandError::Unknown(_) => self.to_string(),
            DemandError::Text { problem, .. } => problem.clone(),
        }
    }
}

/// The shortest stall or time that can be kept.
const SHORTEST: Duration = Duration::from_millis(10);

impl Demand {
    /// The names, in the order in which they are shown.
    pub const NAMES: [&str; 6] =
        ["max-bandwidth", "min-cpu", "max-stall", "max-time", "give-way", "aggression"];

    /// Reads the demand of a name as people type it.
    ///
    /// # Errors
    /// [`DemandError`], with the remedy.
    pub fn read(name: &str, text: &str) -> Result<Demand, DemandError> {
        let Some(name) = Demand::NAMES.into_iter().find(|known| *known == name.trim()) else {
            return Err(DemandError::Unknown(name.to_owned()));
        };
        let demand = match name {
            "max-bandwidth" => limit(text, bandwidth).map(Demand::MaxBandwidth),
            "min-cpu" => text.parse().map(Demand::MinCpu).map_err(in_words),
            "max-stall" => time(text).map(Demand::MaxStall),
            "max-time" => limit(text, time).map(Demand::MaxTime),
            "give-way" => give_way(text).map(Demand::GiveWay),
            _ => text.parse().map(Demand::Aggression).map_err(in_words),
        };
        demand.map_err(|problem| DemandError::Text { name, problem })
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Demand::MaxBandwidth(_) => "max-bandwidth",
            Demand::MinCpu(_) => "min-cpu",
            Demand::MaxStall(_) => "max-stall",
            Demand::MaxTime(_) => "max-time",
            Demand::GiveWay(_) => "give-way",
            Demand::Aggression(_) => "aggression",
        }
    }

    /// The text that people type for it.
    pub fn text(&self) -> String {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| NONE.to_owned());
        match self {
            Demand::MaxBandwidth(rate) => or_none(rate.map(format::rate)),
            Demand::MinCpu(share) => format::share(*share),
            Demand::MaxStall(time) => format::duration(*time),
            Demand::MaxTime(time) => or_none(time.map(format::duration)),
            Demand::GiveWay(list) if list.is_empty() => NONE.to_owned(),
            Demand::GiveWay(list) => {
                list.iter().map(|name| name.name()).collect::<Vec<_>>().join(",")
            }
            Demand::Aggression(dial) => dial.get().to_string(),
        }
    }
}

/// What takes a limit back.
const NONE: &str = "none";

/// As an option of the command line: `--max-stall 300ms`.
impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {}", self.name(), self.text())
    }
}

impl Serialize for Demand {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry(self.name(), &self.text())?;
        map.end()
    }
}

impl Demands {
    /// Changes one demand, by its name and what was typed for it.
    ///
    /// # Errors
    /// [`DemandError`], with the remedy; nothing has changed.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), DemandError> {
        self.apply(Demand::read(name, text)?);
        Ok(())
    }

    /// Changes one demand.
    pub fn apply(&mut self, demand: Demand) {
        let asked = &mut self.requirements;
        match demand {
            Demand::MaxBandwidth(rate) => asked.max_bandwidth = rate,
            Demand::MinCpu(share) => asked.min_cpu = share,
            Demand::MaxStall(time) => asked.max_stall = time,
            Demand::MaxTime(time) => asked.max_time = time,
            Demand::GiveWay(list) => asked.give_way = list,
            Demand::Aggression(dial) => self.aggression = dial,
        }
    }

    /// All demands, defaults included.
    pub fn all(&self) -> [Demand; 6] {
        let asked = &self.requirements;
        [
            Demand::MaxBandwidth(asked.max_bandwidth),
            Demand::MinCpu(asked.min_cpu),
            Demand::MaxStall(asked.max_stall),
            Demand::MaxTime(asked.max_time),
            Demand::GiveWay(asked.give_way.clone()),
            Demand::Aggression(self.aggression),
        ]
    }

    /// Those that differ from other ones.
    pub fn beyond(&self, other: &Demands) -> impl Iterator<Item = Demand> {
        let pairs = self.all().into_iter().zip(other.all());
        pairs.filter(|(mine, theirs)| mine != theirs).map(|(mine, _)| mine)
    }
}

/// As a map of names and texts, all of them.
impl Serialize for Demands {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.all().iter().map(|demand| (demand.name(), demand.text())))
    }
}

/// From a map of names and texts; what is not in it has its default.
impl<'de> Deserialize<'de> for Demands {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Demands, D::Error> {
        from.deserialize_map(Names)
    }
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Demands;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("demands by name, such as max-stall = \"300ms\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Demands, A::Error> {
        let mut demands = Demands::default();
        while let Some((name, Typed(text))) = map.next_entry::<String, Typed>()? {
            demands.set(&name, &text).map_err(serde::de::Error::custom)?;
        }
        Ok(demands)
    }
}

/// What was typed, as a text: a number without quotes and a list are written out.
struct Typed(String);

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Typed, D::Error> {
        from.deserialize_any(Texts).map(Typed)
    }
}

struct Texts;

impl<'de> Visitor<'de> for Texts {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text such as \"300ms\", a number, or a list of names")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(NONE.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<String, A::Error> {
        let mut list: Vec<String> = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(list.join(","))
    }
}

/// A limit that may be taken back.
fn limit<T>(text: &str, read: fn(&str) -> Result<T, String>) -> Result<Option<T>, String> {
    if text.trim() == NONE { Ok(None) } else { read(text).map(Some) }
}

/// A bandwidth above zero: to QEMU, zero means no limit at all.
fn bandwidth(text: &str) -> Result<ByteRate, String> {
    let rate: ByteRate = text.parse().map_err(in_words)?;
    if rate.per_second() == 0 {
        return Err(format!(
            "{text:?}: nothing can be sent at that rate; leave it out, or write none, for QEMU's own \
             limit"
        ));
    }
    Ok(rate)
}

/// A time long enough to be kept.
fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).map_err(in_words)?;
    if time < SHORTEST {
        return Err(format!(
            "no migration keeps {text:?}: a switch-over alone takes some tens of ms"
        ));
    }
    Ok(time)
}

/// A list of requirements, each once.
fn give_way(text: &str) -> Result<Vec<Requirement>, String> {
    let names = text.split(',').map(str::trim).filter(|name| !name.is_empty() && *name != NONE);
    let mut list = Vec::new();
    for name in names {
        let requirement: Requirement = name.parse().map_err(in_words)?;
        if !list.contains(&requirement) {
            list.push(requirement);
        }
    }
    Ok(list)
}

fn in_words(error: impl fmt::Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(pairs: &[(&str, &str)]) -> Result<Demands, DemandError> {
        let mut demands = Demands::default();
        pairs.iter().try_for_each(|(name, text)| demands.set(name, text))?;
        Ok(demands)
    }

    #[test]
    fn every_demand_is_read_by_its_name_in_the_units_people_type() {
        let demands = set(&[
            ("max-bandwidth", "1Gbit/s"),
            ("min-cpu", "20 %"),
            ("max-stall", "1.5s"),
            ("max-time", "1min 30s"),
            ("give-way", "max-stall, min-cpu,max-stall"),
            ("aggression", "0.7"),
        ])
        .unwrap();
        let asked = &demands.requirements;
        assert_eq!(asked.max_bandwidth, Some(ByteRate::mb(125)));
        assert_eq!(asked.min_cpu, Share::clamped(0.2));
        assert_eq!(asked.max_stall, Duration::from_millis(1500));
        assert_eq!(asked.max_time, Some(Duration::from_secs(90)));
        assert_eq!(asked.give_way, [Requirement::MaxStall, Requirement::MinCpu]);
        assert_eq!(demands.aggression.get(), 0.7);
    }

    #[test]
    fn none_takes_a_limit_back() {
        let limits = [("max-time", "9s"), ("max-bandwidth", "1MB/s"), ("give-way", "max-time")];
        let mut demands = set(&limits).unwrap();
        for (name, _) in limits {
            demands.set(name, "none").unwrap();
        }
        assert_eq!(demands, Demands::default());
        assert!(demands.set("max-stall", "none").is_err(), "there is always a longest stall");
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_name_and_the_remedy_and_changes_nothing() {
        let mut demands = Demands::default();
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
            let error = demands.set(name, text).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains(remedy), "{error}");
        }
        let error = demands.set("max-pain", "1").unwrap_err().to_string();
        assert!(error.contains("max-pain") && error.contains("max-stall"), "{error}");
        assert_eq!(demands, Demands::default());
    }

    #[test]
    fn a_file_or_the_web_gives_texts_numbers_and_lists() {
        let json = r#"{"max-stall": "1s", "aggression": 0.25, "give-way": ["max-time"], "max-time": null}"#;
        let read: Demands = serde_json::from_str(json).unwrap();
        assert_eq!(read.requirements.max_stall, Duration::from_secs(1));
        assert_eq!(read.requirements.give_way, [Requirement::MaxTime]);
        assert_eq!(read.aggression.get(), 0.25);
        let error = serde_json::from_str::<Demands>(r#"{"max-stall": 300}"#).unwrap_err();
        assert!(error.to_string().contains("300ms"), "{error}");
    }

    fn demands() -> impl Strategy<Value = Demands> {
        let limits =
            (proptest::option::of(1u64..1_000_000), proptest::option::of(10u64..10_000_000));
        let ways = proptest::sample::subsequence(Requirement::ALL.to_vec(), 0..=4);
        (limits, 0u32..=1000, 10u64..100_000, ways, 0u32..=100).prop_map(
            |((rate, time), share, stall, give_way, dial)| Demands {
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

    proptest! {
        #[test]
        fn what_is_written_reads_as_what_it_was(demands in demands()) {
            let text = serde_json::to_string(&demands).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Demands>(&text).unwrap(), &demands);
            let mut again = Demands::default();
            for demand in demands.beyond(&Demands::default()) {
                again.set(demand.name(), &demand.text()).unwrap();
            }
            prop_assert_eq!(again, demands);
        }

        #[test]
        fn no_text_makes_the_reader_panic(name in 0usize..6, text in "\\PC{0,16}") {
            let _ = Demand::read(Demand::NAMES[name], &text);
        }
    }
}
