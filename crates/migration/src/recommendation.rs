//! Chooses the aggression to recommend.

use landfall_core::planner::implications::{Implication, ImplicationVerdict};
use landfall_core::requirements::{Aggression, Requirements};
use serde::Serialize;

/// The aggression to take, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recommendation {
    /// The aggression.
    pub aggression: Aggression,
    /// Why this one.
    pub why: String,
}

/// Work lost beyond the least counts as equal within this factor and these seconds: chance makes such a
/// difference.
const EQUAL_LOSS: (f64, f64) = (1.1, 0.05);

/// Returns the setting that takes the least work from the guest, among those most certain to keep all
/// requirements; of those that take about as little, the one that ends soonest. `None` if none lands.
pub fn recommend(all: &[Implication], asked: &Requirements) -> Option<Recommendation> {
    let may_be = |one: &&Implication| one.broken.iter().all(|name| asked.may_break(*name));
    let landing =
        || all.iter().filter(|one| one.verdict == ImplicationVerdict::Lands).filter(may_be);
    let sure = || landing().filter(|one| one.keeps_all());
    let likely = || landing().filter(|one| one.broken.is_empty());
    let (aggression, how) = None
        .or_else(|| {
            Some((gentlest(sure())?, "all requirements are kept, even at the far end of the range"))
        })
        .or_else(|| Some((gentlest(likely())?, "all requirements are likely to be kept")))
        .or_else(|| Some((gentlest(landing())?, "something has to give way at every setting")))?;
    let why = match asked.max_time {
        _ if makes_no_difference(all) => "every setting comes to the same",
        None => "it takes the least work from the guest, and of those that do it ends soonest",
        Some(_) => {
            "of the settings in time it takes the least work from the guest, and of those that do it \
             ends soonest"
        }
    };
    Some(Recommendation { aggression, why: format!("{why}; {how}") })
}

/// Returns work lost and total time.
fn figures(one: &Implication) -> Option<(f64, f64)> {
    let forecast = one.forecast?;
    Some((forecast.guest_cpu_lost_s.mid, forecast.total_s.mid))
}

fn gentlest<'a>(all: impl Iterator<Item = &'a Implication>) -> Option<Aggression> {
    let known = |one: &'a Implication| figures(one).map(|figures| (one.aggression, figures));
    let mut few: Vec<(Aggression, (f64, f64))> = all.filter_map(known).collect();
    let least = few.iter().map(|(_, (lost, _))| *lost).min_by(f64::total_cmp)?;
    few.retain(|(_, (lost, _))| *lost <= least * EQUAL_LOSS.0 + EQUAL_LOSS.1);
    let soonest = few.iter().map(|(_, (_, total))| *total).min_by(f64::total_cmp)?;
    few.retain(|(_, (_, total))| *total <= soonest * EQUAL_TIME);
    // The default where it is as good as any other.
    let default = few.iter().find(|(dial, _)| *dial == Aggression::DEFAULT);
    default.or(few.first()).map(|(dial, _)| *dial)
}

/// Total times within this factor count as equal.
const EQUAL_TIME: f64 = 1.02;

fn makes_no_difference(all: &[Implication]) -> bool {
    let Some((lost, total)) = all.first().and_then(figures) else { return false };
    let near = |a: f64, b: f64, times: f64, more: f64| a.max(b) <= a.min(b) * times + more;
    let same = |(other, time): (f64, f64)| {
        near(lost, other, EQUAL_LOSS.0, EQUAL_LOSS.1) && near(total, time, EQUAL_TIME, 0.0)
    };
    all.iter().all(|one| figures(one).is_some_and(same))
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::planner::implications::dial;
    use landfall_core::report::{Forecast, ForecastRange};

    /// Settings with these losses and totals, all landing.
    fn settings(figures: [(f64, f64); 11], asked: &Requirements) -> Vec<Implication> {
        let range = |mid: f64| ForecastRange { low: mid * 0.9, mid, high: mid * 1.1 };
        let one = |(dial, (lost, total)): (Aggression, (f64, f64))| {
            let forecast = Forecast {
                total_s: range(total),
                longest_stall_s: range(0.2),
                guest_cpu_lost_s: range(lost),
                min_cpu_share: range(0.5),
                transferred_bytes: range(1e9),
            };
            Implication::of(dial, ImplicationVerdict::Lands, forecast, asked)
        };
        dial().zip(figures).map(one).collect()
    }

    fn falling() -> [(f64, f64); 11] {
        std::array::from_fn(|notch| {
            let notch = notch as f64;
            (if notch < 4.0 { 1.0 } else { notch }, 10.0 - notch * 0.5)
        })
    }

    #[test]
    fn of_those_that_take_about_as_little_work_the_soonest_is_taken() {
        let asked = Requirements::default();
        let taken = recommend(&settings(falling(), &asked), &asked).unwrap();
        assert_eq!(taken.aggression.get(), 0.3);
    }

    #[test]
    fn a_time_that_a_gentle_setting_may_not_keep_takes_a_faster_one() {
        let asked = Requirements {
            max_time: Some(std::time::Duration::from_secs_f64(7.75)),
            ..Requirements::default()
        };
        let taken = recommend(&settings(falling(), &asked), &asked).unwrap();
        assert_eq!(taken.aggression.get(), 0.6, "{}", taken.why);
    }

    #[test]
    fn where_the_dial_makes_no_difference_its_middle_is_taken() {
        let asked = Requirements::default();
        let taken = recommend(&settings([(0.1, 3.0); 11], &asked), &asked).unwrap();
        assert_eq!(taken.aggression, Aggression::DEFAULT);
        assert!(taken.why.contains("same"), "{}", taken.why);
    }

    #[test]
    fn where_nothing_lands_nothing_is_recommended() {
        let refused = |dial| Implication::without_figures(dial, ImplicationVerdict::Refused);
        let all: Vec<Implication> = dial().map(refused).collect();
        assert_eq!(recommend(&all, &Requirements::default()), None);
    }
}
