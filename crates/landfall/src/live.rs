//! The live line: how far it is, for a person at a terminal. Nothing where there is none.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_core::decision::Hold;
use landfall_core::units::{Share, show_duration};
use landfall_core::view::{Phase, View};
use landfall_qemu::steer::{Decided, Look};

/// A line on standard error that is written over; silent if that is not a terminal.
pub struct Live {
    bar: ProgressBar,
}

impl Live {
    pub fn new() -> Self {
        // Five times a second is as often as a person can read.
        let bar = ProgressBar::with_draw_target(Some(1000), ProgressDrawTarget::stderr_with_hz(5));
        // The template is a constant; were it wrong the bar would only look plainer.
        if let Ok(style) = ProgressStyle::with_template("[{bar:20}] {percent:>3} %  {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Live { bar }
    }

    pub fn look(&self, look: &Look) {
        if let Some(decided) = &look.decided {
            self.bar.set_position((decided.done * 1000.0) as u64);
            self.bar.set_message(line(decided));
        }
    }

    pub fn clear(self) {
        self.bar.finish_and_clear();
    }
}

/// What is going on, in one line.
fn line(decided: &Decided) -> String {
    let view = decided.view;
    let mut parts = vec![match view.phase {
        Phase::Setup => "connecting".to_owned(),
        Phase::FirstPass => format!("first pass, {} remain", view.remaining),
        Phase::Iterating => format!("{} remain", view.remaining),
        Phase::SwitchOver => format!("switching over, {} to ship", view.remaining),
        Phase::PostCopy => format!("runs at the destination, {} to fetch", view.remaining),
        Phase::Over => "over".to_owned(),
    }];
    if let Some(link) = view.link {
        parts.push(match view.dirty_rate() {
            Some(dirty) => format!("dirtying {dirty} against {link}"),
            None => format!("sending {link}"),
        });
    }
    if let Some(grip) = grip(view) {
        parts.push(format!("CPU held to {grip}"));
    }
    parts.extend(decided.time_left.map(left));
    parts.join(", ")
}

/// The tightest hold in force.
fn grip(view: &View) -> Option<Share> {
    let held = view.vcpus.iter().map(|vcpu| vcpu.hold).filter(|hold| *hold != Hold::Free);
    held.map(Hold::share).reduce(Share::min)
}

fn left(time: Duration) -> String {
    format!("about {} left", show_duration(time))
}
