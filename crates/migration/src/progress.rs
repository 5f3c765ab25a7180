//! The live line on a terminal: how far the migration is.

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use landfall_core::telemetry::progress::ProgressSnapshot;
use landfall_core::telemetry::view::Phase;
use landfall_core::units::show_duration;
use landfall_qemu::clean_text::clean_text;
use landfall_qemu::driver::Tick;
use landfall_qemu::stdio::eprint_line;
use landfall_script::Tell;

/// A line on standard error that is overwritten; silent if standard error is not a terminal.
///
/// A thread of its own draws it: a terminal may stand still (Ctrl-S) while a guest is steered.
pub struct ProgressLine {
    /// `None` where standard error is not a terminal.
    drawing: Option<Drawing>,
}

struct Drawing {
    orders: SyncSender<Order>,
    /// Closed once the thread has ended.
    ended: Receiver<()>,
}

/// What the thread is to draw.
enum Order {
    Progress(String, u64),
    /// A line above the progress.
    Message(String),
}

/// How long to wait at the end for a terminal that stands still.
const LAST_DRAWING: Duration = Duration::from_millis(500);

impl ProgressLine {
    /// Shows an empty line.
    #[expect(clippy::new_without_default, reason = "showing it is an effect")]
    pub fn new() -> Self {
        if !io::stderr().is_terminal() {
            return ProgressLine { drawing: None };
        }
        let (orders, to_draw) = sync_channel(8);
        let (ending, ended) = sync_channel(0);
        thread::spawn(move || {
            draw(&to_draw);
            drop(ending);
        });
        ProgressLine { drawing: Some(Drawing { orders, ended }) }
    }

    /// Shows what a look at the hypervisor found.
    pub fn on_tick(&self, tick: &Tick) {
        if let Some(decided) = &tick.decided {
            self.show(&decided.observation.progress());
        }
    }

    /// Shows this progress.
    pub fn show(&self, glance: &ProgressSnapshot) {
        if let Some(Drawing { orders, .. }) = &self.drawing {
            let order = Order::Progress(progress_text(glance), (glance.done * 100.0) as u64);
            // The next one will be newer.
            let _ = orders.try_send(order);
        }
    }

    /// Returns a callback that prints a message above the line.
    pub fn message_printer(&self) -> Tell {
        let orders = self.drawing.as_ref().map(|drawing| drawing.orders.clone());
        Arc::new(move |what| {
            let line = format!("landfall: {what}");
            match &orders {
                Some(orders) => drop(orders.try_send(Order::Message(line))),
                None => eprint_line(&line),
            }
        })
    }

    /// Removes the line.
    pub fn clear(self) {
        if let Some(Drawing { orders, ended }) = self.drawing {
            drop(orders);
            let _ = ended.recv_timeout(LAST_DRAWING);
        }
    }
}

fn draw(orders: &Receiver<Order>) {
    // Five times a second is as often as a person can read.
    let bar = ProgressBar::with_draw_target(Some(100), ProgressDrawTarget::stderr_with_hz(5));
    // The template is a constant; were it wrong the line would only look plainer.
    if let Ok(style) = ProgressStyle::with_template("{percent:>3} %  {wide_msg}") {
        bar.set_style(style);
    }
    while let Ok(order) = orders.recv() {
        match order {
            Order::Progress(text, percent) => {
                bar.set_message(text);
                bar.set_position(percent);
            }
            Order::Message(line) => bar.println(clean_text(&line)),
        }
    }
    bar.finish_and_clear();
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
