//! What is known of a guest and a link before the migration starts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::CurvePoint;
use crate::units::{ByteRate, Bytes, CpuDemand};

/// How long a probe takes by default. Most of what an operator waits for, and enough
/// for a span of a second.
pub const PROBE_BUDGET: Duration = Duration::from_secs(3);

/// Spans that a probe measures over, in turn, as far as the time for it reaches. QEMU takes 50 ms to
/// 60 s; each is about twice the one before, so that whether the curve bends shows in two.
pub const PROBE_SPANS: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// What is known before the start; nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// Points of the dirty curve.
    pub points: Vec<CurvePoint>,
    /// Guest memory that has contents: the rest are zero pages, which cost next to nothing on the
    /// wire.
    pub contents: Option<Bytes>,
    /// All its memory.
    pub memory: Option<Bytes>,
    /// CPU time the guest takes when nothing holds it.
    #[serde(alias = "pace")]
    pub cpu_demand: Option<CpuDemand>,
    /// Rate at which guest pages will leave.
    pub link: Option<ByteRate>,
    /// Its vCPUs are emulated, as far as is known, and not run by the hardware.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub emulated: bool,
}
