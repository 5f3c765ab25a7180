//! The laboratory: everything that boots guests of its own to see what a migration really does.
//!
//! **What belongs here:** the demo ([`demo`]), policies against each other ([`bench`](mod@bench)), forecasts against
//! measurements ([`accuracy`]), the theory against measurements ([`theory`]), policies against the oracle
//! ([`regret`]), and the programs in `examples/` that measure what the kernel and QEMU do. [`run`] is the
//! one run that they share: boot a guest, move it, ask it how it fared. [`doc_page`] writes the pages in
//! `docs/` that hold their figures.
//!
//! **What does not belong here:** anything that a host needs. `landfall` contains this crate only with its
//! feature `lab`. Guests, links and the independent QMP client are in `landfall-testguest`; what the program
//! needs as well is in `landfall-migration`.

pub mod accuracy;
pub mod bench;
pub mod demo;
pub mod doc_page;
mod error;
pub mod regret;
pub mod run;
pub mod statistics;
pub mod theory;
pub use error::ExperimentError;
