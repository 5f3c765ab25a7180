//! A migration as its recording tells it: what the charts draw and the figures show.

use std::path::Path;
use std::time::Duration;

use landfall_core::policy::Plain;
use landfall_core::recording::{RecordingHeader, RecordingLine, Replay};
use landfall_core::report::Report;
use landfall_core::requirements::Settings;
use landfall_core::session::Observation;
use landfall_core::telemetry::progress::{Progress, tightest_hold, time_left};
use landfall_core::telemetry::view::{Phase, View};
use landfall_core::units::{ByteRate, Bytes, Share};
use landfall_migration::recording::RecordingFollower;
use landfall_migration::recording::follow::FollowError;

/// Samples that are kept of a migration: half an hour of them, and fewer a minute of one that takes longer.
const MOST_POINTS: usize = 20_000;

/// One sample of a migration.
#[derive(Debug, Clone, Copy)]
pub struct TimelinePoint {
    /// Seconds since the start.
    pub at_s: f64,
    pub remaining: Bytes,
    pub dirty_rate: Option<ByteRate>,
    pub link: Option<ByteRate>,
    /// Mean share of a CPU that the vCPUs used.
    pub used_cpu: Option<Share>,
    /// The tightest hold in force.
    pub tightest_hold: Option<Share>,
    pub phase: Phase,
}

/// A recording, and what was read of it so far.
pub struct MigrationTimeline {
    follower: RecordingFollower,
    views: Option<Replay<'static>>,
    progress: Progress,
    /// The samples, oldest first; of very many every other one.
    pub points: Vec<TimelinePoint>,
    /// How much of the migration is done, from 0 to 1.
    pub fraction_done: f64,
    /// About how long it still takes.
    pub time_left: Option<Duration>,
    /// The policy's reason for its last decision.
    pub reason: String,
    /// The settings in force.
    pub settings: Option<Settings>,
    /// When the operator changed settings, in seconds since the start.
    pub changes_s: Vec<f64>,
    /// The report, once it ended.
    pub report: Option<Report>,
}

impl MigrationTimeline {
    /// Prepares to read a recording from its beginning.
    pub fn new(path: &Path) -> MigrationTimeline {
        MigrationTimeline {
            follower: RecordingFollower::new(path),
            views: None,
            progress: Progress::default(),
            points: Vec::new(),
            fraction_done: 0.0,
            time_left: None,
            reason: String::new(),
            settings: None,
            changes_s: Vec::new(),
            report: None,
        }
    }

    /// Returns the head of the recording, once it is written.
    pub fn head(&self) -> Option<&RecordingHeader> {
        self.follower.head.as_ref()
    }

    /// Returns how many lines of the recording were read. More lines mean that something changed.
    pub fn lines_read(&self) -> usize {
        self.follower.lines_read()
    }

    /// Reads what was written since the last time.
    ///
    /// # Errors
    /// [`FollowError`].
    pub fn read_new_lines(&mut self) -> Result<(), FollowError> {
        while let Some(lines) = self.follower.read_next_lines()? {
            self.add_lines(&lines);
        }
        Ok(())
    }

    fn add_lines(&mut self, lines: &[RecordingLine]) {
        let Some(head) = &self.follower.head else { return };
        let views = self.views.get_or_insert_with(|| Replay::new(head, Box::new(Plain)));
        let mut samples = Vec::new();
        for line in lines {
            if let Some(Observation { view, .. }) = views.read_line(line) {
                samples.push((view, line));
            } else if let RecordingLine::Requirements { .. } = line {
                let at = samples.last().map(|(view, _)| view.now.as_secs_f64());
                let at = at.or_else(|| self.points.last().map(|point| point.at_s));
                self.changes_s.push(at.unwrap_or(0.0));
            } else if let RecordingLine::Report { report } = line {
                self.report = Some((**report).clone());
            }
        }
        self.settings = Some(views.settings().clone());
        for (view, line) in samples {
            self.add_sample(&view, line);
        }
        if self.points.len() > MOST_POINTS {
            // Every other point draws the same curve; the last one is the latest sample.
            let mut behind = self.points.len();
            self.points.retain(|_| {
                behind -= 1;
                behind.is_multiple_of(2)
            });
        }
    }

    fn add_sample(&mut self, view: &View, line: &RecordingLine) {
        self.fraction_done = self.progress.fraction(view);
        self.time_left = time_left(view);
        if let RecordingLine::Look(look) = line
            && let Some(decision) = &look.decision
        {
            self.reason = decision.reason.to_string();
        }
        self.points.push(TimelinePoint {
            at_s: view.now.as_secs_f64(),
            remaining: view.remaining,
            dirty_rate: view.dirty_rate(),
            link: view.link,
            used_cpu: view.mean_used_share(),
            tightest_hold: tightest_hold(view),
            phase: view.phase,
        });
    }

    /// Returns the latest sample.
    pub fn latest(&self) -> Option<&TimelinePoint> {
        self.points.last()
    }
}
