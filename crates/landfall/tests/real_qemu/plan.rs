//! `landfall plan`: what it recommends lands as it says, and what it names as a remedy is one.

use std::time::{Duration, Instant};

use landfall_core::units::{ByteRate, Bytes, Share};
use landfall_testguest::{
    GuestSpec, PagesPerSecond, WorkPhase, Workload, agrees_once_in_three, claim,
};
use serde_json::Value;

use crate::scene::{Ended, Run, Scene, landfall, migration_status};

/// QEMU samples no block of memory below 128 MiB.
const MEMORY: Bytes = Bytes::mib(160);

const LINK: ByteRate = ByteRate::mb(33);

/// How much of the link landfall may use.
const LIMIT: &str = "30MB/s";

fn spec(kind: Workload, mib: u64) -> GuestSpec {
    GuestSpec { memory: MEMORY, working_set: Bytes::mib(mib), ..GuestSpec::new(kind) }
}

/// Returns a write rate that is so many times the limit.
fn times(times: f64) -> PagesPerSecond {
    PagesPerSecond((times * 30e6 / 4096.0) as u64)
}

fn hot_and_cold() -> Workload {
    Workload::HotCold {
        rate: times(2.5),
        hot_writes: Share::clamped(0.8),
        hot_memory: Share::clamped(0.1),
    }
}

fn by_turns() -> Workload {
    // The phases are so short that a probe sees several of them.
    let phase = |rate| WorkPhase { lasts: Duration::from_millis(20), rate, memory: Share::FULL };
    Workload::Phases { busy: phase(times(6.0)), quiet: phase(times(2.0)) }
}

impl Scene {
    /// Runs `landfall plan` for this guest.
    fn plan(&self, options: &[&str]) -> Ended {
        let mut command = landfall();
        command.arg("plan").arg(self.pair.source.qmp_socket());
        command.args(["--json", "--to-rate", LIMIT, "--probe", "1500ms"]).args(options);
        Run::start(command).ended()
    }

    /// Migrates with the aggression that a plan recommends and with these options.
    fn follow(&self, plan: &Value, asked: &[&str]) -> Ended {
        let dial = plan["recommended"]["aggression"].as_f64();
        let dial = dial.unwrap_or_else(|| panic!("nothing is recommended: {plan:#}")).to_string();
        let options = ["--max-bandwidth", LIMIT, "--aggression", &dial, "--probe", "1500ms"];
        self.migrate(&[&options, asked].concat())
    }
}

/// Returns a plan's forecast for the aggression that it recommends.
fn forecast(plan: &Value) -> &Value {
    let dial = plan["recommended"]["aggression"].as_f64();
    let all = plan["implications"].as_array().unwrap();
    let chosen = all.iter().find(|one| one["aggression"].as_f64() == dial);
    &chosen.unwrap_or_else(|| panic!("{plan:#}"))["forecast"]
}

/// Checks that a figure is within a forecast's range, with a quarter of tolerance on either side and
/// `noise` for what other load on the machine can add.
fn within(plan: &Value, ended: &Ended, field: &str, noise: f64) -> Result<(), String> {
    let end = |side: &str| forecast(plan)[field][side].as_f64().unwrap();
    let (low, high, got) = (end("low"), end("high"), ended.number(field));
    let holds = (low / 1.25 - noise..=high * 1.25 + noise).contains(&got);
    claim(holds, format!("{field} is {got}, forecast {low} to {high}: {ended:?}"))
}

/// Plans for a guest, migrates it as planned, and compares the report with the forecast.
fn lands_as_planned(kind: Workload, mib: u64, class: &[&str], asked: &[&str]) {
    agrees_once_in_three(|| {
        let scene = Scene::boot(&spec(kind, mib), LINK)?;
        let plan = scene.plan(asked);
        assert_eq!(plan.code(), Some(0), "{plan:?}");
        assert_eq!(migration_status(&scene.pair.source), "none", "a plan moves nothing");
        scene.assert_unharmed_at_source();
        let plan = plan.report;
        if plan["class"] == "unknown" {
            // On a machine that has no time for it QEMU may measure nothing.
            return Some(claim(false, format!("nothing was measured: {}", plan["measured"])));
        }
        let ended = scene.follow(&plan, asked);
        assert_eq!(ended.report["outcome"], "landed", "{ended:?}");
        scene.assert_landed();
        let named = class.contains(&plan["class"].as_str().unwrap());
        Some(
            claim(named, format!("its class is {}", plan["class"]))
                .and(within(&plan, &ended, "total_s", 0.3))
                .and(within(&plan, &ended, "longest_stall_s", 0.1))
                .and(within(&plan, &ended, "guest_cpu_lost_s", 0.2)),
        )
    });
}

#[test]
fn an_idle_guest_lands_as_planned() {
    lands_as_planned(Workload::Idle, 32, &["unaided"], &[]);
}

#[test]
fn a_calm_guest_lands_as_planned() {
    lands_as_planned(Workload::Random { rate: times(0.2) }, 32, &["unaided"], &[]);
}

#[test]
fn a_guest_that_writes_at_random_lands_as_planned() {
    lands_as_planned(Workload::Random { rate: times(8.0) }, 32, &["middle"], &[]);
}

#[test]
fn a_guest_with_hot_and_cold_memory_lands_as_planned() {
    lands_as_planned(hot_and_cold(), 32, &["middle", "unaided"], &[]);
}

#[test]
fn a_guest_that_is_busy_and_quiet_by_turns_lands_as_planned() {
    lands_as_planned(by_turns(), 32, &["middle", "unaided"], &[]);
}

#[test]
fn a_guest_that_sweeps_lands_as_planned_where_it_may_be_paused() {
    lands_as_planned(Workload::Sweep, 32, &["pathological"], &["--give-way", "max-stall"]);
}

/// Returns the options that a plan was made for, with one requirement changed.
fn with_change(asked: &[(&str, &str)], change: &Value) -> Vec<String> {
    let (name, text) = change.as_object().unwrap().iter().next().unwrap();
    let mut all: Vec<(&str, &str)> = vec![("max-bandwidth", LIMIT)];
    all.extend(asked);
    all.retain(|(other, _)| other != name);
    all.push((name, text.as_str().unwrap()));
    let option = |(name, text): (&str, &str)| [format!("--{name}"), text.to_owned()];
    all.into_iter().flat_map(option).collect()
}

/// Plans for a guest that cannot land within the requirements, and for each remedy migrates the guest
/// with that remedy.
fn each_remedy_lands(kind: Workload, mib: u64, asked: &[(&str, &str)], named: &[&str]) {
    let options: Vec<String> =
        asked.iter().flat_map(|(name, text)| [format!("--{name}"), (*text).to_owned()]).collect();
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mut turn = 0;
    while turn < named.len() {
        agrees_once_in_three(|| {
            // The link has room for the remedy that raises the bandwidth.
            let Some(scene) = Scene::boot(&spec(kind, mib), ByteRate::mb(500)) else {
                turn = named.len();
                return None;
            };
            let plan = scene.plan(&options);
            let conflict = &plan.report["conflict"];
            let names = |remedy: &&Value| remedy["change"].get(named[turn]).is_some();
            let remedies = conflict["remedies"].as_array();
            let Some(remedy) = remedies.and_then(|all| all.iter().find(names)) else {
                // On a busy machine the guest gets less CPU, writes less, and may need no such remedy.
                return Some(claim(false, format!("no {}: {plan:?}", named[turn])));
            };
            let line = with_change(asked, &remedy["change"]);
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            let ended = scene.migrate(&[&line[..], &["--probe", "1500ms"]].concat());
            assert_ne!(
                ended.code(),
                Some(4),
                "refused with its own remedy: {conflict:#} {ended:?}"
            );
            let given_up = named[turn] == "give-way";
            Some(claim(
                ended.code() == Some(0) || given_up && ended.code() == Some(3),
                format!("{line:?}: {ended:?}"),
            ))
        });
        turn += 1;
    }
}

#[test]
fn each_remedy_for_a_guest_that_only_a_pause_lands_is_accepted_and_keeps_the_rest() {
    each_remedy_lands(Workload::Sweep, 32, &[], &["max-stall", "max-bandwidth", "give-way"]);
}

#[test]
fn each_remedy_for_a_floor_in_the_way_of_the_stall_is_accepted_and_keeps_the_rest() {
    let kind = Workload::Random { rate: times(12.0) };
    let asked = [("min-cpu", "60%")];
    each_remedy_lands(kind, 32, &asked, &["min-cpu", "max-stall"]);
}

#[test]
fn a_time_that_is_too_short_has_a_remedy_that_is_kept() {
    let kind = Workload::Random { rate: times(2.0) };
    each_remedy_lands(kind, 32, &[("max-time", "1s")], &["max-time", "max-bandwidth"]);
}

#[test]
fn a_plan_takes_little_longer_than_its_probe_and_draws_what_it_found() {
    let Some(scene) = Scene::boot(&spec(Workload::Random { rate: times(4.0) }, 32), LINK) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("curve.svg");
    let mut command = landfall();
    command.arg("plan").arg(scene.pair.source.qmp_socket());
    command.args(["--to-rate", LIMIT, "--probe", "1s", "--picture"]).arg(&picture);
    let began = Instant::now();
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    println!("{:?}\n{text}", began.elapsed());
    for part in ["recommended --aggression", "throttle or pause", "class", "o measured"] {
        assert!(text.contains(part), "no {part:?}: {text}");
    }
    assert!(std::fs::read_to_string(picture).unwrap().contains("MB dirtied"));
    scene.assert_unharmed_at_source();
}
