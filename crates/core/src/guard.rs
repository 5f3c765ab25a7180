//! Keeps every policy, however written, within the requirements.
//!
//! A policy decides freely; its decision passes here before anything acts on it. The guard
//! only ever makes a decision gentler or ends the migration: it never holds a vCPU that the policy
//! left free.

use std::time::Duration;

use crate::decision::{Decision, Finish, Hold, Tuning};
use crate::quota::Quota;
use crate::requirements::Requirement;
use crate::telemetry::view::{Phase, View};
use crate::units::{ByteRate, Moment, show_duration};

/// The decision as it may be carried out under the view's requirements.
pub fn enforce(view: &View, decision: Decision) -> Decision {
    let Decision { holds, tuning, finish, reason: why } = decision;
    let (finish, why) = match finish {
        Some(Finish::Ship) if !view.fits_downtime() => {
            (None, format!("{why}; {}", too_long(view)).into())
        }
        Some(Finish::PostCopy) if !view.levers.post_copy => {
            (None, format!("{why}; post-copy is not allowed").into())
        }
        finish => (finish, why),
    };
    if let Some(ending) = out_of_time(view)
        && (finish.is_none() || replaces_shipment(view, finish.as_ref(), &ending))
    {
        return ending;
    }
    let holds = holds.into_iter().map(|hold| clamp_hold(view, hold)).collect();
    Decision { holds, tuning: tuned_within(view, tuning), finish, reason: why }
}

/// Towards the end of `max_time` the migration is ended by shipping the rest, where that is allowed
/// and would still come in time; at its end it is cancelled. A time limit that may be broken before
/// the stall ends nothing.
fn out_of_time(view: &View) -> Option<Decision> {
    let limit = view.requirements.max_time?;
    let running = matches!(view.phase, Phase::Setup | Phase::FirstPass | Phase::Iterating);
    if !running || view.requirements.gives_way_first(Requirement::MaxTime, Requirement::MaxStall) {
        return None;
    }
    let left = limit.saturating_sub(view.now.0);
    // Once it is over there is no chance left, unless the stall may be broken: a guest may dirty more
    // than the stall allows between every decision to ship and the sync that follows.
    let soon = |downtime: Duration| left <= downtime + SHIP_MARGIN;
    let last_chance = view.phase == Phase::Iterating
        && longest_downtime(view).is_some_and(soon)
        && (!left.is_zero() || view.requirements.may_break(Requirement::MaxStall))
        && view.fits_downtime()
        && view.downtime_if_shipped().is_some_and(soon);
    if last_chance {
        return Some(Decision::finish(
            Finish::Ship,
            "the time is nearly up: pausing to ship the rest in time",
        ));
    }
    let over = left.is_zero() && !view.requirements.may_break(Requirement::MaxTime);
    over.then(|| {
        let why = format!(
            "--max-time {} is over with {} to send; raise it, or allow a longer pause \
             (--give-way max-stall) or more bandwidth",
            show_duration(limit),
            view.remaining
        );
        Decision::finish(Finish::Cancel, why)
    })
}

/// Returns whether the end of the time ends a shipment that the policy goes on asking for. One that was decided
/// in time may still begin within the margin, and one that may stall for longer lands at the next sync.
fn replaces_shipment(view: &View, finish: Option<&Finish>, ending: &Decision) -> bool {
    finish == Some(&Finish::Ship)
        && ending.finish == Some(Finish::Cancel)
        && !view.requirements.may_break(Requirement::MaxStall)
        && view.requirements.max_time.is_some_and(|limit| view.now.0 > limit + SHIP_MARGIN)
}

/// Until when a decision that ends nothing passes the guard, unless the hypervisor syncs its bitmap
/// before: the earliest moment at which time may be up.
pub fn valid_until(view: &View) -> Moment {
    let asked = &view.requirements;
    let Some(limit) = asked.max_time else { return Moment::NEVER };
    if asked.gives_way_first(Requirement::MaxTime, Requirement::MaxStall) {
        return Moment::NEVER;
    }
    let before = |downtime: Duration| Moment(limit) - downtime - SHIP_MARGIN;
    let Some(longest) = longest_downtime(view) else { return before(Duration::ZERO) };
    // The guest's curve need not be known as long as there is time to send all of its memory.
    if before(longest) > view.now || !asked.may_break(Requirement::MaxStall) {
        return before(longest);
    }
    let dirty = view.max_dirty_until_sync().and_then(|dirty| dirty / view.link?);
    dirty.map_or(view.now, |dirty| before(dirty.min(longest)))
}

/// The longest downtime that may come of shipping, whatever the guest does.
fn longest_downtime(view: &View) -> Option<Duration> {
    match view.requirements.may_break(Requirement::MaxStall) {
        true => view.total / view.link?,
        false => Some(view.requirements.max_stall),
    }
}

/// Time from the decision to ship until the last byte starts to flow: QEMU looks at its limits
/// every 100 ms, then stops the vCPUs and looks at the bitmap once more.
const SHIP_MARGIN: Duration = Duration::from_millis(250);

/// The settings, with no more bandwidth and no longer downtime than allowed.
fn tuned_within(view: &View, tuning: Tuning) -> Tuning {
    let asked = &view.requirements;
    let capped = |rate: ByteRate| match asked.max_bandwidth {
        Some(limit) if !asked.may_break(Requirement::MaxBandwidth) => ByteRate(rate.0.min(limit.0)),
        _ => rate,
    };
    let bounded = |downtime: Duration| match asked.may_break(Requirement::MaxStall) {
        true => downtime,
        false => downtime.min(asked.max_stall),
    };
    Tuning {
        max_bandwidth: tuning.max_bandwidth.map(capped).filter(is_a_limit),
        downtime_limit: tuning.downtime_limit.map(bounded),
        ..tuning
    }
}

/// Whether a hypervisor takes a rate as a limit: zero means no limit.
fn is_a_limit(rate: &ByteRate) -> bool {
    rate.per_second() > 0
}

/// The hold, no tighter than the floor and with no gap longer than the stall allowed.
fn clamp_hold(view: &View, hold: Hold) -> Hold {
    let may_stop = view.levers.stop && view.requirements.may_break(Requirement::MaxStall);
    match hold {
        Hold::Free => Hold::Free,
        Hold::Stopped if may_stop => Hold::Stopped,
        Hold::Quota(quota) if keeps(view, quota) => hold,
        hold => view.quota_for(hold.share()).map_or(Hold::Free, Hold::Quota),
    }
}

fn keeps(view: &View, quota: Quota) -> bool {
    view.levers.quota
        && quota.share() >= view.least_share()
        && quota.longest_gap(view.levers.tick) <= view.longest_gap()
}

fn too_long(view: &View) -> String {
    let limit = show_duration(view.requirements.max_stall);
    match view.downtime_if_shipped() {
        Some(stall) => format!(
            "but shipping the {} that remain would stall the guest for {}, longer than --max-stall {limit}",
            view.remaining,
            show_duration(stall)
        ),
        None => format!("but it is not known yet whether that keeps --max-stall {limit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::view;
    use crate::units::{Bytes, Moment, Share};
    use proptest::prelude::*;

    fn held(hold: Hold) -> Decision {
        Decision::hold_all(1, hold, "test")
    }

    /// Little remains, and 2 s are allowed for all.
    fn shippable_within_2_s() -> View {
        let mut view = view();
        view.requirements.max_time = Some(Duration::from_secs(2));
        (view.remaining, view.link) = (Bytes(1_000_000), Some(ByteRate::mb(100)));
        view.last_sync = Some(crate::policy::testing::interval(1000, 1, 100));
        view
    }

    #[test]
    fn a_pause_that_is_too_long_is_not_carried_out_and_says_why() {
        let mut view = view();
        (view.remaining, view.link) = (Bytes(100_000_000), Some(ByteRate::mb(100)));
        let decision = enforce(&view, Decision::finish(Finish::Ship, "test"));
        assert_eq!(decision.finish, None);
        assert!(decision.reason.contains("--max-stall 300 ms"), "{}", decision.reason);
        view.requirements.give_way = vec![Requirement::MaxStall];
        let decision = enforce(&view, Decision::finish(Finish::Ship, "test"));
        assert_eq!(decision.finish, Some(Finish::Ship));
    }

    #[test]
    fn time_that_is_over_ends_the_migration_unless_time_may_give_way() {
        let mut view = view();
        view.now = Moment::ms(2000);
        view.requirements.max_time = Some(Duration::from_secs(2));
        let end = |view: &View| enforce(view, held(Hold::Free)).finish;
        assert_eq!(end(&view), Some(Finish::Cancel));
        view.phase = Phase::SwitchOver;
        assert_eq!(end(&view), None, "a switch-over under way is left to end");
        view.phase = Phase::Iterating;
        view.requirements.give_way = vec![Requirement::MaxTime];
        assert_eq!(end(&view), None);
    }

    #[test]
    fn the_last_chance_to_ship_in_time_is_taken_where_the_stall_allows_it() {
        let mut view = view();
        view.now = Moment::ms(1000);
        view.requirements.max_time = Some(Duration::from_secs(2));
        (view.remaining, view.link) = (Bytes(80_000_000), Some(ByteRate::mb(100)));
        assert_eq!(enforce(&view, held(Hold::Free)).finish, None);
        view.requirements.give_way = vec![Requirement::MaxStall];
        assert_eq!(enforce(&view, held(Hold::Free)).finish, Some(Finish::Ship));
    }

    #[test]
    fn a_chance_to_ship_that_does_not_come_off_ends_with_the_time() {
        let mut view = shippable_within_2_s();
        view.now = Moment::ms(1990);
        assert_eq!(enforce(&view, held(Hold::Free)).finish, Some(Finish::Ship));
        view.now = Moment::ms(2000);
        assert_eq!(enforce(&view, held(Hold::Free)).finish, Some(Finish::Cancel));
    }

    #[test]
    fn a_policy_that_ships_at_every_sample_does_not_outlast_the_time() {
        let mut view = shippable_within_2_s();
        let end = |view: &View| enforce(view, Decision::finish(Finish::Ship, "test")).finish;
        view.now = Moment::ms(2100);
        assert_eq!(end(&view), Some(Finish::Ship), "decided in time, it may be under way");
        view.now = Moment::ms(2300);
        assert_eq!(end(&view), Some(Finish::Cancel));
        view.requirements.give_way = vec![Requirement::MaxStall];
        assert_eq!(end(&view), Some(Finish::Ship), "a longer stall lands it");
        view.requirements.give_way = vec![Requirement::MaxTime];
        assert_eq!(end(&view), Some(Finish::Ship));
    }

    #[test]
    fn post_copy_needs_permission() {
        let decision = enforce(&view(), Decision::finish(Finish::PostCopy, "test"));
        assert_eq!(decision.finish, None);
    }

    #[test]
    fn settings_stay_within_bandwidth_and_stall_unless_these_may_give_way() {
        let mut view = view();
        view.requirements.max_bandwidth = Some(ByteRate::mb(100));
        let asked = Tuning {
            max_bandwidth: Some(ByteRate::mb(500)),
            downtime_limit: Some(Duration::from_secs(5)),
            switchover_bandwidth: Some(ByteRate::mb(90)),
        };
        let tuned = |view: &View| {
            enforce(view, Decision { tuning: asked, ..Decision::leave_alone("test") }).tuning
        };
        assert_eq!(tuned(&view).max_bandwidth, Some(ByteRate::mb(100)));
        assert_eq!(tuned(&view).downtime_limit, Some(Duration::from_millis(300)));
        assert_eq!(tuned(&view).switchover_bandwidth, Some(ByteRate::mb(90)));
        view.requirements.give_way = vec![Requirement::MaxBandwidth, Requirement::MaxStall];
        assert_eq!(tuned(&view), asked);
    }

    #[test]
    fn a_bandwidth_of_nothing_which_would_lift_every_limit_is_not_set() {
        for rate in [0.0, 0.3, -5.0, f64::NAN] {
            let tuning = Tuning { max_bandwidth: Some(ByteRate(rate)), ..Tuning::default() };
            let asked = Decision { tuning, ..Decision::leave_alone("test") };
            assert_eq!(enforce(&view(), asked).tuning.max_bandwidth, None, "{rate}");
        }
    }

    proptest! {
        #[test]
        fn no_hold_breaks_the_floor_or_the_stall_and_no_free_vcpu_is_ever_held(
            quota_us in 1000u64..1_000_000, period_us in 1000u64..=1_000_000,
            floor in 0.0f64..=1.0, stall_ms in 1u64..3000, choice in 0..3,
        ) {
            let mut view = view();
            view.requirements.min_cpu = Share::clamped(floor);
            view.requirements.max_stall = Duration::from_millis(stall_ms);
            view.levers.stop = true;
            let hold = match choice {
                0 => Hold::Free,
                1 => Hold::Stopped,
                _ => Hold::Quota(Quota {
                    quota: Duration::from_micros(quota_us.min(period_us)),
                    period: Duration::from_micros(period_us),
                }),
            };
            let kept = enforce(&view, held(hold)).hold(0);
            prop_assert!(kept.share().get() >= floor - 1e-9);
            if let Hold::Quota(quota) = kept { prop_assert!(quota.gap() <= view.requirements.max_stall) }
            prop_assert_ne!(kept, Hold::Stopped);
            if hold == Hold::Free { prop_assert_eq!(kept, Hold::Free) }
        }
    }
}
