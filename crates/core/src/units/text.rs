//! Numbers, prefixes and units as texts: what the quantities of this folder share.

/// A number in decimal units: three significant digits, the prefix that suits.
pub(super) fn decimal(value: f64, unit: &str) -> String {
    let steps = ["", "k", "M", "G", "T", "P", "E"];
    let mut scaled = value;
    let mut step = 0;
    while scaled >= 999.5 && step + 1 < steps.len() {
        scaled /= 1000.0;
        step += 1;
    }
    let digits = match scaled {
        _ if step == 0 => 0,
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{scaled:.digits$} {}{unit}", steps[step])
}

/// The leading non-negative number of a text and its trimmed rest.
pub(super) fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().ok()?;
    number.is_finite().then(|| (number, unit.trim_start()))
}

/// A prefix of a unit: `k`/`M`/... with or without the `i` of the binary ones.
pub(super) struct Prefix {
    power: i32,
    binary: bool,
}

impl Prefix {
    pub(super) fn factor(&self) -> f64 {
        if self.binary { self.binary_factor() } else { 1000f64.powi(self.power) }
    }

    pub(super) fn binary_factor(&self) -> f64 {
        1024f64.powi(self.power)
    }
}

/// Splits a unit into its prefix and what follows; `None` if it has no known prefix.
pub(super) fn split_prefix(unit: &str) -> Option<(Prefix, &str)> {
    let power = match unit.chars().next()? {
        'k' | 'K' => 1,
        'M' => 2,
        'G' => 3,
        'T' => 4,
        _ => return None,
    };
    let rest = &unit[1..];
    Some(match rest.strip_prefix('i') {
        Some(rest) => (Prefix { power, binary: true }, rest),
        None => (Prefix { power, binary: false }, rest),
    })
}

/// Rounds to a whole number; `None` if it is out of range.
pub(super) fn round_to_whole(value: f64) -> Option<u64> {
    (value.is_finite() && (0.0..1.8e19).contains(&value)).then(|| value.round() as u64)
}
