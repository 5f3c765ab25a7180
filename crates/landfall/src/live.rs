//! The live line: how far it is, for a person at a terminal. Nothing where there is none.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_core::decision::Hold;
use landfall_core::units::{Share, show_duration};
use landfall_core::view::{Phase, View};
use landfall_qemu::say::say;
use landfall_qemu::steer::{Decided, Look};
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
        if let Some(Decided { view, done, time_left, .. }) = &look.decided {
            self.show(view, *done, *time_left);
        }
    }

    /// Shows a view, the share of the way that is done, and the time left.
    pub fn show(&self, view: &View, done: f64, time_left: Option<Duration>) {
        self.bar.set_message(line(view, time_left));
        self.bar.set_position((done * 100.0) as u64);
    }

    /// Says something at once, above the line.
    pub fn teller(&self) -> Tell {
        let bar = self.bar.clone();
        Arc::new(move |what| bar.suspend(|| say(&format!("landfall: {what}"))))
    }

    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// What is going on, in one line; what matters most comes first, for a terminal may be narrow.
fn line(view: &View, time_left: Option<Duration>) -> String {
    let mut parts = vec![match view.phase {
        Phase::Setup => return "connecting".to_owned(),
        Phase::FirstPass => format!("first pass, {} left", view.remaining),
        Phase::Iterating => format!("{} left", view.remaining),
        Phase::SwitchOver => return "switching over".to_owned(),
        Phase::PostCopy => format!("runs there, {} to fetch", view.remaining),
        Phase::Over => return "over".to_owned(),
    }];
    parts.extend(time_left.map(|time| format!("about {}", show_duration(time))));
    parts.extend(grip(view).map(|share| format!("CPU held to {share}")));
    if let Some(link) = view.link {
        parts.push(match view.dirty_rate() {
            Some(dirty) => format!("dirties {dirty}, link {link}"),
            None => format!("link {link}"),
        });
    }
    parts.join(", ")
}

/// The tightest hold in force.
pub fn grip(view: &View) -> Option<Share> {
    let held = view.vcpus.iter().map(|vcpu| vcpu.hold).filter(|hold| *hold != Hold::Free);
    held.map(Hold::share).reduce(Share::min)
}
