//! What is known of a guest: its dirty curve, estimated from measurements.

mod dirty_curve;
mod estimator;
mod fit;
mod lazy_estimate;
mod least_squares;
pub mod prior;

pub use dirty_curve::{Component, DirtyCurve};
pub use estimator::{Estimate, Estimator};
pub use fit::{CurvePoint, fit};
pub use lazy_estimate::{LazyEstimate, SyncObservation};
