//! Memory as amounts.
//!
//! Sets of pages, each written at random at its own rate ([`DirtyCurve`]): what is dirty of a set
//! follows from how long it was written since the last sync, in units of its time constant (`x`: the
//! fraction `1 - exp(-x)`). QEMU goes through the addresses from the lowest to the highest, over and
//! over, and the sets are scattered over them. So a set is known by two fractions: how dense what is
//! unsent lies ahead of the place where QEMU is, and how much of it lies behind, found by a sync after
//! QEMU had passed. Sending moves the place; a sync makes both denser, and independently of what was
//! dense before, because writes do not depend on where QEMU is.
//!
//! [`DirtyCurve`]: landfall_core::model::DirtyCurve

use super::{PAGE_BYTES, Sent, WIRE_PAGE, WIRE_ZERO};
use crate::guest::{CurvePhase, Guest};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Fluid {
    atoms: Vec<Atom>,
    /// For each phase and each set: writes to one page per second of CPU, `1 / time`.
    rates: Vec<f64>,
    /// How long each phase lasts.
    lasts: Vec<f64>,
    phase: usize,
    /// CPU time left of the phase.
    phase_left: f64,
    /// CPU time not yet applied to the sets.
    pending: f64,
    /// The place where QEMU is, as a fraction of the addresses.
    place: f64,
    /// Bytes that would be unsent ahead if all were as dense as what is: contents that are written,
    /// contents that never are, zero pages. The last two are unsent only in the first pass.
    ahead: Unsent,
    never_written: f64,
    zero: f64,
    /// Bytes unsent behind.
    behind: f64,
}

/// Unsent bytes: with contents, zero.
#[derive(Debug, Clone, Copy, Default)]
struct Unsent {
    contents: f64,
    zero: f64,
}

/// Memory that is written alike in every phase.
#[derive(Debug, Clone, Copy)]
struct Atom {
    bytes: f64,
    /// Expected writes to each of its pages since the last sync.
    writes: f64,
    /// Which fraction of what lies ahead is unsent.
    ahead: f64,
    /// Which fraction of all of it lies behind and is unsent.
    behind: f64,
}

impl Unsent {
    fn wire(self) -> f64 {
        (self.contents * WIRE_PAGE + self.zero * WIRE_ZERO) / PAGE_BYTES
    }
}

impl Fluid {
    pub(super) fn new(guest: &Guest, phases: &[CurvePhase]) -> Fluid {
        let (atoms, rates) = atoms_of(phases);
        let written: f64 = atoms.iter().map(|atom| atom.bytes).sum();
        let total = guest.memory.as_f64().max(written);
        let contents = guest.contents.as_f64().clamp(written, total);
        let lasts: Vec<f64> = phases.iter().map(|phase| phase.lasts.0).collect();
        Fluid {
            atoms,
            rates,
            phase: 0,
            phase_left: lasts.first().copied().unwrap_or(f64::INFINITY),
            lasts,
            pending: 0.0,
            place: 0.0,
            ahead: Unsent { contents, zero: total - contents },
            never_written: contents - written,
            zero: total - contents,
            behind: 0.0,
        }
    }

    pub(super) fn run(&mut self, cpu: f64) {
        self.pending += cpu;
    }

    pub(super) fn unsent(&self) -> f64 {
        (self.ahead.contents + self.ahead.zero) * (1.0 - self.place) + self.behind
    }

    pub(super) fn unsent_on_wire(&self) -> f64 {
        self.ahead.wire() * (1.0 - self.place) + self.behind * WIRE_PAGE / PAGE_BYTES
    }

    pub(super) fn send(&mut self, wire: f64) -> Sent {
        let (mut left, mut sent) = (wire, Sent::default());
        loop {
            let all = self.ahead.wire();
            let ends = left >= all * (1.0 - self.place);
            let part = if ends { 1.0 - self.place } else { left / all };
            sent.contents += self.ahead.contents * part;
            sent.zero += self.ahead.zero * part;
            left -= all * part;
            self.place += part;
            if !ends {
                return sent;
            }
            self.begin_again();
            if self.ahead.contents <= 0.0 {
                return sent;
            }
        }
    }

    /// QEMU has come to the last address and begins again at the first: what lay behind lies ahead.
    fn begin_again(&mut self) {
        for atom in &mut self.atoms {
            (atom.ahead, atom.behind) = (atom.behind, 0.0);
        }
        self.ahead = Unsent { contents: self.behind, zero: 0.0 };
        (self.never_written, self.zero) = (0.0, 0.0);
        (self.place, self.behind) = (0.0, 0.0);
    }

    pub(super) fn sync(&mut self) -> f64 {
        self.apply();
        let (ahead, behind) = (1.0 - self.place, self.place);
        let mut found = 0.0;
        self.ahead = Unsent { contents: self.never_written, zero: self.zero };
        self.behind = 0.0;
        for atom in &mut self.atoms {
            let dirty = -(-atom.writes).exp_m1();
            let (denser, more) = ((1.0 - atom.ahead) * dirty, (behind - atom.behind) * dirty);
            atom.ahead += denser;
            atom.behind += more;
            atom.writes = 0.0;
            found += (denser * ahead + more) * atom.bytes;
            self.ahead.contents += atom.ahead * atom.bytes;
            self.behind += atom.behind * atom.bytes;
        }
        found
    }

    pub(super) fn faults(&self) -> f64 {
        let rates = self.rates_of(self.phase);
        let unsent = |atom: &Atom| atom.ahead * (1.0 - self.place) + atom.behind;
        let fault = |(atom, rate): (&Atom, &f64)| atom.bytes * unsent(atom) * rate;
        self.atoms.iter().zip(rates).map(fault).sum::<f64>() / PAGE_BYTES
    }

    fn rates_of(&self, phase: usize) -> &[f64] {
        let count = self.atoms.len();
        &self.rates[phase * count..][..count]
    }

    /// Applies the CPU time since the last sync, phase by phase.
    fn apply(&mut self) {
        let mut left = std::mem::take(&mut self.pending);
        while left > 0.0 && !self.lasts.is_empty() {
            let cpu = left.min(self.phase_left);
            let count = self.atoms.len();
            let rates = &self.rates[self.phase * count..][..count];
            for (atom, rate) in self.atoms.iter_mut().zip(rates) {
                atom.writes += cpu * rate;
            }
            left -= cpu;
            self.phase_left -= cpu;
            if self.phase_left <= 0.0 {
                self.phase = (self.phase + 1) % self.lasts.len();
                // A phase that lasts no time at all would be left as soon as it is entered.
                self.phase_left = self.lasts[self.phase].max(1e-3);
            }
        }
    }
}

/// Cuts the sets of all phases into pieces that no phase cuts any further. The n-th sets of all phases
/// begin at the same address; so their ends, in order, are the cuts.
fn atoms_of(phases: &[CurvePhase]) -> (Vec<Atom>, Vec<f64>) {
    let most = phases.iter().map(|phase| phase.curve.components().len()).max().unwrap_or(0);
    let mut pieces = Vec::new();
    for n in 0..most {
        let part =
            |phase: &CurvePhase| phase.curve.components().get(n).map(|part| part.set.as_f64());
        let mut ends: Vec<f64> = phases.iter().filter_map(part).collect();
        ends.sort_by(f64::total_cmp);
        ends.dedup();
        let mut begin = 0.0;
        for end in ends {
            pieces.push((
                n,
                end,
                Atom { bytes: end - begin, writes: 0.0, ahead: 1.0, behind: 0.0 },
            ));
            begin = end;
        }
    }
    let rate = |phase: &CurvePhase, &(n, end, _): &(usize, f64, Atom)| {
        let part = phase.curve.components().get(n).filter(|part| part.set.as_f64() >= end);
        part.map_or(0.0, |part| 1.0 / part.time.0)
    };
    let mut rates = Vec::with_capacity(pieces.len() * phases.len());
    for phase in phases {
        rates.extend(pieces.iter().map(|piece| rate(phase, piece)));
    }
    (pieces.into_iter().map(|(_, _, atom)| atom).collect(), rates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::model::{Component, DirtyCurve};
    use landfall_core::units::{Bytes, CpuTime};

    fn curve(parts: &[(u64, f64)]) -> DirtyCurve {
        let part = |&(set, time)| Component { set: Bytes(set), time: CpuTime(time) };
        DirtyCurve::new(parts.iter().map(part))
    }

    fn fluid(phases: &[CurvePhase]) -> Fluid {
        Fluid::new(&Guest::with_curve(Bytes(1_000_000_000), DirtyCurve::IDLE), phases)
    }

    #[test]
    fn a_pass_leaves_what_the_curve_says() {
        let curve = curve(&[(100_000_000, 0.5), (300_000_000, 20.0)]);
        let mut memory = fluid(&[CurvePhase::forever(curve.clone())]);
        memory.send(f64::INFINITY);
        assert_eq!(memory.unsent(), 0.0);
        memory.run(2.0);
        let found = memory.sync();
        assert!((found - curve.dirtied(CpuTime(2.0)).as_f64()).abs() < 2.0);
        assert!((memory.unsent() - found).abs() < 1.0);
    }

    #[test]
    fn what_is_unsent_already_is_not_found_again() {
        let mut memory = fluid(&[CurvePhase::forever(curve(&[(100_000_000, 1e-6)]))]);
        memory.run(1.0);
        assert_eq!(memory.sync(), 0.0, "all is unsent still");
        memory.send(memory.unsent_on_wire() / 2.0);
        memory.run(1.0);
        assert!((memory.sync() - 50_000_000.0).abs() < 1.0);
    }

    #[test]
    fn phases_share_the_memory_as_far_as_both_reach_and_come_round_again() {
        let phase = |set, time| CurvePhase { lasts: CpuTime(1.0), curve: curve(&[(set, time)]) };
        let mut memory = fluid(&[phase(200_000_000, 1e-6), phase(50_000_000, 1e-6)]);
        memory.send(f64::INFINITY);
        memory.run(1.0);
        assert!((memory.sync() - 200e6).abs() < 1.0);
        memory.send(f64::INFINITY);
        memory.run(1.0);
        assert!((memory.sync() - 50e6).abs() < 1.0);
        memory.send(f64::INFINITY);
        memory.run(1.0);
        assert!((memory.sync() - 200e6).abs() < 1.0);
    }

    #[test]
    fn zero_pages_cost_next_to_nothing_on_the_wire() {
        let guest = Guest {
            contents: Bytes(4096 * 100),
            ..Guest::with_curve(Bytes(4096 * 1100), DirtyCurve::IDLE)
        };
        let memory = Fluid::new(&guest, &[CurvePhase::forever(DirtyCurve::IDLE)]);
        assert!((memory.unsent_on_wire() - (100.0 * 4104.0 + 1000.0 * 9.0)).abs() < 1e-6);
    }
}
