//! The default policy: its forecast before the start, compared with the migration.

use landfall_core::units::{ByteRate, Bytes};
use landfall_testguest::{GuestSpec, PagesPerSecond, Workload, agrees_once_in_three, claim};

use crate::scene::{Ended, Scene};

/// QEMU samples no block of memory below 128 MiB.
const MEMORY: Bytes = Bytes::mib(192);

const LINK: ByteRate = ByteRate::mb(66);
const LIMIT: &[&str] = &["--max-bandwidth", "60MB/s", "--probe", "2s"];

fn sweep() -> GuestSpec {
    GuestSpec { memory: MEMORY, working_set: Bytes::mib(64), ..GuestSpec::new(Workload::Sweep) }
}

/// Returns a guest that writes so many times the limit.
fn random(times: f64) -> GuestSpec {
    let rate = PagesPerSecond((times * 60e6 / 4096.0) as u64);
    GuestSpec {
        memory: MEMORY,
        working_set: Bytes::mib(96),
        ..GuestSpec::new(Workload::Random { rate })
    }
}

fn asked(options: &[&'static str]) -> Vec<&'static str> {
    [LIMIT, options].concat()
}

fn expected(ended: &Ended, field: &str, side: &str) -> f64 {
    ended.report["forecast"][field][side].as_f64().unwrap_or_else(|| panic!("{ended:?}"))
}

#[test]
fn a_guest_that_only_a_pause_lands_is_refused_before_the_start_with_what_would_resolve_it() {
    let Some(scene) = Scene::boot(&sweep(), LINK) else { return };
    let ended = scene.migrate(&asked(&[]));
    let remedies = ["raise --max-stall to", "raise --max-bandwidth to", "--give-way max-stall"];
    ended.assert(4, "refused", &remedies);
    scene.assert_unharmed_at_source();
}

#[test]
fn with_leave_to_stall_it_is_paused_and_the_forecast_said_so() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&sweep(), LINK)?;
        let ended = scene.migrate(&asked(&["--give-way", "max-stall"]));
        assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
        assert_eq!(ended.report["class"], "pathological", "{ended:?}");
        assert!(ended.reason().contains("pausing"), "{ended:?}");
        scene.assert_landed();
        let lost = ended.number("guest_cpu_lost_s");
        let forecast = expected(&ended, "guest_cpu_lost_s", "mid");
        Some(claim((0.5..2.0).contains(&(forecast / lost)), format!("{ended:?}")))
    });
}

#[test]
fn a_guest_of_the_middle_is_held_late_and_lands_within_the_stall_in_the_time_forecast() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&random(3.0), LINK)?;
        let ended = scene.migrate(&asked(&[]));
        assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
        assert!(ended.number("throttled_s") > 0.0, "{ended:?}");
        scene.assert_landed();
        let total = ended.number("total_s") / expected(&ended, "total_s", "mid");
        let kept = claim(ended.code() == Some(0), format!("a requirement was broken: {ended:?}"));
        Some(kept.and(claim((0.6..1.6).contains(&total), format!("{ended:?}"))))
    });
}

#[test]
fn a_floor_for_the_cpu_holds_and_the_guest_lands() {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&random(2.0), LINK)?;
        let ended = scene.migrate(&asked(&["--min-cpu", "20%"]));
        assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
        scene.assert_landed();
        let share = ended.number("min_cpu_share");
        Some(claim(share >= 0.18, format!("{share} of a CPU: {ended:?}")))
    });
}

#[test]
fn guests_that_land_unaided_are_never_held() {
    for spec in [random(0.1), GuestSpec { memory: MEMORY, ..GuestSpec::new(Workload::Idle) }] {
        let Some(scene) = Scene::boot(&spec, LINK) else { return };
        let ended = scene.migrate(&asked(&["--aggression", "1"]));
        assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
        assert_eq!(ended.number("throttled_s"), 0.0, "{ended:?}");
        assert_eq!(ended.report["class"], "unaided", "{ended:?}");
        scene.assert_landed();
    }
}

#[test]
fn without_a_probe_nothing_is_forecast_and_the_guest_lands_all_the_same() {
    let Some(scene) = Scene::boot(&random(2.0), LINK) else { return };
    let ended = scene.migrate(&["--max-bandwidth", "60MB/s", "--probe", "0s"]);
    assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
    assert!(ended.report["forecast"].is_null());
    scene.assert_landed();
}
