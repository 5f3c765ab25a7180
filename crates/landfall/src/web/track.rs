//! A migration as it goes, made of its recording: what the pictures draw and the figures say.

use std::path::Path;
use std::time::Duration;

use landfall_core::recording::{RecordingHeader, RecordingLine, ViewReplay};
use landfall_core::report::Report;
use landfall_core::requirements::settings::Demands;
use landfall_core::telemetry::progress::{Progress, tightest_hold, time_left};
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::{ByteRate, Bytes, Share};

use landfall_migration::recording::RecordingFollower;
use landfall_migration::recording::follow::FollowError;

/// A look at the hypervisor.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Seconds since the start.
    pub at: f64,
    pub remaining: Bytes,
    pub dirty: Option<ByteRate>,
    pub link: Option<ByteRate>,
    /// Mean share of a CPU that the vCPUs used.
    pub cpu: Option<Share>,
    /// The tightest hold in force.
    pub grip: Option<Share>,
    pub phase: Phase,
}

/// A recording, and what was made of it so far.
pub struct Track {
    following: RecordingFollower,
    views: Option<ViewReplay>,
    progress: Progress,
    /// All looks, oldest first.
    pub moments: Vec<Moment>,
    /// Share of the way that is done.
    pub done: f64,
    /// About how long it still takes.
    pub left: Option<Duration>,
    /// What the policy says of what it does.
    pub why: String,
    /// What is demanded now.
    pub demands: Option<Demands>,
    /// When the operator demanded something else, in seconds.
    pub changes: Vec<f64>,
    /// How it ended.
    pub report: Option<Report>,
}

impl Track {
    /// Of a recording, from its beginning.
    pub fn new(path: &Path) -> Track {
        Track {
            following: RecordingFollower::new(path),
            views: None,
            progress: Progress::default(),
            moments: Vec::new(),
            done: 0.0,
            left: None,
            why: String::new(),
            demands: None,
            changes: Vec::new(),
            report: None,
        }
    }

    /// What it was begun with, once that is written.
    pub fn head(&self) -> Option<&RecordingHeader> {
        self.following.head.as_ref()
    }

    /// How much of the recording was read: what has another number has changed.
    pub fn number(&self) -> usize {
        self.following.lines_read()
    }

    /// Takes in what was written since the last time.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn read_on(&mut self) -> Result<(), FollowError> {
        let lines = self.following.read_new_lines()?;
        let Some(head) = &self.following.head else { return Ok(()) };
        let views = self.views.get_or_insert_with(|| ViewReplay::new(head));
        let mut shown = Vec::new();
        for line in &lines {
            if let Some(view) = views.take(line) {
                shown.push((view, line));
            } else if let RecordingLine::Requirements { .. } = line {
                let at = shown.last().map(|(view, _)| view.now.as_secs_f64());
                let at = at.or_else(|| self.moments.last().map(|moment| moment.at));
                self.changes.push(at.unwrap_or(0.0));
            } else if let RecordingLine::Report { report } = line {
                self.report = Some((**report).clone());
            }
        }
        self.demands = Some(views.demands().clone());
        for (view, line) in shown {
            self.see(&view, line);
        }
        Ok(())
    }

    fn see(&mut self, view: &View, line: &RecordingLine) {
        self.done = self.progress.fraction(view);
        self.left = time_left(view);
        if let RecordingLine::Look(look) = line
            && let Some(decision) = &look.decision
        {
            self.why = decision.reason.to_string();
        }
        self.moments.push(Moment {
            at: view.now.as_secs_f64(),
            remaining: view.remaining,
            dirty: view.dirty_rate(),
            link: view.link,
            cpu: view.mean_used_share(),
            grip: tightest_hold(view),
            phase: view.phase,
        });
    }

    /// Where it stands now.
    pub fn now(&self) -> Option<&Moment> {
        self.moments.last()
    }
}
