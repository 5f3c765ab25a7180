//! How often the kernel's counters of a guest's vCPUs may be read.

use std::collections::VecDeque;
use std::time::Duration;

/// The counters are read no more often than once in so many times what reading them takes: with the samples,
/// which read them too, a fifth of one CPU at most. 256 held vCPUs take 11 ms (docs/measurements/looks.md).
const INTERVAL: u32 = 10;

/// The longest that reading them is put off: to steer comes first.
const LONGEST: Duration = Duration::from_millis(250);

/// The least of so many readings is what they take: more was other work of the machine.
const READINGS: usize = 8;

/// What the last readings took.
#[derive(Debug, Default)]
pub(super) struct CountersBudget(VecDeque<Duration>);

impl CountersBudget {
    /// Notes what a reading took.
    pub(super) fn note(&mut self, cost: Duration) {
        self.0.push_back(cost);
        if self.0.len() > READINGS {
            self.0.pop_front();
        }
    }

    /// Returns an interval, or a longer one where the counters of many vCPUs would take too much CPU time.
    pub(super) fn no_sooner(&self, interval: Duration) -> Duration {
        let cost = self.0.iter().min().copied().unwrap_or_default();
        interval.max((cost * INTERVAL).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(costs_ms: &[u64]) -> u128 {
        let mut budget = CountersBudget::default();
        costs_ms.iter().for_each(|ms| budget.note(Duration::from_millis(*ms)));
        budget.no_sooner(Duration::from_millis(20)).as_millis()
    }

    #[test]
    fn costly_counters_are_read_less_often() {
        assert_eq!(after(&[]), 20);
        assert_eq!(after(&[1]), 20);
        assert_eq!(after(&[11]), 110);
        assert_eq!(after(&[11, 500]), 110, "the machine did something else");
        assert_eq!(after(&[5, 11, 11, 11, 11, 11, 11, 11, 11]), 110, "held ones take longer");
        assert_eq!(after(&[500]), 250, "steering goes on");
    }
}
