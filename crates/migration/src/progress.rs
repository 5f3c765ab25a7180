//! The live line on a terminal: how far the migration is.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_core::telemetry::progress::ProgressSnapshot;
use landfall_core::telemetry::view::Phase;
use landfall_core::units::show_duration;
use landfall_qemu::driver::Tick;
use landfall_qemu::stdio::eprint_line;
use landfall_script::Tell;

/// A line on standard error that is overwritten; silent if standard error is not a terminal.
pub struct ProgressLine {
    bar: ProgressBar,
}

impl ProgressLine {
    /// Shows an empty line.
    #[expect(clippy::new_without_default, reason = "showing it is an effect")]
    pub fn new() -> Self {
        // Five times a second is as often as a person can read.
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant; were it wrong the line would only look plainer.
        if let Ok(style) = ProgressStyle::with_template("{percent:>3} %  {wide_msg}") {
            bar.set_style(style);
        }
        ProgressLine { bar }
    }

    /// Shows what a look at the hypervisor found.
    pub fn on_tick(&self, tick: &Tick) {
        if let Some(decided) = &tick.decided {
            self.show(&decided.observation.progress());
        }
    }

    /// Shows this progress.
    pub fn show(&self, glance: &ProgressSnapshot) {
        self.bar.set_message(progress_text(glance));
        self.bar.set_position((glance.done * 100.0) as u64);
    }

    /// Returns a callback that prints a message above the line.
    pub fn message_printer(&self) -> Tell {
        let bar = self.bar.clone();
        Arc::new(move |what| bar.suspend(|| eprint_line(&format!("landfall: {what}"))))
    }

    /// Removes the line.
    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// Returns what is going on in one line. What matters most comes first, because a terminal may be narrow.
pub fn progress_text(glance: &ProgressSnapshot) -> String {
    let remaining = glance.remaining;
    let mut parts = vec![match glance.phase {
        Phase::Setup => return "connecting".to_owned(),
        Phase::FirstPass => format!("first pass, {remaining} left"),
        Phase::Iterating => format!("{remaining} left"),
        Phase::SwitchOver => return "switching over".to_owned(),
        Phase::PostCopy => format!("runs there, {remaining} to fetch"),
        Phase::Over => return "over".to_owned(),
    }];
    parts.extend(glance.time_left.map(|time| format!("about {}", show_duration(time))));
    parts.extend(glance.held_to.map(|share| format!("CPU held to {share}")));
    if let Some(link) = glance.link {
        parts.push(match glance.dirty_rate {
            Some(dirty) => format!("dirties {dirty}, link {link}"),
            None => format!("link {link}"),
        });
    }
    parts.join(", ")
}
