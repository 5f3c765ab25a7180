//! Where requirements conflict: which, and what would resolve it.

use std::time::Duration;

use super::{Allowed, Position, STEERING, Table};
use crate::requirements::Requirement;
use crate::units::{ByteRate, show_duration};
use crate::view::View;

/// Why a guest cannot be landed within what was asked, in words, and for each requirement by itself
/// the change that would resolve it.
pub fn conflict(view: &View) -> String {
    let Some(guest) = view.guest() else { return "nothing is known of the guest".to_owned() };
    let asked = &view.requirements;
    let held = match Allowed::all(asked).tightest(view).get() {
        share if share >= 1.0 => "its vCPUs cannot be held".to_owned(),
        share => format!("even held to {:.1} %", share * 100.0),
    };
    let mut ways = Vec::new();
    if let Some(stall) = least_stall(view) {
        ways.push(format!("raise --max-stall to {}", show_duration(stall)));
    }
    if let Some(rate) = least_bandwidth(view) {
        ways.push(format!("raise the bandwidth to {rate}"));
    }
    let freed = Allowed::all(asked).without(Requirement::MinCpu);
    if asked.min_cpu.get() > 0.0 && lands(view, &freed, None) {
        ways.push("lower --min-cpu".to_owned());
    }
    ways.push("allow a longer pause (--give-way max-stall)".to_owned());
    format!(
        "the guest writes {} of memory again and again; {held}, it cannot be landed within \
         --max-stall {}: {}",
        guest.curve.working_set(),
        show_duration(asked.max_stall),
        ways.join(", or ")
    )
}

/// Whether there is a plan, over the link as it is or another one.
fn lands(view: &View, allowed: &Allowed, link: Option<ByteRate>) -> bool {
    let other = link.map(|rate| View { link: Some(rate), ..view.clone() });
    let view = other.as_ref().unwrap_or(view);
    let (Some(guest), Some(terms)) = (view.guest(), allowed.terms(view)) else { return false };
    let start = view.contents.unwrap_or(view.total);
    let from = Position { remaining: start, used: Default::default(), may_ship: false };
    Table::new(guest.curve.clone(), terms, start.as_f64(), STEERING).plan(from).is_some()
}

/// The least stall that lands it, rounded up to a tenth of a second; `None` where a minute does not.
fn least_stall(view: &View) -> Option<Duration> {
    let asked = Allowed::all(&view.requirements);
    let with = |stall: f64| Allowed { max_stall: Some(Duration::from_secs_f64(stall)), ..asked };
    let least = search(0.05, 60.0, |stall| lands(view, &with(stall), None))?;
    Some(Duration::from_secs_f64((least * 1.05 * 10.0).ceil() / 10.0))
}

/// The least bandwidth that lands it; `None` where a hundredfold does not.
fn least_bandwidth(view: &View) -> Option<ByteRate> {
    let asked = Allowed::all(&view.requirements);
    let now = view.link?.0;
    let least = search(now, now * 100.0, |rate| lands(view, &asked, Some(ByteRate(rate))))?;
    Some(ByteRate((least * 1.05 / 1e6).ceil() * 1e6))
}

/// The least value between two for which something holds that holds for all greater ones.
fn search(low: f64, high: f64, holds: impl Fn(f64) -> bool) -> Option<f64> {
    if !holds(high) {
        return None;
    }
    let (mut low, mut high) = (low, high);
    while high / low > 1.02 {
        let middle = (low * high).sqrt();
        if holds(middle) { high = middle } else { low = middle }
    }
    Some(high)
}
