//! What a switch-over takes beyond shipping the rest.

use std::time::Duration;

use crate::requirements::Requirement;
use crate::telemetry::view::View;
use crate::units::{ByteRate, Bytes};

/// Stopping the vCPUs, the state of the devices, the destination's start.
const FIXED: Duration = Duration::from_millis(15);

/// What lies in the buffers of a link that is the bottleneck, and has to leave first.
const IN_FLIGHT: Bytes = Bytes(4_600_000);

/// Part of the allowed stall that is kept for all of this while the link is not known yet. Enough for
/// links near 100 MB/s: `docs/measurements/levers-qemu-10.0.md`.
pub const ALLOWANCE: Duration = Duration::from_millis(60);

/// Time the guest stands still at the switch-over beyond what remains divided by the link's rate.
/// QEMU's downtime limit does not count it.
///
/// Measured at 25 to 100 MB/s on QEMU 10.0.2: 15 ms and 4.6 MB (`docs/measurements/`).
pub fn overhead(link: ByteRate) -> Duration {
    FIXED + (IN_FLIGHT / link).unwrap_or_default()
}

/// Longest shipment that keeps a stall over a link whose buffers were [drained](DRAIN) before.
pub fn drained(max_stall: Duration) -> Duration {
    max_stall.saturating_sub(BEYOND_SHIPMENT).max(max_stall / 2)
}

/// What a drain leaves: a window of QEMU's rate limit is 100 ms, of which a tenth is in flight.
const AFTER_DRAIN: Duration = Duration::from_millis(10);

/// A held vCPU stops late: it sees the request when it next runs.
const NOTICE: Duration = Duration::from_millis(30);

/// Time the guest stands still beyond the shipment, over a drained link.
pub const BEYOND_SHIPMENT: Duration = FIXED.saturating_add(AFTER_DRAIN).saturating_add(NOTICE);

/// The longest period of a quota at the switch-over, for that reason.
pub const LAST_PERIOD: Duration = Duration::from_millis(40);

/// Part of its rate that a link is given while its buffers are to be drained. The link itself continues
/// at its own rate meanwhile, so what the drain costs in time it saves in the switch-over.
pub const DRAIN: f64 = 0.88;

/// How long a drain takes.
pub fn time_to_drain(link: ByteRate) -> Duration {
    (IN_FLIGHT / ByteRate(link.0 * (1.0 - DRAIN))).unwrap_or_default()
}

/// Longest shipment that keeps a stall: at least half of it, so that a slow link can ship anything.
pub fn shipment(max_stall: Duration, link: ByteRate) -> Duration {
    max_stall.saturating_sub(overhead(link)).max(max_stall / 2)
}

/// The downtime limit that keeps a stall, by what is known of the link.
pub fn limit(max_stall: Duration, link: Option<ByteRate>) -> Duration {
    match link {
        Some(link) => shipment(max_stall, link),
        None => max_stall.saturating_sub(ALLOWANCE).max(max_stall / 2),
    }
}

/// The longest shipment that the operator allows, by what a view knows of the link.
pub fn longest_shipment(view: &View) -> Duration {
    match view.requirements.may_break(Requirement::MaxStall) {
        true => Duration::MAX,
        false => limit(view.requirements.max_stall, view.link),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_the_link_the_less_is_left_of_the_stall_but_never_less_than_half() {
        let stall = Duration::from_millis(300);
        let at = |mb| shipment(stall, ByteRate::mb(mb)).as_millis();
        assert_eq!((at(1000), at(100), at(20)), (280, 239, 150));
    }
}
