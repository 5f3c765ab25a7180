//! What must be true after a run, by witnesses that share nothing with landfall.

use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use landfall_testguest::{RawQmp, Vm};
use rustix::process::Signal;
use serde_json::Value;

use crate::faults::{Course, OTHER_DOWNTIME, OTHER_QUOTA, Processes, is_alive, send_to_landfall};
use crate::landfall_process::{Run, landfall};
use crate::plan::Fault;
use crate::scene::{Found, limits};
use crate::stage::Stage;

/// How long a guest may take to run once nothing disturbs it any more.
const RUNS: Duration = Duration::from_secs(30);
/// How long the places are watched after that.
const SETTLES: Duration = Duration::from_secs(1);
/// How long a check of the guest's memory may take.
const CHECKS: Duration = Duration::from_secs(30);
/// How long `landfall release` may take.
const RELEASES: Duration = Duration::from_secs(60);

/// What landfall itself said at its end.
#[derive(Debug, Clone)]
pub struct Said {
    /// `None` for a landfall that was killed.
    pub code: Option<i32>,
    pub report: Value,
    /// Whether the migration was over when landfall ended.
    pub saw_end: bool,
}

impl Said {
    /// The outcome, as the tables call it.
    pub fn outcome(&self) -> &str {
        match (&self.code, self.report["outcome"].as_str()) {
            (None, _) => "killed",
            (_, Some(outcome)) => outcome,
            (_, None) => "no report",
        }
    }
}

/// Where the guest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Source,
    Destination,
    /// Its only copy was killed by a fault.
    Lost,
}

/// What is wrong after a run.
pub struct Violations(pub Vec<String>);

impl Violations {
    fn claim(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.0.push(otherwise());
        }
    }

    /// Looks at everything. The faults are over, and landfall and its guardian have ended.
    /// Returns where the guest is.
    pub fn look(
        &mut self,
        stage: &mut Stage,
        course: &Course,
        said: &Said,
        all: Processes,
    ) -> Option<Place> {
        stage.witnesses = [None, None];
        self.release();
        if is_split_by_other(course, said) || says_what_it_cannot_see(stage, course, said) {
            return None;
        }
        let place = self.find_guest(stage, course);
        if let Some(place) = place {
            self.check_outcome(course, said, place);
            self.check_guest(stage, place);
        }
        self.check_limits(stage, course);
        self.check_settings(stage, course);
        self.check_leftovers(stage, all);
        place
    }

    /// Runs `landfall release`, which must have nothing left to do afterwards.
    fn release(&mut self) {
        let mut help = landfall();
        let exists = help.args(["release", "--help"]).output();
        if !exists.is_ok_and(|output| output.status.success()) {
            // This landfall has no such command yet.
            return;
        }
        let mut command = landfall();
        command.args(["release", "--json"]);
        let mut run = Run::start(command);
        let until = Instant::now() + RELEASES;
        while run.is_running() {
            if Instant::now() > until {
                run.signal(Signal::KILL);
                self.0.push(format!("landfall release runs for more than {RELEASES:?}"));
            }
            sleep(Duration::from_millis(20));
        }
        let ended = run.ended();
        self.claim(ended.code() == Some(0), || format!("landfall release: {ended:?}"));
    }

    /// Waits until the guest runs in one place. Continues it where another program has paused it.
    fn find_guest(&mut self, stage: &Stage, course: &Course) -> Option<Place> {
        let pair = &stage.scene.pair;
        let is_over = |status: &str| ["none", "completed", "cancelled", "failed"].contains(&status);
        let until = Instant::now() + RUNS;
        let migration = loop {
            let status = word(&pair.source, "query-migrate");
            if status.as_deref().is_some_and(is_over) || Instant::now() > until {
                break status;
            }
            sleep(Duration::from_millis(50));
        };
        let died = course.has_befallen(|it| it == Fault::KillDestination);
        if died && migration.as_deref() == Some("completed") {
            // It was killed with the guest in it.
            return Some(Place::Lost);
        }
        self.claim(migration.as_deref().is_some_and(is_over), || {
            format!("the migration is {migration:?}")
        });
        let paused_by_other = course.has_befallen(|it| it == Fault::OtherStop);
        if paused_by_other {
            let there = migration.as_deref() == Some("completed");
            let vm = if there { &pair.destination } else { &pair.source };
            if stage.scene.runs_at().is_empty() {
                let _ = vm.raw_qmp().map(|mut probe| probe.run("cont"));
            }
        }
        let until = Instant::now() + RUNS;
        let place = loop {
            match stage.scene.runs_at()[..] {
                [place] => break place,
                [] if Instant::now() < until => sleep(Duration::from_millis(50)),
                ref places => {
                    let states = [&pair.source, &pair.destination]
                        .map(|vm| word(vm, "query-status").unwrap_or_else(|| "gone".to_owned()));
                    self.0.push(match places.len() {
                        0 => {
                            format!("the guest runs NOWHERE ({states:?}, migration {migration:?})")
                        }
                        _ => format!("the guest runs TWICE (migration {migration:?})"),
                    });
                    return None;
                }
            }
        };
        let until = Instant::now() + SETTLES;
        while Instant::now() < until {
            let places = stage.scene.runs_at();
            if places != [place] {
                self.0.push(format!("the guest ran at the {place}, then at {places:?}"));
                return None;
            }
            sleep(Duration::from_millis(50));
        }
        Some(if place == "source" { Place::Source } else { Place::Destination })
    }

    /// Outcome and exit status say what is.
    fn check_outcome(&mut self, course: &Course, said: &Said, place: Place) {
        let Some(code) = said.code else { return };
        let outcome = said.outcome();
        let fits = match code {
            0 | 3 => outcome == "landed",
            4 => outcome == "refused",
            5 => outcome == "cancelled" || outcome == "failed",
            6 => outcome == "unknown",
            _ => false,
        };
        self.claim(fits, || format!("exit status {code} with the outcome {outcome}"));
        let is_true = match (outcome, place) {
            ("landed", place) => place != Place::Source,
            ("refused" | "cancelled" | "failed", place) => place == Place::Source,
            (_, Place::Lost) => true,
            _ => course.has_befallen(|it| {
                it.loses_monitor()
                    || is_unseen(said)
                    || matches!(it, Fault::OtherStop | Fault::Interrupt { twice: true, .. })
            }),
        };
        let reason = &said.report["reason"];
        let began = course.has_begun();
        self.claim(outcome != "refused" || !began, || {
            format!("refused, but a migration was under way: {reason}")
        });
        let left = began && !said.saw_end && matches!(code, 4 | 5);
        self.claim(!left, || format!("{outcome} was said of a migration under way: {reason}"));
        self.claim(is_true, || format!("{outcome}, but the guest is at {place:?}: {reason}"));
    }

    /// The guest beats in one place alone, and its memory is what it must be.
    fn check_guest(&mut self, stage: &Stage, place: Place) {
        let pair = &stage.scene.pair;
        let (here, there) = match place {
            Place::Source => (&pair.source, &pair.destination),
            Place::Destination => (&pair.destination, &pair.source),
            Place::Lost => return,
        };
        let beats = pair.source.heartbeats();
        let now = Instant::now();
        let alive = beats.beat_from(here.qemu_index(), Some(now), CHECKS);
        self.claim(alive.is_ok(), || format!("the guest does not beat: {alive:?}"));
        let twice = beats.beat_from(there.qemu_index(), Some(now), Duration::from_millis(300));
        self.claim(twice.is_err(), || "the guest beats in two places".to_owned());
        match beats.verify(CHECKS) {
            Ok(check) => self.claim(check.errors == 0 && check.pages > 0, || {
                format!("the guest's memory is not right: {check:?}")
            }),
            Err(error) => self.0.push(format!("the guest's memory cannot be checked: {error}")),
        }
        let corruptions = beats.corruptions();
        self.claim(corruptions.is_empty(), || format!("{corruptions:?}"));
    }

    /// Every limit is what it was, or what another program has set last.
    fn check_limits(&mut self, stage: &Stage, course: &Course) {
        let now = limits(stage.scene.pid());
        let mut were = stage.scene.before.limits_as_they_were(&now);
        if course.has_befallen(|it| it == Fault::OtherQuota) {
            for (tid, was) in &mut were {
                let set =
                    was.as_ref().map(|was| was.replacen(" 80000", &format!(" {OTHER_QUOTA}"), 1));
                if now.get(tid) == Some(&set) {
                    *was = set;
                }
            }
        }
        let differ = now.iter().filter(|(tid, limit)| were.get(tid) != Some(limit));
        let differ: Vec<_> = differ.map(|(tid, limit)| (limit, &were[tid])).collect();
        self.claim(differ.is_empty(), || format!("limits are HELD (now, before): {differ:?}"));
        let left = stage.scene.groups_left();
        self.claim(left.is_empty(), || format!("groups were left: {left:?}"));
    }

    /// QEMU's parameters and capabilities are back, except for what another program has set.
    fn check_settings(&mut self, stage: &Stage, course: &Course) {
        let source = &stage.scene.pair.source;
        let mut now = Found::of(source);
        let before = &stage.scene.before;
        let other = course.has_befallen(|it| it == Fault::OtherDowntimeLimit);
        if other && now.parameters["downtime-limit"] == OTHER_DOWNTIME {
            now.parameters["downtime-limit"] = before.parameters["downtime-limit"].clone();
        }
        for (name, now, before) in [
            ("parameters", &now.parameters, &before.parameters),
            ("capabilities", &now.capabilities, &before.capabilities),
        ] {
            self.claim(now == before, || {
                format!("the {name} are not back: {}", difference(now, before))
            });
        }
    }

    /// No process and no file is left.
    fn check_leftovers(&mut self, stage: &Stage, all: Processes) {
        for pid in [Some(all.landfall), all.guardian].into_iter().flatten() {
            self.claim(!is_alive(pid), || format!("process {pid} of landfall is left"));
        }
        let ours = format!("{}-", stage.scene.pid());
        let mut files: Vec<String> = Vec::new();
        for entry in fs::read_dir("/run/landfall").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&ours) {
                files.push(name);
            }
        }
        self.claim(files.is_empty(), || format!("files were left in /run/landfall: {files:?}"));
    }
}

/// Whether the cancel of another program came when all of the guest was on its way, so that both QEMUs run
/// it: nothing that landfall could prevent, but it has to say so.
fn is_split_by_other(course: &Course, said: &Said) -> bool {
    let reason = said.report["reason"].as_str().unwrap_or_default();
    said.outcome() == "unknown"
        && reason.contains("RUNS TWICE")
        && course.has_befallen(|it| it == Fault::OtherCancel)
}

/// The same where landfall cannot ask the destination: it has to say that the guest may run there.
fn says_what_it_cannot_see(stage: &Stage, course: &Course, said: &Said) -> bool {
    is_unseen(said)
        && stage.scene.runs_at().len() == 2
        && course.has_befallen(|it| it == Fault::OtherCancel)
}

/// Whether landfall says that it cannot know whether all of the guest had arrived.
fn is_unseen(said: &Said) -> bool {
    let reason = said.report["reason"].as_str().unwrap_or_default();
    said.outcome() == "unknown" && reason.contains("may run at the destination as well")
}

/// The word that QEMU answers with; `None` if it does not answer.
fn word(vm: &Vm, command: &str) -> Option<String> {
    let mut probe: RawQmp = vm.raw_qmp().ok()?;
    let answer = probe.run(command).ok()?;
    Some(answer["status"].as_str().unwrap_or("none").to_owned())
}

/// What differs between two objects or lists.
fn difference(now: &Value, before: &Value) -> String {
    let texts = |value: &Value| -> Vec<String> {
        match value {
            Value::Object(fields) => fields.iter().map(|(k, v)| format!("{k}={v}")).collect(),
            Value::Array(items) => items.iter().map(Value::to_string).collect(),
            other => vec![other.to_string()],
        }
    };
    let before = texts(before);
    let differs = texts(now).into_iter().filter(|text| !before.contains(text));
    differs.collect::<Vec<_>>().join(", ")
}

/// Ends what is left of a landfall, so that it does not disturb the next run.
pub fn end_all(all: Processes) {
    for pid in [Some(all.landfall), all.guardian].into_iter().flatten() {
        send_to_landfall(pid, Signal::KILL);
    }
}
