//! The second dial of 2011: how much the guest may be disturbed for an earlier end.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The second dial of 2011: 0 disturbs the guest least, 1 stalls it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Aggression(f64);

impl Aggression {
    /// Where the guest is disturbed least.
    pub const LEAST: Aggression = Aggression(0.0);

    /// The middle of the dial.
    pub const DEFAULT: Aggression = Aggression(0.5);

    /// An aggression, or `None` outside 0.0 to 1.0.
    pub fn new(value: f64) -> Option<Self> {
        (0.0..=1.0).contains(&value).then_some(Self(value))
    }

    /// The setting, 0.0 to 1.0.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for Aggression {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// A text that is not an aggression: names it and how to write one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not an aggression; write a number from 0.0 (disturb least) to 1.0 (stall the guest)"
)]
pub struct InvalidAggression(pub String);

impl FromStr for Aggression {
    type Err = InvalidAggression;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let value = text.trim().parse().ok().and_then(Self::new);
        value.ok_or_else(|| InvalidAggression(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggression_outside_its_dial_is_refused() {
        for text in ["-0.1", "1.1", "NaN", "high", ""] {
            assert!(text.parse::<Aggression>().is_err(), "{text}");
        }
        assert_eq!("1".parse::<Aggression>().unwrap().get(), 1.0);
    }
}
