//! Quantities as people type them: the shortest text that is read as just this value again.
//!
//! What is shown to be read has three digits and a blank before the unit ([`crate::units`]); what is
//! shown to be typed, in a remedy or a file, has to mean the same when it is.

use std::time::Duration;

use crate::units::{ByteRate, Share, parse_duration};

/// A rate: `100MB/s`, `95MiB/s`, `1.25GB/s`.
pub fn rate(rate: ByteRate) -> String {
    const UNITS: [(&str, f64); 6] = [
        ("GB/s", 1e9),
        ("GiB/s", 1073741824.0),
        ("MB/s", 1e6),
        ("MiB/s", 1048576.0),
        ("kB/s", 1e3),
        ("B/s", 1.0),
    ];
    let reads = |text: &String| text.parse() == Ok(rate);
    shortest(UNITS.map(|(unit, size)| (unit, rate.0 / size)), reads)
}

/// A share: `20%`, `2.5%`. What no percentage is exactly is rounded in the thirteenth digit.
pub fn share(share: Share) -> String {
    let near = |read: Share| (read.get() - share.get()).abs() < 1e-12;
    shortest([("%", share.get() * 100.0)], |text| text.parse().is_ok_and(near))
}

/// A duration: `300ms`, `1.5s`, `2min`.
pub fn duration(time: Duration) -> String {
    const UNITS: [(&str, f64); 5] =
        [("h", 3600.0), ("min", 60.0), ("s", 1.0), ("ms", 1e-3), ("us", 1e-6)];
    let reads = |text: &String| parse_duration(text) == Ok(time);
    shortest(UNITS.map(|(unit, size)| (unit, time.as_secs_f64() / size)), reads)
}

/// The shortest number and unit that reads as it should, those above one before the others; where none
/// does, the last unit with all the digits there are.
fn shortest<const N: usize>(units: [(&str, f64); N], reads: impl Fn(&String) -> bool) -> String {
    let tries = units.iter().flat_map(|(unit, value)| {
        (0..=MOST_DIGITS).map(move |digits| (*value, format!("{value:.digits$}{unit}")))
    });
    let fits = tries.filter(|(_, text)| reads(text));
    let best = fits.min_by_key(|(value, text)| (*value != 0.0 && *value < 1.0, text.len()));
    let exact = || units.last().map_or_else(String::new, |(unit, value)| format!("{value}{unit}"));
    best.map_or_else(exact, |(_, text)| text)
}

/// Digits after the point to try.
const MOST_DIGITS: usize = 9;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn round_values_are_typed_as_people_type_them() {
        for text in ["100MB/s", "95MiB/s", "1.25GB/s", "1GB/s", "340MB/s", "12kB/s", "0B/s"] {
            assert_eq!(rate(text.parse().unwrap()), text);
        }
        for text in ["20%", "2.5%", "0%", "100%", "7%", "33.3%"] {
            assert_eq!(share(text.parse().unwrap()), text);
        }
        for text in ["300ms", "1.5s", "2min", "90s", "1h", "50us", "1.1s"] {
            assert_eq!(duration(parse_duration(text).unwrap()), text);
        }
        assert_eq!(rate("1Gbit/s".parse().unwrap()), "125MB/s");
    }

    proptest! {
        #[test]
        fn what_is_typed_reads_as_what_it_was(
            bytes in 0.0f64..1e12, part in 0.0f64..=1.0, micros in 0u64..100_000_000_000,
        ) {
            prop_assert_eq!(rate(ByteRate(bytes)).parse(), Ok(ByteRate(bytes)));
            let typed = share(Share::clamped(part)).parse::<Share>().unwrap();
            prop_assert!((typed.get() - part).abs() < 1e-12);
            let time = Duration::from_micros(micros);
            prop_assert_eq!(parse_duration(&duration(time)), Ok(time));
        }
    }
}
