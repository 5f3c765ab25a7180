//! A guest: how much memory and CPU it has, and how it writes.

use landfall_core::model::DirtyCurve;
use landfall_core::model::prior::Prior;
use landfall_core::units::{Bytes, CpuDemand, CpuTime};

/// A guest, as far as it matters for a migration.
#[derive(Debug, Clone, PartialEq)]
pub struct Guest {
    /// All its memory.
    pub memory: Bytes,
    /// The part of it with contents. The rest are zero pages, which cost next to nothing on the wire.
    pub contents: Bytes,
    /// Number of vCPUs.
    pub vcpus: u32,
    /// CPU seconds it uses per second while no limit applies, all vCPUs together; at most `vcpus`.
    pub cpu_demand: CpuDemand,
    /// How it writes.
    pub writes: Writes,
}

/// How a guest writes its memory, by its own CPU time.
#[derive(Debug, Clone, PartialEq)]
pub enum Writes {
    /// By a dirty curve, or several in turn: as amounts. Fast, and right on average.
    Curve(Vec<CurvePhase>),
    /// Page by page. Slow; the reference for the other.
    Pages(Vec<Writer>),
}

/// A phase of a guest's life with its own curve.
///
/// The n-th set of pages of one phase's curve is the same memory as the n-th of another's, as far as
/// both reach.
#[derive(Debug, Clone, PartialEq)]
pub struct CurvePhase {
    /// How long it lasts, in the guest's CPU time: a throttled guest stays in it longer. After the last
    /// phase comes the first again; one without end has none after it.
    pub lasts: CpuTime,
    /// Its dirty curve.
    pub curve: DirtyCurve,
}

/// Writes pages of its own, one at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Writer {
    /// The memory it writes.
    pub set: Bytes,
    /// Pages written per second of the guest's CPU time.
    pub pages: f64,
    /// Which page comes next.
    pub order: Order,
}

/// Which page a [`Writer`] writes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any, all alike; its pages are scattered over the guest's memory.
    Random,
    /// The next one; its pages lie side by side.
    Sweep,
}

impl Guest {
    /// A guest of one busy vCPU that has contents in all its memory and always writes by one curve.
    pub fn with_curve(memory: Bytes, curve: DirtyCurve) -> Guest {
        Guest {
            memory,
            contents: memory,
            vcpus: 1,
            cpu_demand: CpuDemand(1.0),
            writes: Writes::Curve(vec![CurvePhase::forever(curve)]),
        }
    }

    /// The guest that a prior describes, with this curve. `None` where its contents or its CPU demand
    /// are not known.
    pub fn from_prior(prior: &Prior, vcpus: u32, curve: DirtyCurve) -> Option<Guest> {
        let contents = prior.contents?;
        let memory = prior.memory.unwrap_or(contents).max(contents);
        let cpu_demand = prior.cpu_demand?;
        Some(Guest { contents, vcpus, cpu_demand, ..Guest::with_curve(memory, curve) })
    }

    /// CPU each vCPU wants, 0 to 1, as CPU seconds per second.
    pub(crate) fn appetite(&self) -> f64 {
        (self.cpu_demand.0 / f64::from(self.vcpus.max(1))).clamp(0.0, 1.0)
    }
}

impl CurvePhase {
    /// A phase without an end.
    pub fn forever(curve: DirtyCurve) -> CurvePhase {
        CurvePhase { lasts: CpuTime(f64::INFINITY), curve }
    }
}
