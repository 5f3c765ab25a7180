//! Figures of several repeats, and tables of them.

use std::fmt;
use std::time::Duration;

use landfall_lab::statistics::quantile;

/// Measured values, sorted. Written as `least / median / most`.
pub struct Figures(Vec<f64>);

impl Figures {
    /// Of any numbers.
    pub fn new(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// Of durations, in milliseconds.
    pub fn ms(times: impl IntoIterator<Item = Duration>) -> Self {
        Self::new(times.into_iter().map(ms))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value below which a part of them lies; NaN where there are none.
    pub fn quantile(&self, part: f64) -> f64 {
        quantile(&self.0, part).unwrap_or(f64::NAN)
    }

    /// The one in the middle.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The largest.
    pub fn most(&self) -> f64 {
        self.quantile(1.0)
    }

    /// How many lie above a value.
    pub fn above(&self, value: f64) -> usize {
        self.0.iter().filter(|figure| **figure > value).count()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.pad("none");
        }
        let [least, median, most] = [0.0, 0.5, 1.0].map(|part| short(self.quantile(part)));
        f.pad(&format!("{least} / {median} / {most}"))
    }
}

/// Milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Three digits or so.
pub fn short(value: f64) -> String {
    match value.abs() {
        v if v.is_nan() => "-".to_owned(),
        v if v < 9.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Prints the head of a table; figures stand to the right of the first column.
pub fn head(columns: &[&str]) {
    println!("| {} |", columns.join(" | "));
    println!("|:--|{}", "--:|".repeat(columns.len() - 1));
}

/// Prints a line of a table.
pub fn row(cells: &[&dyn fmt::Display]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.to_string()).collect();
    println!("| {} |", cells.join(" | "));
}
