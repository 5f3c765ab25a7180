//! Notices a link on which nothing moves, and a guest in post-copy that has lost its link.

use std::time::Duration;

use crate::telemetry::sample::Status;
use crate::units::{Bytes, Moment, show_duration};

/// A pass of which no byte moves for this long is aborted: the destination does not answer.
const NO_BYTE: Duration = Duration::from_secs(10);

/// A set-up that takes longer is aborted. Pinning memory for RDMA, allocating it at the destination and
/// unplugging a device that cannot move take tens of seconds by rights.
const SETUP_LIMIT: Duration = Duration::from_secs(120);

/// Post-copy without its link for this long is left as it is, and reported.
const LINK_LOST: Duration = Duration::from_secs(10);

/// The link as it was last seen.
#[derive(Debug, Default)]
pub(super) struct LinkMonitor {
    transferred: Bytes,
    last_progress: Moment,
    lost_since: Option<Moment>,
}

/// How the link is; in words where it does not work.
#[derive(Debug, PartialEq)]
pub(super) enum LinkState {
    /// It works, as far as is known.
    Ok,
    /// Nothing moves.
    Stalled(String),
    /// The guest is at the destination, and its memory is not.
    Lost(String),
}

impl LinkMonitor {
    /// Bytes that had left by then, since the start.
    pub(super) fn on_transferred(&mut self, at: Moment, transferred: Bytes) {
        if transferred > self.transferred {
            self.transferred = transferred;
            self.on_progress(at);
        }
    }

    /// Something happens, whatever the counters say.
    pub(super) fn on_progress(&mut self, at: Moment) {
        self.last_progress = at;
    }

    /// How the link of a migration with this status is.
    pub(super) fn state(&mut self, status: Status, now: Moment) -> LinkState {
        if status == Status::PostCopyPaused {
            let since = *self.lost_since.get_or_insert(now);
            return match now.since(since) > LINK_LOST {
                true => LinkState::Lost(
                    "post-copy has lost its link: the guest is at the destination and stands still \
                     at every page that is not there; bring the link back and recover it (QMP \
                     migrate-recover there, migrate with resume here)"
                        .to_owned(),
                ),
                false => LinkState::Ok,
            };
        }
        self.lost_since = None;
        // Once the guest stands still for the switch-over, time alone ends nothing: loading its devices may
        // take long. A monitor that hangs does (`check_monitor_stall`).
        let (what, limit) = match status {
            Status::Setup => ("the destination does not answer", SETUP_LIMIT),
            Status::Active => ("the destination takes no more data", NO_BYTE),
            _ => return LinkState::Ok,
        };
        if now.since(self.last_progress) <= limit {
            return LinkState::Ok;
        }
        LinkState::Stalled(format!(
            "{what}: not a byte has moved for {}. Check that a QEMU waits there with -incoming, and \
             that the way to it is open",
            show_duration(limit)
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_seconds_without_a_byte_stall_a_migration_and_one_byte_does_not() {
        let mut link = LinkMonitor::default();
        link.on_transferred(Moment::ms(1000), Bytes(1));
        assert_eq!(link.state(Status::Active, Moment::ms(11_000)), LinkState::Ok);
        assert!(matches!(
            link.state(Status::Active, Moment::ms(11_001)),
            LinkState::Stalled(reason) if reason.contains("-incoming")
        ));
        link.on_transferred(Moment::ms(11_001), Bytes(2));
        assert_eq!(link.state(Status::Active, Moment::ms(11_002)), LinkState::Ok);
    }

    #[test]
    fn a_slow_set_up_and_a_slow_switch_over_are_not_given_up_after_ten_seconds() {
        let mut link = LinkMonitor::default();
        assert_eq!(link.state(Status::Setup, Moment::ms(119_000)), LinkState::Ok);
        assert!(matches!(link.state(Status::Setup, Moment::ms(121_000)), LinkState::Stalled(_)));
        for status in [Status::PreSwitchOver, Status::SwitchOver] {
            assert_eq!(link.state(status, Moment::ms(1_000_000)), LinkState::Ok);
        }
    }

    #[test]
    fn post_copy_that_has_lost_its_link_is_told_so_after_a_while() {
        let mut link = LinkMonitor::default();
        assert_eq!(link.state(Status::PostCopyPaused, Moment::ms(20_000)), LinkState::Ok);
        assert!(matches!(
            link.state(Status::PostCopyPaused, Moment::ms(30_001)),
            LinkState::Lost(_)
        ));
    }
}
