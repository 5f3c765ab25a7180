//! The events of the destination's monitor, with another connection where one is lost: without it the stall is
//! not known to its end, and the guest could not be fenced there.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::monitor::QemuMonitor;
use crate::qmp::{QmpAddress, QmpEvent, QmpEvents};
use crate::stdio::eprint_line;

/// The pause before an attempt to connect again: the first, and the longest, of a monitor that is lost again
/// and again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(20));

/// What comes from the destination.
pub(super) enum FromDestination {
    /// An event.
    Event(QmpEvent),
    /// Another connection, after the last one was lost.
    Connected(QemuMonitor),
}

/// The events of the destination's monitor.
#[derive(Default)]
pub(super) struct DestinationEvents {
    address: Option<QmpAddress>,
    events: Option<QmpEvents>,
    /// The attempts to connect again.
    connecting: Option<JoinHandle<(QemuMonitor, QmpEvents)>>,
    /// How often it was lost.
    losses: u32,
}

impl DestinationEvents {
    /// The events of a monitor that is connected.
    pub(super) fn of(monitor: &QemuMonitor, events: QmpEvents) -> DestinationEvents {
        let address = Some(monitor.address().clone());
        DestinationEvents { address, events: Some(events), connecting: None, losses: 0 }
    }

    /// Waits for what comes next; without end, where no destination is known.
    pub(super) async fn next(&mut self) -> FromDestination {
        if let Some(events) = &mut self.events {
            match events.recv().await {
                Some(event) => return FromDestination::Event(event),
                None => self.connect_again(),
            }
        }
        if let Some(connecting) = &mut self.connecting {
            let connected = connecting.await;
            self.connecting = None;
            if let Ok((monitor, events)) = connected {
                eprint_line("landfall: the destination's monitor is connected again");
                self.events = Some(events);
                return FromDestination::Connected(monitor);
            }
        }
        std::future::pending().await
    }

    fn connect_again(&mut self) {
        self.events = None;
        let Some(address) = self.address.clone() else { return };
        eprint_line(&format!(
            "landfall: the destination's monitor {address} has closed; connecting again"
        ));
        let pause = PAUSES.0.saturating_mul(1 << self.losses.min(10)).min(PAUSES.1);
        self.losses += 1;
        self.connecting = Some(tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                if let Ok(connected) = QemuMonitor::connect(&address).await {
                    return connected;
                }
            }
        }));
    }

    /// Leaves connecting to another part: QEMU serves one client of a monitor at a time.
    pub(super) fn stop_connecting(&mut self) {
        self.address = None;
        if let Some(connecting) = self.connecting.take() {
            connecting.abort();
        }
    }

    /// Goes on with the events of a connection that another part has made.
    pub(super) fn replace(&mut self, events: QmpEvents) {
        self.events = Some(events);
    }

    /// The next event that has arrived, if there is one.
    pub(super) fn try_next(&mut self) -> Option<QmpEvent> {
        self.events.as_mut()?.try_recv().ok()
    }
}

impl Drop for DestinationEvents {
    fn drop(&mut self) {
        self.stop_connecting();
    }
}
