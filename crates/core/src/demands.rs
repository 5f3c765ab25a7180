//! All that an operator demands, how it is changed while a migration runs, and what was changed.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::requirements::{Aggression, Requirement, Requirements};
use crate::units::{ByteRate, Share, parse_duration, show_duration};

/// The requirements and the second dial of 2011.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Demands {
    /// The limits, and which of them may give way.
    pub requirements: Requirements,
    /// Where between the limits.
    pub aggression: Aggression,
}

/// One demand, as it is to be from now on.
#[derive(Debug, Clone, PartialEq)]
pub enum Demand {
    /// `None`: what the hypervisor was found set to.
    MaxBandwidth(Option<ByteRate>),
    /// See [`Requirements::min_cpu`].
    MinCpu(Share),
    /// See [`Requirements::max_stall`].
    MaxStall(Duration),
    /// Counts from the start of the migration, whenever it is set.
    MaxTime(Option<Duration>),
    /// See [`Requirements::give_way`].
    GiveWay(Vec<Requirement>),
    /// The second dial.
    Aggression(Aggression),
}

/// A demand that was another before, for the report and for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When, in seconds after the start.
    pub at_s: f64,
    /// Its name on the command line, without the dashes.
    pub name: String,
    /// What was demanded, in words.
    pub was: String,
    /// What is demanded now, in words.
    pub now: String,
}

impl Demand {
    /// The names on the command line, without the dashes.
    pub const NAMES: [&str; 6] =
        ["max-bandwidth", "min-cpu", "max-stall", "max-time", "give-way", "aggression"];

    /// Reads a demand by its name, as it is written on the command line; `none` takes back what need
    /// not be demanded.
    ///
    /// # Errors
    /// In words: what is wrong with it, and what to write.
    pub fn parse(name: &str, text: &str) -> Result<Demand, String> {
        let given = Some(text.trim()).filter(|text| *text != "none");
        let wrong = |error: &dyn fmt::Display| format!("{error}");
        Ok(match (name, given) {
            ("max-bandwidth", rate) => Demand::MaxBandwidth(rate.map(some_bandwidth).transpose()?),
            ("min-cpu", _) => Demand::MinCpu(text.parse().map_err(|error| wrong(&error))?),
            ("max-stall", _) => Demand::MaxStall(some_time(text)?),
            ("max-time", time) => Demand::MaxTime(time.map(some_time).transpose()?),
            ("give-way", None | Some("")) => Demand::GiveWay(Vec::new()),
            ("give-way", Some(list)) => {
                let order: Result<_, _> = list.split(',').map(str::parse).collect();
                Demand::GiveWay(order.map_err(|error| wrong(&error))?)
            }
            ("aggression", _) => Demand::Aggression(text.parse().map_err(|error| wrong(&error))?),
            _ => {
                let names = Demand::NAMES.join(", ");
                return Err(format!("there is no demand {name:?}; choose from {names}"));
            }
        })
    }
}

/// A bandwidth above zero: to QEMU, zero means no limit at all.
fn some_bandwidth(text: &str) -> Result<ByteRate, String> {
    match text.parse::<ByteRate>() {
        Ok(rate) if rate.per_second() == 0 => {
            Err(format!("nothing can be sent at {text}; write none for QEMU's own limit"))
        }
        Ok(rate) => Ok(rate),
        Err(error) => Err(error.to_string()),
    }
}

/// A time long enough to be kept.
fn some_time(text: &str) -> Result<Duration, String> {
    const SHORTEST: Duration = Duration::from_millis(10);
    match parse_duration(text) {
        Ok(time) if time < SHORTEST => Err(format!(
            "no migration keeps {text}: a switch-over alone takes some tens of ms; write more"
        )),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

impl Demands {
    /// Replaces one demand.
    pub fn set(&mut self, demand: Demand) {
        let asked = &mut self.requirements;
        match demand {
            Demand::MaxBandwidth(rate) => asked.max_bandwidth = rate,
            Demand::MinCpu(share) => asked.min_cpu = share,
            Demand::MaxStall(time) => asked.max_stall = time,
            Demand::MaxTime(time) => asked.max_time = time,
            Demand::GiveWay(order) => asked.give_way = order,
            Demand::Aggression(aggression) => self.aggression = aggression,
        }
    }

    /// Each demand by its name, in words.
    pub fn in_words(&self) -> [(&'static str, String); 6] {
        let Requirements { max_bandwidth, min_cpu, max_stall, max_time, give_way } =
            &self.requirements;
        let order: Vec<&str> = give_way.iter().map(|requirement| requirement.name()).collect();
        let order = if order.is_empty() { "none".to_owned() } else { order.join(",") };
        let values = [
            max_bandwidth.map_or_else(|| "what QEMU is set to".to_owned(), |rate| rate.to_string()),
            min_cpu.to_string(),
            show_duration(*max_stall),
            max_time.map_or_else(|| "none".to_owned(), show_duration),
            order,
            self.aggression.get().to_string(),
        ];
        let mut values = values.into_iter();
        Demand::NAMES.map(|name| (name, values.next().unwrap_or_default()))
    }

    /// What is another than before, in words.
    pub fn since(&self, before: &Demands, at_s: f64) -> Vec<Change> {
        let pairs = before.in_words().into_iter().zip(self.in_words());
        let changed = pairs.zip(self.differs(before)).filter(|(_, differs)| *differs);
        let change = |((name, was), (_, now)): ((&str, String), (&str, String))| Change {
            at_s,
            name: name.to_owned(),
            was,
            now,
        };
        changed.map(|(pair, _)| change(pair)).collect()
    }

    /// Which demands are others than before, in the order of [`Demand::NAMES`].
    fn differs(&self, before: &Demands) -> [bool; 6] {
        let (now, was) = (&self.requirements, &before.requirements);
        [
            now.max_bandwidth != was.max_bandwidth,
            now.min_cpu != was.min_cpu,
            now.max_stall != was.max_stall,
            now.max_time != was.max_time,
            now.give_way != was.give_way,
            self.aggression != before.aggression,
        ]
    }
}

impl Requirements {
    /// Whether this requirement is harder to keep than it was. What was measured before cannot be
    /// held against it then.
    pub fn is_tighter(&self, before: &Requirements, requirement: Requirement) -> bool {
        let lower = |now: Option<f64>, was: Option<f64>| {
            now.is_some_and(|now| was.is_none_or(|was| now < was))
        };
        match requirement {
            Requirement::MaxBandwidth => lower(
                self.max_bandwidth.map(|rate| rate.0),
                before.max_bandwidth.map(|rate| rate.0),
            ),
            Requirement::MinCpu => self.min_cpu > before.min_cpu,
            Requirement::MaxStall => self.max_stall < before.max_stall,
            Requirement::MaxTime => lower(
                self.max_time.map(|time| time.as_secs_f64()),
                before.max_time.map(|time| time.as_secs_f64()),
            ),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "--{} {} (was {})", self.name, self.now, self.was)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(changes: &[(&str, &str)]) -> Demands {
        let mut demands = Demands::default();
        for (name, text) in changes {
            demands.set(Demand::parse(name, text).unwrap());
        }
        demands
    }

    #[test]
    fn each_demand_is_set_by_its_name_on_the_command_line_and_told_in_words() {
        let all = [
            ("max-bandwidth", "100MB/s"),
            ("min-cpu", "20%"),
            ("max-stall", "500ms"),
            ("max-time", "90s"),
            ("give-way", "max-stall,min-cpu"),
            ("aggression", "0.8"),
        ];
        let changes = with(&all).since(&Demands::default(), 1.5);
        let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
        assert_eq!(names, Demand::NAMES);
        assert_eq!(changes[2].to_string(), "--max-stall 500 ms (was 300 ms)");
        assert_eq!(changes[4].to_string(), "--give-way max-stall,min-cpu (was none)");
        assert_eq!(with(&all).since(&with(&all), 2.0), []);
    }

    #[test]
    fn what_need_not_be_demanded_is_taken_back() {
        let given = [("max-bandwidth", "9MB/s"), ("max-time", "9s"), ("give-way", "max-time")];
        let taken = given.map(|(name, _)| (name, "none"));
        assert_eq!(with(&[given, taken].concat()), Demands::default());
    }

    #[test]
    fn nonsense_is_refused_with_the_remedy() {
        for (name, text, remedy) in [
            ("max-bandwidth", "100", "100MB/s"),
            ("max-bandwidth", "0MB/s", "none"),
            ("min-cpu", "140%", "20%"),
            ("min-cpu", "none", "20%"),
            ("max-stall", "none", "300ms"),
            ("max-stall", "1ms", "some tens of ms"),
            ("give-way", "max-pain", "max-stall"),
            ("aggression", "NaN", "0.0"),
            ("speed", "high", "max-bandwidth"),
        ] {
            let error = Demand::parse(name, text).unwrap_err();
            assert!(error.contains(remedy), "{name} {text}: {error}");
        }
    }

    #[test]
    fn tighter_is_what_is_harder_to_keep() {
        let asked = |changes: &[(&str, &str)]| with(changes).requirements;
        let loose = asked(&[("max-stall", "1s")]);
        let tight = asked(&[("max-bandwidth", "9MB/s"), ("min-cpu", "20%"), ("max-time", "9s")]);
        for requirement in Requirement::ALL {
            assert!(tight.is_tighter(&loose, requirement), "{requirement}");
            assert!(!loose.is_tighter(&tight, requirement), "{requirement}");
            assert!(!loose.is_tighter(&loose, requirement), "{requirement}");
        }
    }
}
