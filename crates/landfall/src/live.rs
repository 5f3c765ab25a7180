//! The live line: how far it is, for a person at a terminal. Nothing where there is none.

use std::sync::Arc;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_core::telemetry::progress::ProgressSnapshot;
use landfall_core::telemetry::view::Phase;
use landfall_core::units::show_duration;
use landfall_qemu::driver::Look;
use landfall_qemu::stdio::eprint_line;
use landfall_script::Tell;

/// A line on standard error that is written over; silent if that is not a terminal.
pub struct Live {
    bar: ProgressBar,
}

impl Live {
    pub fn new() -> Self {
        // Five times a second is as often as a person can read.
        let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant; were it wrong the line would only look plainer.
        if let Ok(style) = ProgressStyle::with_template("{percent:>3} %  {wide_msg}") {
            bar.set_style(style);
        }
        Live { bar }
    }

    pub fn look(&self, look: &Look) {
        if let Some(decided) = &look.decided {
            self.show(&decided.glance());
        }
    }

    /// Shows how it stands.
    pub fn show(&self, glance: &ProgressSnapshot) {
        self.bar.set_message(line(glance));
        self.bar.set_position((glance.done * 100.0) as u64);
    }

    /// Says something at once, above the line.
    pub fn teller(&self) -> Tell {
        let bar = self.bar.clone();
        Arc::new(move |what| bar.suspend(|| eprint_line(&format!("landfall: {what}"))))
    }

    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// What is going on, in one line; what matters most comes first, for a terminal may be narrow.
pub fn line(glance: &ProgressSnapshot) -> String {
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
