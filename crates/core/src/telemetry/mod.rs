//! From raw counters to facts: sample, observer, view.

pub mod bandwidth;
pub mod observer;
pub mod progress;
pub mod sample;
pub mod view;
