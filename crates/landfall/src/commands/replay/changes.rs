//! What happened in a migration, moment by moment: the looks at which something changed.

use landfall_core::decision::Finish;
use landfall_core::telemetry::progress::tightest_hold;
use landfall_core::telemetry::view::Phase;
use landfall_core::units::{ByteRate, Bytes, Moment, Share};
use landfall_migration::tables::{Table, borderless_table};
use landfall_migration::text::phase_name;
use serde_json::{Value, json};

use super::ReplayStep;

/// A hold that changes by less than this, in all, is left out.
const GRIP: f64 = 0.05;

/// A moment at which something changed.
#[derive(Debug)]
pub struct ReplayChange {
    /// When.
    pub at: Moment,
    /// What.
    pub what: String,
    /// A hold or an end was decided, or the operator changed a setting; not
    /// just a pass that ended.
    pub decided: bool,
    remaining: Bytes,
    dirty: Option<ByteRate>,
    link: Option<ByteRate>,
    used: Option<Share>,
    why: String,
}

/// What was last told.
#[derive(Default)]
struct Told {
    phase: Option<Phase>,
    intervals: u64,
    grip: Option<Share>,
    finish: Option<Finish>,
}

/// The moments at which something changed.
pub fn changes(steps: &[ReplayStep]) -> Vec<ReplayChange> {
    let mut told = Told::default();
    steps.iter().filter_map(|step| told.change(step)).collect()
}

impl Told {
    fn change(&mut self, step: &ReplayStep) -> Option<ReplayChange> {
        let view = &step.view;
        let mut what = Vec::new();
        if self.phase.replace(view.phase) != Some(view.phase) {
            what.push(phase_name(view.phase).to_owned());
        }
        if view.syncs > self.intervals {
            self.intervals = view.syncs;
            what.push(format!("sync {}", view.syncs));
        }
        let passive = what.len();
        what.extend(step.setting_changes.iter().map(|change| change.to_string()));
        if let Some(word) = self.grip(tightest_hold(view)) {
            what.push(word);
        }
        let finish = step.recorded.as_ref().and_then(|decision| decision.finish.clone());
        if finish != self.finish {
            what.extend(finish.as_ref().map(|finish| end(finish).to_owned()));
            self.finish = finish;
        }
        (!what.is_empty()).then(|| ReplayChange {
            at: view.now,
            decided: what.len() > passive,
            what: what.join(", "),
            remaining: view.remaining,
            dirty: view.dirty_rate(),
            link: view.link,
            used: view.mean_used_share(),
            why: step.recorded.as_ref().map_or_else(String::new, |it| it.reason.to_string()),
        })
    }

    /// Returns the hold in words if it differs from the one last shown.
    fn grip(&mut self, grip: Option<Share>) -> Option<String> {
        let far = match (self.grip, grip) {
            (Some(before), Some(now)) => (before.get() - now.get()).abs() >= GRIP,
            (before, now) => before != now,
        };
        if !far {
            return None;
        }
        self.grip = grip;
        Some(match grip {
            None => "let go".to_owned(),
            Some(Share::NONE) => "paused".to_owned(),
            Some(share) => format!("held to {share}"),
        })
    }
}

fn end(finish: &Finish) -> &'static str {
    match finish {
        Finish::Ship => "pause and ship",
        Finish::PostCopy => "post-copy",
        Finish::Cancel => "cancel",
    }
}

/// The changes as a table.
pub fn table(changes: &[ReplayChange]) -> Table {
    let header = ["seconds", "what", "left", "dirties", "link", "guest CPU", "decided because"];
    let mut table = borderless_table(header, [0, 2, 3, 4, 5]);
    let mut last_why = "";
    for change in changes {
        let shown = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let why = if change.why == last_why { "" } else { &change.why };
        last_why = &change.why;
        table.add_row([
            format!("{:.2}", change.at.as_secs_f64()),
            change.what.clone(),
            change.remaining.to_string(),
            shown(change.dirty.map(|rate| rate.to_string())),
            shown(change.link.map(|rate| rate.to_string())),
            shown(change.used.map(|share| share.to_string())),
            why.to_owned(),
        ]);
    }
    table
}

impl ReplayChange {
    /// For programs.
    pub fn as_json(&self) -> Value {
        json!({
            "at_s": self.at.as_secs_f64(),
            "what": self.what,
            "remaining_bytes": self.remaining.0,
            "dirty_bytes_per_s": self.dirty.map(|rate| rate.0),
            "link_bytes_per_s": self.link.map(|rate| rate.0),
            "guest_cpu_share": self.used.map(Share::get),
            "why": self.why,
        })
    }
}
