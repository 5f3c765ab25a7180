//! Scenarios: what to simulate, as a text that people read and write.
//!
//! ```toml
//! about = "A guest of the middle"
//! policies = ["auto-converge", "progressive"]   # all that can run, where none are named
//! draws = 20                                    # how often, each time with other values of the ranges
//! probe = "3s"                                  # how long the guest is watched before; "0s" for not at all
//!
//! [guest]
//! memory = "256MiB"
//! contents = ["100MiB", "200MiB"]               # a range: each draw draws from it
//! sets = [{ memory = "90MiB", rate = "50MB/s" }]
//!
//! [link]
//! rate = "100MB/s"
//!
//! [requirements]
//! give-way = ["max-stall"]
//! ```
//!
//! How the guest writes is said in one of four ways: `sets` of pages written at random, `measured`
//! points of a dirty curve, `phases` of either, or `writers`, which are simulated page by page.

mod check;
mod value;

use std::time::Duration;

use landfall_core::model::prior::PROBE_BUDGET;
use landfall_core::model::{self, Component, CurvePoint, DirtyCurve};
use landfall_core::requirements::{Aggression, Requirement, Requirements};
use landfall_core::telemetry::view::Levers;
use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime, Moment, PAGE, Share};
use serde::Deserialize;

use crate::guest::{CurvePhase, Guest, Order, Writer, Writes};
use crate::link::{Change, Link, LinkCongestion, SwitchOver};
use crate::policies;
use crate::probe::probe;
use crate::rng::{Draws, Seed};
use crate::run::Setup;
use value::Value;

/// What the chances of the probe follow from, apart from those of the run.
const PROBE: u64 = 5;

/// How often a scenario is drawn that does not say.
const DRAWS: u32 = 20;

/// A scenario that was read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is, in a sentence.
    #[serde(default)]
    pub about: String,
    /// The policies to compare. Empty: all that the scenario lets run.
    #[serde(default)]
    pub policies: Vec<String>,
    /// The seed of the draws, unless another is asked for.
    #[serde(default = "default_seed")]
    pub seed: Seed,
    /// How many migrations there are by each policy.
    #[serde(default = "default_draws")]
    pub draws: u32,
    /// How long the guest is watched before the start.
    #[serde(default = "default_probe")]
    probe: Value<Duration>,
    guest: GuestText,
    link: LinkText,
    #[serde(default)]
    requirements: RequirementsText,
    /// Instead of what the file says.
    #[serde(skip)]
    dial: Option<Aggression>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestText {
    memory: Value<Bytes>,
    contents: Option<Value<Bytes>>,
    #[serde(default = "one")]
    vcpus: u32,
    /// CPUs it keeps busy when nothing holds it.
    pace: Option<Value<f64>>,
    sets: Option<Vec<SetText>>,
    measured: Option<Vec<PointText>>,
    phases: Option<Vec<PhaseText>>,
    writers: Option<Vec<WriterText>>,
}

/// Pages written at random.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetText {
    memory: Value<Bytes>,
    /// Bytes of pages written per second of CPU, the same page as often as it comes.
    rate: Value<ByteRate>,
}

/// A point of a dirty curve as it is published: a rate over a time.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PointText {
    over: Value<Duration>,
    rate: Value<ByteRate>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct PhaseText {
    /// In CPU time; endless where it is missing.
    lasts: Option<Value<Duration>>,
    sets: Option<Vec<SetText>>,
    measured: Option<Vec<PointText>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct WriterText {
    memory: Value<Bytes>,
    rate: Value<ByteRate>,
    order: OrderText,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OrderText {
    Random,
    Sweep,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct LinkText {
    rate: Value<ByteRate>,
    jitter: Option<Value<Share>>,
    #[serde(default)]
    changes: Vec<ChangeText>,
    congestion: Option<CongestionText>,
    switch_over: Option<SwitchOverText>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeText {
    at: Value<Duration>,
    rate: Value<ByteRate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct CongestionText {
    every: Value<Duration>,
    lasts: Value<Duration>,
    leaves: Value<Share>,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct SwitchOverText {
    unhurried: Option<Value<Duration>>,
    hurried: Option<Value<Duration>>,
    buffer: Option<Value<Bytes>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RequirementsText {
    max_bandwidth: Option<Value<ByteRate>>,
    min_cpu: Option<Value<Share>>,
    max_stall: Option<Value<Duration>>,
    max_time: Option<Value<Duration>>,
    #[serde(default)]
    give_way: Vec<Requirement>,
    aggression: Option<Value<f64>>,
    #[serde(default)]
    post_copy: PostCopyText,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PostCopyText {
    #[default]
    Never,
    Allow,
}

fn default_seed() -> Seed {
    Seed(1)
}

fn default_draws() -> u32 {
    DRAWS
}

fn default_probe() -> Value<Duration> {
    Value::only(PROBE_BUDGET)
}

fn one() -> u32 {
    1
}

/// Why a text is not a scenario.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    /// It cannot be read: a key that there is not, a value without its unit. With the place.
    #[error("{0}")]
    Text(String),
    /// It contradicts itself, or asks for what there is not.
    #[error("{key} = {value}: {remedy}")]
    Key {
        /// The key.
        key: String,
        /// Its value, as it was understood.
        value: String,
        /// What to write instead.
        remedy: String,
    },
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// [`ScenarioError`] with key, value and remedy.
    pub fn parse(text: &str) -> Result<Scenario, ScenarioError> {
        let scenario: Scenario =
            toml::from_str(text).map_err(|error| ScenarioError::Text(error.to_string()))?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The names of the policies to compare: those that are named, or all that can run here.
    pub fn policies(&self) -> Vec<String> {
        if !self.policies.is_empty() {
            return self.policies.clone();
        }
        let allowed = self.requirements.post_copy == PostCopyText::Allow;
        let runs = |name: &&str| allowed || *name != "post-copy";
        policies::names().into_iter().filter(runs).map(str::to_owned).collect()
    }

    /// The same at another aggression.
    #[must_use]
    pub fn at(&self, aggression: Aggression) -> Scenario {
        let mut scenario = self.clone();
        scenario.dial = Some(aggression);
        scenario
    }

    /// What is simulated with the values that follow from a seed.
    pub fn draw(&self, seed: Seed) -> Setup {
        let draws = &mut Draws::of(seed);
        let guest = self.guest.draw(draws);
        let link = self.link.draw(draws);
        let asked = &self.requirements;
        let requirements = Requirements {
            max_bandwidth: asked.max_bandwidth.map(|value| value.draw(draws)),
            min_cpu: asked.min_cpu.map_or(Share::NONE, |value| value.draw(draws)),
            max_stall: asked
                .max_stall
                .map_or(Requirements::default().max_stall, |value| value.draw(draws)),
            max_time: asked.max_time.map(|value| value.draw(draws)),
            give_way: asked.give_way.clone(),
        };
        let aggression = asked.aggression.map(|value| value.draw(draws));
        let budget = self.probe.draw(draws);
        let setup = Setup::new(guest, link);
        let limit = requirements.max_bandwidth.unwrap_or(setup.qemu.max_bandwidth);
        let prior = probe(&setup.guest, limit, budget, seed.fork(PROBE));
        Setup {
            prior,
            requirements,
            aggression: self.dial.or(aggression.and_then(Aggression::new)).unwrap_or_default(),
            levers: Levers { post_copy: asked.post_copy == PostCopyText::Allow, ..setup.levers },
            ..setup
        }
    }
}

impl GuestText {
    fn draw(&self, draws: &mut Draws) -> Guest {
        let memory = self.memory.draw(draws);
        let contents = self.contents.map_or(memory, |value| value.draw(draws).min(memory));
        let all = f64::from(self.vcpus);
        let cpu_demand = CpuDemand(self.pace.map_or(all, |value| value.draw(draws)));
        let writes = if let Some(writers) = &self.writers {
            Writes::Pages(writers.iter().map(|writer| writer.draw(draws)).collect())
        } else if let Some(phases) = &self.phases {
            Writes::Curve(phases.iter().map(|phase| phase.draw(contents, draws)).collect())
        } else {
            let curve = curve_of(self.sets.as_deref(), self.measured.as_deref(), contents, draws);
            Writes::Curve(vec![CurvePhase::forever(curve)])
        };
        Guest { memory, contents, vcpus: self.vcpus, cpu_demand, writes }
    }
}

impl PhaseText {
    fn draw(&self, contents: Bytes, draws: &mut Draws) -> CurvePhase {
        let lasts = self.lasts.map_or(f64::INFINITY, |value| value.draw(draws).as_secs_f64());
        let curve = curve_of(self.sets.as_deref(), self.measured.as_deref(), contents, draws);
        CurvePhase { lasts: CpuTime(lasts), curve }
    }
}

impl WriterText {
    fn draw(&self, draws: &mut Draws) -> Writer {
        let (set, rate) = (self.memory.draw(draws), self.rate.draw(draws));
        let order = match self.order {
            OrderText::Random => Order::Random,
            OrderText::Sweep => Order::Sweep,
        };
        Writer { set, pages: rate.0 / PAGE.as_f64(), order }
    }
}

/// The curve of sets of pages, or through measured points of a guest with so much contents.
fn curve_of(
    sets: Option<&[SetText]>,
    measured: Option<&[PointText]>,
    contents: Bytes,
    draws: &mut Draws,
) -> DirtyCurve {
    let mut part = |set: &SetText| {
        let (memory, rate) = (set.memory.draw(draws), set.rate.draw(draws));
        Component { set: memory, time: CpuTime(memory.as_f64() / rate.0) }
    };
    if let Some(sets) = sets {
        return DirtyCurve::new(sets.iter().map(&mut part).collect::<Vec<_>>());
    }
    let mut point = |point: &PointText| {
        let (over, rate) = (point.over.draw(draws), point.rate.draw(draws));
        CurvePoint { cpu: over.into(), dirtied: rate.over(over), error: MEASURED }
    };
    let points: Vec<CurvePoint> = measured.into_iter().flatten().map(&mut point).collect();
    model::fit(&points, Some(contents))
}

/// How nearly a curve goes through points that were published without an error.
const MEASURED: f64 = 0.02;

impl LinkText {
    fn draw(&self, draws: &mut Draws) -> Link {
        let rate = self.rate.draw(draws);
        let jitter = self.jitter.map_or(0.0, |value| value.draw(draws).get());
        let mut change = |change: &ChangeText| Change {
            at: Moment(change.at.draw(draws)),
            rate: change.rate.draw(draws),
        };
        let changes = self.changes.iter().map(&mut change).collect();
        let congestion = self.congestion.map(|text| LinkCongestion {
            every: text.every.draw(draws),
            lasts: text.lasts.draw(draws),
            leaves: text.leaves.draw(draws),
        });
        let usual = SwitchOver::default();
        let switch_over = self.switch_over.map_or(usual, |text| SwitchOver {
            unhurried: text.unhurried.map_or(usual.unhurried, |value| value.draw(draws)),
            hurried: text.hurried.map_or(usual.hurried, |value| value.draw(draws)),
            buffer: text.buffer.map_or(usual.buffer, |value| value.draw(draws)),
        });
        Link { rate, jitter, changes, congestion, switch_over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
        [guest]
        memory = '256MiB'
        contents = ['100MiB', '200MiB']
        sets = [{ memory = '90MiB', rate = '50MB/s' }]
        [link]
        rate = '100MB/s'
        [requirements]
        min-cpu = '20%'
        give-way = ['max-stall']
    ";

    #[test]
    fn a_range_is_drawn_from_the_seed_and_a_single_value_is_kept() {
        let scenario = Scenario::parse(GOOD).unwrap();
        let contents = |seed| scenario.draw(Seed(seed)).guest.contents;
        assert_eq!(contents(1), contents(1));
        assert_ne!(contents(1), contents(2));
        for seed in 0..100 {
            let setup = scenario.draw(Seed(seed));
            assert!((Bytes::mib(100)..=Bytes::mib(200)).contains(&setup.guest.contents));
            assert_eq!(setup.guest.memory, Bytes::mib(256));
            assert_eq!(setup.requirements.min_cpu, Share::clamped(0.2));
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_the_key_the_value_and_the_remedy() {
        for (good, bad, words) in [
            ("rate = '100MB/s'", "rate = 100", vec!["rate", "100", "100MB/s"]),
            ("rate = '100MB/s'", "rate = '100'", vec!["rate", "100", "100MB/s"]),
            ("rate = '100MB/s'", "rate = ['2MB/s', '1MB/s']", vec!["rate", "[low, high]"]),
            ("rate = '100MB/s'", "speed = '1MB/s'", vec!["speed", "rate"]),
            ("'90MiB'", "'190MiB'", vec!["guest.sets", "MB", "larger"]),
            ("'200MiB'", "'2000MiB'", vec!["guest.contents", "2.10 GB", "guest.memory"]),
            ("'max-stall'", "'max-pain'", vec!["give-way", "max-pain", "max-stall"]),
            ("[guest]", "policies = ['magic']\n[guest]", vec!["policies", "magic", "progressive"]),
            ("[guest]", "[guest]\nvcpus = 0", vec!["guest.vcpus", "0", "1 to 1024"]),
            ("sets =", "writers = []\nsets =", vec!["guest", "exactly one"]),
            ("[guest]", "draws = 0\n[guest]", vec!["draws", "0", "1 to"]),
            ("memory = '256MiB'", "memory = '0B'", vec!["guest.memory", "256MiB"]),
            ("min-cpu", "aggression = 3.0\nmin-cpu", vec!["aggression", "3", "1.0"]),
        ] {
            let error = Scenario::parse(&GOOD.replace(good, bad)).unwrap_err().to_string();
            for word in words {
                assert!(error.contains(word), "{word:?} is not in: {error}");
            }
        }
    }

    #[test]
    fn a_guest_is_probed_unless_the_scenario_says_not_to() {
        let prior = |text: &str| Scenario::parse(text).unwrap().draw(Seed(1)).prior;
        let found = prior(GOOD);
        assert!(found.points.len() == 5 && found.contents > Some(Bytes::mib(100)));
        assert_eq!(found, prior(GOOD));
        let blind = prior(&GOOD.replace("[guest]", "probe = '0s'\n[guest]"));
        assert_eq!((blind.points.len(), blind.contents), (0, None));
    }

    #[test]
    fn post_copy_runs_only_where_it_is_allowed() {
        let policies = |text: &str| Scenario::parse(text).unwrap().policies();
        assert!(!policies(GOOD).contains(&"post-copy".to_owned()));
        let allowed = GOOD.replace("min-cpu", "post-copy = 'allow'\nmin-cpu");
        assert!(policies(&allowed).contains(&"post-copy".to_owned()));
    }
}
