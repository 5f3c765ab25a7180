//! Whether a scenario makes sense: what one value says against another, and bounds.

use std::time::Duration;

use landfall_core::units::{ByteRate, Bytes, PAGE};

use super::{GuestText, Scenario, ScenarioError};
use crate::policies;

/// Bounds that keep a scenario from taking endless time or all memory. No guest, link or reader of a
/// table comes near them.
const MOST_DRAWS: u32 = 100_000;
const SHORTEST_TURN: Duration = Duration::from_millis(10);
const MOST_PAGED: Bytes = Bytes(64 << 30);
const FASTEST_WRITER: ByteRate = ByteRate(100e9);

impl Scenario {
    pub(super) fn check(&self) -> Result<(), ScenarioError> {
        for name in &self.policies {
            // A script is a file; the caller that reads the scenario's file reads that as well.
            let script = name.strip_prefix(policies::SCRIPT).is_some_and(|file| !file.is_empty());
            if !script && !policies::names().contains(&name.as_str()) {
                let names = policies::names().join(", ");
                wrong("policies", name, format!("choose from {names}, {}FILE", policies::SCRIPT))?;
            }
        }
        if self.draws == 0 || self.draws > MOST_DRAWS {
            wrong("draws", self.draws, format!("choose 1 to {MOST_DRAWS}"))?;
        }
        self.guest.check()?;
        if self.link.rate.low.0 <= 0.0 {
            wrong(
                "link.rate",
                self.link.rate.low,
                "nothing would ever arrive; write a rate above 0",
            )?;
        }
        if !self.link.changes.is_sorted_by(|a, b| a.at.high <= b.at.low) {
            wrong("link.changes", "not in order of time", "write the earliest first")?;
        }
        if let Some(congestion) = self.link.congestion
            && congestion.every.low < SHORTEST_TURN
        {
            let every = format!("{:?}", congestion.every.low);
            wrong("link.congestion.every", every, format!("choose at least {SHORTEST_TURN:?}"))?;
        }
        if let Some(congestion) = self.link.congestion
            && congestion.lasts.high > congestion.every.low
        {
            let lasts = format!("{:?}", congestion.lasts.high);
            wrong(
                "link.congestion.lasts",
                lasts,
                "it cannot last longer than from one to the next",
            )?;
        }
        match self.requirements.aggression {
            Some(dial) if dial.high > 1.0 => {
                wrong("requirements.aggression", dial.high, "write a number from 0.0 to 1.0")
            }
            _ => Ok(()),
        }
    }
}

impl GuestText {
    fn check(&self) -> Result<(), ScenarioError> {
        let ways = [
            self.sets.is_some(),
            self.measured.is_some(),
            self.phases.is_some(),
            self.writers.is_some(),
        ];
        if ways.iter().filter(|way| **way).count() != 1 {
            let found = ways.iter().filter(|way| **way).count();
            let remedy = "say how it writes in exactly one of sets, measured, phases, writers \
                          (sets = [] is a guest that never writes)";
            wrong("guest", format!("{found} ways of writing"), remedy)?;
        }
        if self.vcpus == 0 || self.vcpus > 1024 {
            wrong("guest.vcpus", self.vcpus, "choose 1 to 1024")?;
        }
        if let Some(pace) = self.pace
            && pace.high > f64::from(self.vcpus)
        {
            wrong("guest.pace", pace.high, format!("at most {} CPUs can be busy", self.vcpus))?;
        }
        if self.memory.low < PAGE {
            wrong(
                "guest.memory",
                self.memory.low,
                "a guest has memory; write 256MiB, for example",
            )?;
        }
        for lasts in self.phases.iter().flatten().filter_map(|phase| phase.lasts) {
            if lasts.low < SHORTEST_TURN {
                let remedy = format!("choose at least {SHORTEST_TURN:?}");
                wrong("guest.phases.lasts", format!("{:?}", lasts.low), remedy)?;
            }
        }
        if self.writers.is_some() && self.memory.high > MOST_PAGED {
            let remedy =
                format!("page by page at most {MOST_PAGED} are simulated; write sets instead");
            wrong("guest.memory", self.memory.high, remedy)?;
        }
        for writer in self.writers.iter().flatten() {
            if writer.rate.high.0 > FASTEST_WRITER.0 {
                let remedy = format!("choose at most {FASTEST_WRITER}");
                wrong("guest.writers.rate", writer.rate.high, remedy)?;
            }
        }
        let contents = self.contents.unwrap_or(self.memory);
        if contents.high > self.memory.high {
            let remedy = format!("at most all of guest.memory ({}) has contents", self.memory.high);
            wrong("guest.contents", contents.high, remedy)?;
        }
        for phase in self.phases.iter().flatten() {
            if phase.sets.is_some() == phase.measured.is_some() {
                let remedy = "say how it writes in sets or in measured, not both";
                wrong("guest.phases", "a phase without a way of writing, or with two", remedy)?;
            }
        }
        let nested = self.phases.iter().flatten().filter_map(|phase| phase.sets.as_ref());
        let sets = self.sets.iter().chain(nested);
        let of_sets = sets.map(|sets| sets.iter().map(|set| set.memory.high).collect::<Vec<_>>());
        let of_writers = self.writers.iter().map(|all| all.iter().map(|w| w.memory.high).collect());
        for memory in of_sets.chain(of_writers) {
            let written: Bytes = memory.into_iter().sum();
            if written > contents.low {
                let remedy = format!(
                    "what is written is more than the contents ({}); make it less, or the guest larger",
                    contents.low
                );
                wrong("guest.sets", written, remedy)?;
            }
        }
        Ok(())
    }
}

fn wrong(key: &str, value: impl ToString, remedy: impl Into<String>) -> Result<(), ScenarioError> {
    Err(ScenarioError::Key { key: key.to_owned(), value: value.to_string(), remedy: remedy.into() })
}
