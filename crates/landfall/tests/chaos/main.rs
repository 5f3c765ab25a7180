//! Chaos: real QEMUs, a real guest, landfall moving it, and faults at random moments. Whatever befell, the
//! guest runs in one place with its memory intact, nothing is held, and the report is true.
//!
//! A run is made wholly from its seed: [`plan`] rolls it, [`stage`] sets it up, [`faults`] brings the faults
//! about, [`verdict`] looks at what is left. `make chaos SECONDS=600` runs new seeds for a while, and
//! `LANDFALL_CHAOS_SEED=n` one of them again. Moments are counted from what happens in the migration; the
//! machine decides the rest, so a seed that has failed may need several goes.

mod faults;
#[path = "../shared/landfall_process.rs"]
#[allow(dead_code)]
mod landfall_process;
mod plan;
#[path = "../shared/scene.rs"]
#[allow(dead_code)]
mod scene;
mod stage;
mod table;
mod verdict;

use std::fs;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Child;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use faults::{Course, Processes, children, is_alive};
use plan::{ChaosPlan, Fault};
use serde_json::Value;
use stage::Stage;
use verdict::{Said, Violations};

/// The seeds of `make test`: each of another kind.
const FIXED_SEEDS: [u64; 6] = [1016, 1022, 1026, 1052, 1082, 1119];

/// The longest that faults may go on before they are lifted.
const FAULTS_LAST: Duration = Duration::from_secs(40);
/// How long landfall and its guardian may take to end once nothing disturbs them: longer than either waits
/// for a migration that does not end.
const ENDS: Duration = Duration::from_secs(75);
/// The longest that a run may take in all: more than all its limits together.
const RUN_LASTS: Duration = Duration::from_secs(400);
/// Between two looks at what happens.
const LOOK: Duration = Duration::from_millis(5);

/// One run, as the tables have it.
struct RunResult {
    seed: u64,
    outcome: String,
    kinds: Vec<&'static str>,
    violations: Vec<String>,
}

/// Plays one seed; `None` where there is no QEMU. Prints a line.
fn play(seed: u64) -> Option<RunResult> {
    let plan = ChaosPlan::from_seed(seed);
    // Without the time it waits for its turn.
    let mut began = Instant::now();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let stage = set_stage(&plan)?;
        began = Instant::now();
        Some(play_on(stage, &plan))
    }));
    let took = began.elapsed().as_secs_f64();
    let planned: Vec<String> = plan.faults.iter().map(ToString::to_string).collect();
    let head = format!("seed {seed} | {plan} | {}", planned.join(" + "));
    let (result, code, befell, messages) = match played {
        Ok(played) => played?,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()));
            let violations = vec![format!("the harness panicked: {}", said.unwrap_or_default())];
            let (outcome, kinds) = ("no report".to_owned(), Vec::new());
            (RunResult { seed, outcome, kinds, violations }, None, String::new(), String::new())
        }
    };
    let verdict = match result.violations.is_empty() {
        true => "ok".to_owned(),
        false => format!("VIOLATION: {}", result.violations.join("; ")),
    };
    let code = code.map_or_else(|| "-".to_owned(), |code: i32| code.to_string());
    println!("{head} | came: {befell} | {} | {code} | {took:.1} s | {verdict}", result.outcome);
    if !result.violations.is_empty() {
        println!("  landfall said: {}", messages.trim().replace('\n', "\n  "));
    }
    Some(result)
}

/// Sets the stage; again where a QEMU does not come up, which is the machine's doing.
fn set_stage(plan: &ChaosPlan) -> Option<Stage> {
    for _ in 0..2 {
        match catch_unwind(|| Stage::set(plan)) {
            Ok(stage) => return stage,
            Err(_) => println!("seed {}: no QEMU came up; once more", plan.seed),
        }
    }
    Stage::set(plan)
}

type Played = (RunResult, Option<i32>, String, String);

/// Ends the harness, and with it its QEMUs, if a run hangs. The watch ends when the sender is dropped.
fn watch_run(seed: u64) -> Sender<()> {
    let (watch, is_over) = channel();
    thread::spawn(move || {
        if is_over.recv_timeout(RUN_LASTS) == Err(RecvTimeoutError::Timeout) {
            println!("seed {seed} | VIOLATION: the run hangs for {RUN_LASTS:?}");
            std::process::exit(101);
        }
    });
    watch
}

fn play_on(mut stage: Stage, plan: &ChaosPlan) -> Played {
    let _watch = watch_run(plan.seed);
    let mut command = stage.command(plan);
    let mut child = command.spawn().unwrap();
    // Its copy of a stuck terminal would keep that open.
    drop(command);
    let mut all = Processes { landfall: child.id(), guardian: None };
    let mut course = Course::new(plan);
    let mut violations = Violations(Vec::new());

    let began = Instant::now();
    let mut ended_at = None;
    let stopped_for_good =
        |course: &Course| course.has_befallen(|it| it == Fault::StopLandfall(None));
    loop {
        all.guardian = all.guardian.or_else(|| children(all.landfall).first().copied());
        course.go_on(&mut stage, all);
        if has_ended(&mut child) {
            ended_at.get_or_insert_with(Instant::now);
        }
        let guardian_ended = all.guardian.is_none_or(|pid| !is_alive(pid));
        let landfall_ended = has_ended(&mut child) || stopped_for_good(&course) && guardian_ended;
        let nothing_comes = !course.has_more() && course.is_calm();
        if landfall_ended && guardian_ended && nothing_comes {
            break;
        }
        if began.elapsed() > FAULTS_LAST {
            if !course.has_befallen(Fault::delays_end) {
                violations.0.push(format!("no end after {FAULTS_LAST:?}, for no reason"));
            }
            break;
        }
        sleep(LOOK);
    }
    // Its last event may be on its way still.
    let seen_by = ended_at.unwrap_or_else(Instant::now) + Duration::from_millis(500);
    sleep(seen_by.saturating_duration_since(Instant::now()));
    let saw_end = ended_at.is_none() || course.is_over_at(&stage, seen_by);
    course.lift_all(&mut stage, all);
    let lifted = Instant::now();
    loop {
        let guardian_ended = all.guardian.is_none_or(|pid| !is_alive(pid));
        let landfall_ended = has_ended(&mut child) || stopped_for_good(&course) && guardian_ended;
        if landfall_ended && guardian_ended {
            break;
        }
        if lifted.elapsed() > ENDS {
            let who = match (landfall_ended, guardian_ended) {
                (false, false) => "landfall and its guardian do",
                (false, true) => "landfall does",
                _ => "the guardian does",
            };
            violations.0.push(format!("{who} not end"));
            break;
        }
        sleep(LOOK);
    }
    // What was stopped for good, or does not end.
    verdict::end_all(all);
    let code = child.wait().unwrap().code();
    let mut report = String::new();
    let _ = child.stdout.take().unwrap().read_to_string(&mut report);
    let report = serde_json::from_str(&report).unwrap_or(Value::Null);
    let said = Said { code, report, saw_end };
    let place = violations.look(&mut stage, &course, &said, all);

    let moment =
        |(fault, at): &(Fault, Duration)| format!("{} {:.2}s", fault.kind(), at.as_secs_f64());
    let befell: Vec<String> = course.befell.iter().map(moment).collect();
    let result = RunResult {
        seed: plan.seed,
        outcome: said.outcome().to_owned(),
        kinds: course.befell.iter().map(|(fault, _)| fault.kind()).collect(),
        violations: violations.0,
    };
    let messages = fs::read_to_string(stage.messages()).unwrap_or_default();
    let messages = format!("{messages}\n{}", said.report["reason"]);
    let place = place.map_or_else(|| "?".to_owned(), |place| format!("{place:?}").to_lowercase());
    (result, code, format!("{} | at {place}", befell.join(", ")), messages)
}

fn has_ended(child: &mut Child) -> bool {
    !matches!(child.try_wait(), Ok(None))
}

#[track_caller]
fn conclude(results: &[RunResult]) {
    println!("\n{} runs\n\n{}", results.len(), table::of(results));
    let unknown = results.iter().filter(|it| it.outcome == "unknown").count();
    println!("unknown: {unknown} of {}", results.len());
    let failed: Vec<u64> =
        results.iter().filter(|it| !it.violations.is_empty()).map(|it| it.seed).collect();
    assert!(failed.is_empty(), "{} runs failed, seeds {failed:?}", failed.len());
    assert!(results.len() < 100 || unknown * 20 <= results.len(), "too much is unknown");
}

#[test]
fn a_guest_survives_the_faults_of_the_fixed_seeds() {
    let results: Option<Vec<RunResult>> = FIXED_SEEDS.into_iter().map(play).collect();
    conclude(&results.unwrap_or_default());
}

/// Reads a number from the environment; one that is empty is not given.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}: write a number")))
}

#[test]
fn a_guest_survives_random_faults_for_as_long_as_asked() {
    let (seconds, seed) = (number("LANDFALL_CHAOS_SECONDS"), number("LANDFALL_CHAOS_SEED"));
    if seconds.is_none() && seed.is_none() {
        eprintln!("skipped: to run it, make chaos SECONDS=600, or LANDFALL_CHAOS_SEED=n");
        return;
    }
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(0));
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let first = seed.unwrap_or_else(|| now().as_secs() % 1_000_000 * 1000);
    println!("seeds from {first}");
    let mut results = Vec::new();
    for seed in first.. {
        let Some(result) = play(seed) else { return };
        results.push(result);
        if Instant::now() > until {
            break;
        }
    }
    conclude(&results);
}
