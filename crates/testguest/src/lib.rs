//! Guests whose behaviour is known, for tests, the demo and benchmarks: a bare-metal program that
//! dirties memory as it is told and reports its own progress ([`Spec`]), a real QEMU that runs it
//! ([`Vm`]), the timeline of its work ([`Heartbeats`], [`Timeline`]), and a link of a set speed
//! between two of them ([`Link`]). What steers a migration does not belong here: this crate knows
//! nothing of policies, and what it measures it measures from inside the guest and from the wire,
//! independently of the program under test.
//!
//! ```no_run
//! use landfall_testguest::{Kind, PagesPerSecond, Spec, Vm};
//! use std::time::Duration;
//!
//! # fn main() -> Result<(), landfall_testguest::VmError> {
//! let kind = Kind::Random { rate: PagesPerSecond(50_000) };
//! let source = Vm::builder(&Spec::new(kind)).start()?;
//! let destination = source.destination().start()?;
//! source.heartbeats().ready(Duration::from_secs(10))?;
//! println!("migrate {} to {}", source.qmp_socket().display(), destination.incoming().unwrap_or("?"));
//! # Ok(()) }
//! ```

mod child;
mod cpu_isolation;
mod heartbeats;
mod image;
mod link;
mod pair;
mod raw_qmp;
mod retry;
mod spec;
mod timeline;
mod vm;

pub use cpu_isolation::IsolatedCpus;
pub use heartbeats::{GuestError, Header, HeaderPhase, Heartbeats, Line, Place, Units, Verified};
pub use image::IMAGE;
pub use link::{Endpoint, Link};
pub use pair::Pair;
pub use raw_qmp::{RawQmp, RawQmpError};
pub use retry::{agrees_once_in_three, claim};
pub use spec::{Content, Kind, PagesPerSecond, Phase, Spec, SpecError};
pub use timeline::{Baseline, Beat, Sample, Timeline};
pub use vm::{Incoming, Machine, Vm, VmBuilder, VmError};
