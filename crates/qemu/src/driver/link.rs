//! The watch over the link: notices that nothing moves on it, and a guest in post-copy that has lost it.

use std::time::{Duration, Instant};

use landfall_core::telemetry::sample::Status;
use landfall_core::units::{Bytes, show_duration};

/// A migration of which not a byte moves for so long is given up: the destination does not answer.
const NO_BYTE: Duration = Duration::from_secs(10);

/// Post-copy that has lost its link for so long is left as it is, and said so.
const LINK_LOST: Duration = Duration::from_secs(10);

/// What was last seen of the link.
#[derive(Debug)]
pub(super) struct LinkWatch {
    transferred: Bytes,
    moved: Instant,
    lost: Option<Instant>,
}

/// How the link is, in words where it is not good.
#[derive(Debug)]
pub(super) enum Minded {
    /// As far as is known.
    Good,
    /// Nothing moves.
    Still(String),
    /// The guest is at the destination, and its memory is not.
    Lost(String),
}

impl LinkWatch {
    pub(super) fn new() -> LinkWatch {
        LinkWatch { transferred: Bytes(0), moved: Instant::now(), lost: None }
    }

    /// So much has left since the start.
    pub(super) fn take(&mut self, transferred: Bytes) {
        if transferred > self.transferred {
            self.transferred = transferred;
            self.has_moved();
        }
    }

    /// Something goes on, whatever the counters say.
    pub(super) fn has_moved(&mut self) {
        self.moved = Instant::now();
    }

    /// How the link is while a migration is in this state.
    pub(super) fn mind(&mut self, status: Status) -> Minded {
        if status == Status::PostCopyPaused {
            return match self.lost.get_or_insert_with(Instant::now).elapsed() > LINK_LOST {
                true => Minded::Lost(
                    "post-copy has lost its link: the guest is at the destination and stands still \
                     at every page that is not there; bring the link back and recover it (QMP \
                     migrate-recover there, migrate with resume here)"
                        .to_owned(),
                ),
                false => Minded::Good,
            };
        }
        self.lost = None;
        let what = match status {
            Status::Setup => "the destination does not answer",
            Status::Active | Status::SwitchOver => "the destination takes no more data",
            _ => return Minded::Good,
        };
        if self.moved.elapsed() <= NO_BYTE {
            return Minded::Good;
        }
        Minded::Still(format!(
            "{what}: not a byte has moved for {}. See whether a QEMU waits there with -incoming, and \
             whether the way to it is open",
            show_duration(NO_BYTE)
        ))
    }
}
