//! What is known of a guest and a link before the migration starts.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::curve::Point;
use crate::units::{ByteRate, Bytes};

/// CPU time that a guest takes in a second while nothing holds it, in seconds, all vCPUs together:
/// 2.0 is two busy vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pace(pub f64);

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} CPUs", self.0)
    }
}

/// What was found out before the start; nothing, by default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Prior {
    /// Points of the dirty curve.
    pub points: Vec<Point>,
    /// Guest memory that has contents: the rest are zero pages, which cost next to nothing on the
    /// wire.
    pub contents: Option<Bytes>,
    /// All its memory.
    pub memory: Option<Bytes>,
    /// CPU time the guest takes when nothing holds it.
    pub pace: Option<Pace>,
    /// Rate at which guest pages will leave.
    pub link: Option<ByteRate>,
}
