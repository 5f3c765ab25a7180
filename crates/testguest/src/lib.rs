//! Guests whose behaviour is known, for tests and experiments, and independent witnesses of what happens to
//! them.
//!
//! **What belongs here:** a bare-metal guest that dirties memory as it is told and reports its own progress
//! ([`GuestSpec`], [`Heartbeats`], [`Timeline`]), the real QEMU that runs it ([`Vm`]), a relay in place of a
//! network link of a set rate ([`LinkRelay`]), a source and a destination joined by it ([`MigrationPair`]),
//! the QMP client of tests ([`RawQmp`]), and a relay that makes a monitor slow, silent or lying
//! ([`QmpRelay`]).
//!
//! **What does not belong here:** whatever steers a migration. This crate knows no policies, and it measures
//! from inside the guest, on the wire and over a QMP socket of its own, independently of the program under
//! test. Experiments are in `landfall-lab`.
//!
//! ```no_run
//! use landfall_testguest::{Workload, PagesPerSecond, GuestSpec, Vm};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), landfall_testguest::VmError> {
//! let kind = Workload::Random { rate: PagesPerSecond(50_000) };
//! let source = Vm::builder(&GuestSpec::new(kind)).start()?;
//! let destination = source.destination().start()?;
//! source.heartbeats().ready(Duration::from_secs(10))?;
//! println!("migrate {} to {}", source.qmp_socket().display(), destination.incoming().unwrap_or("?"));
//! # Ok(()) }
//! ```

mod child;
mod cpu_isolation;
mod endpoint;
mod heartbeats;
mod image;
mod link;
mod pair;
mod qmp_relay;
mod raw_qmp;
mod retry;
mod spec;
mod timeline;
mod turn;
mod vm;

pub use cpu_isolation::IsolatedCpus;
pub use endpoint::Endpoint;
pub use heartbeats::{
    CalibratedPhase, GuestError, GuestHeader, GuestLine, Heartbeats, MemoryCheck, QemuIndex,
    WorkUnits,
};
pub use image::IMAGE;
pub use link::LinkRelay;
pub use pair::MigrationPair;
pub use qmp_relay::{HeldBack, HoldRule, QmpRelay, RelayStep, RelayedCommand};
pub use raw_qmp::{QmpAnswer, RawEvent, RawQmp, RawQmpError, SentCommand};
pub use retry::{agrees_once_in_three, claim};
pub use spec::{GuestSpec, GuestSpecError, PageContent, PagesPerSecond, WorkPhase, Workload};
pub use timeline::{Baseline, Beat, ProgressPoint, Timeline};
pub use turn::take_turn;
pub use vm::{Incoming, MachineType, Vm, VmBuilder, VmError};
