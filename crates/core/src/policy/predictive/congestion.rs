//! Whether the link is only congested for a while: then a hold would be planned for a link that is not
//! the guest's, and waiting for it at full speed costs no work.

use std::collections::VecDeque;

use super::current_plan::time_to_send;
use super::plan_cache::time_left;
use super::{ChosenPlan, Predictive};
use crate::decision::Decision;
use crate::telemetry::view::View;
use crate::units::{Moment, Share};

/// How long a faster link is remembered, in seconds.
const MEMORY: f64 = 20.0;

/// Part of its rate of before at which a link counts as congested: more than jitter does.
const CONGESTED: f64 = 0.75;

/// After so long, in seconds, the slower link is taken to be the link.
const PATIENCE: f64 = 8.0;

/// A rate with a greater relative error than this is not remembered.
const KNOWN: f64 = 0.2;

/// A hold that is over so soon, in seconds, is not lifted for a congested link.
const SOON: f64 = 0.5;

/// The link of late.
#[derive(Debug, Default)]
pub(super) struct Congestion {
    /// The highest rate of each second, the latest last.
    best: VecDeque<(u64, f64)>,
    since: Option<Moment>,
}

impl Congestion {
    /// Takes in what a view says of the link.
    pub(super) fn on_view(&mut self, view: &View) {
        let known = view.link_error.is_some_and(|error| error <= KNOWN);
        let Some(rate) = view.link.filter(|_| known).map(|rate| rate.0) else { return };
        let now = view.now.as_secs_f64();
        let second = now as u64;
        match self.best.back_mut() {
            Some((of, best)) if *of == second => *best = best.max(rate),
            _ => self.best.push_back((second, rate)),
        }
        while self.best.front().is_some_and(|(of, _)| now - *of as f64 > MEMORY) {
            self.best.pop_front();
        }
        let best = self.best.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        if rate >= CONGESTED * best {
            self.since = None;
        } else if now - self.since.get_or_insert(view.now).as_secs_f64() > PATIENCE {
            self.best = VecDeque::from([(second, rate)]);
            self.since = None;
        }
    }

    /// How long it is worth to wait for the link, in seconds; `None` where it is as it was.
    pub(super) fn time_to_wait(&self, now: Moment) -> Option<f64> {
        self.since.map(|since| PATIENCE - now.since(since).as_secs_f64())
    }
}

impl Predictive {
    /// Whether to leave the guest at full speed until the link is what it was: while there is time, and
    /// where the wait costs less than the work that may be saved by it.
    pub(super) fn should_wait_for_link(&self, view: &View, chosen: &ChosenPlan) -> bool {
        let ChosenPlan { plan, inputs, constraints } = chosen;
        let Some(wait) = self.congestion.time_to_wait(view.now).map(|most| most / 2.0) else {
            return false;
        };
        let soon =
            self.last_hold.is_held() && plan.cost.passes <= 1 && time_to_send(view, inputs) < SOON;
        let in_time = wait + 2.0 * plan.cost.total <= time_left(constraints, view);
        let worth =
            inputs.weight * inputs.cpu_demand.0 * wait <= (1.0 - inputs.weight) * plan.cost.lost.0;
        in_time && worth && !soon
    }

    /// Leaves the guest at full speed.
    pub(super) fn wait_out_congestion(&mut self, view: &View) -> Decision {
        self.schedule.steering = true;
        self.hold_all(view, Share::FULL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::view;
    use crate::units::ByteRate;

    /// What there is to wait for after seconds at these rates.
    fn after(rates: impl IntoIterator<Item = u64>) -> Option<f64> {
        let mut congestion = Congestion::default();
        let mut now = Moment::START;
        for (second, rate) in rates.into_iter().enumerate() {
            now = Moment::ms(second as u64 * 1000);
            congestion.on_view(&View { now, link: Some(ByteRate::mb(rate)), ..view() });
        }
        congestion.time_to_wait(now)
    }

    #[test]
    fn a_link_that_was_faster_a_moment_ago_is_waited_for() {
        assert_eq!(after([100, 100, 90]), None);
        assert_eq!(after([100, 100, 50, 40]), Some(PATIENCE - 1.0));
        assert_eq!(after([100, 100, 50, 40, 100]), None);
    }

    #[test]
    fn a_link_that_stays_slow_is_the_link() {
        assert_eq!(after([100].into_iter().chain([50; 11])), None);
    }
}
