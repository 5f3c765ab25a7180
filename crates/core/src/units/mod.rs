//! Quantities that carry their unit: [`Bytes`], [`ByteRate`], [`Share`], [`Moment`], [`CpuTime`] and
//! [`CpuDemand`].
//!
//! Each reads what people type and writes what people read. Decimal and binary prefixes differ
//! (`MB` is 10^6, `MiB` is 2^20), and bits and bytes differ (`Mbit/s`, `MB/s`). A text that leaves
//! either open is refused with the ways to write it; nothing is guessed.

mod bytes;
mod cpu;
pub mod format;
mod rate;
mod share;
mod text;
mod time;

pub use bytes::{Bytes, PAGE};
pub use cpu::{CpuDemand, CpuTime};
pub use rate::ByteRate;
pub use share::Share;
pub use time::{Moment, parse_duration, show_duration};

/// A text that is not a quantity: names the text and how to say it right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}; {remedy}")]
pub struct UnitError {
    /// What was typed.
    pub text: String,
    /// The kind of quantity that was expected.
    pub what: &'static str,
    /// How to write one.
    pub remedy: &'static str,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rates_are_read_as_people_type_them() {
        let read = |text: &str| text.parse::<ByteRate>().map(|r| r.0);
        assert_eq!(read("100MB/s"), Ok(1e8));
        assert_eq!(read("100 MB/s"), Ok(1e8));
        assert_eq!(read("1Gbit/s"), Ok(1.25e8));
        assert_eq!(read("800Mbps"), Ok(1e8));
        assert_eq!(read("100MBps"), Ok(1e8));
        assert_eq!(read("8Mb/s"), Ok(1e6));
        assert_eq!(read("1MiB/s"), Ok(1048576.0));
        assert_eq!(read("1kB/s"), Ok(1000.0));
        assert_eq!(read("1KiB/s"), Ok(1024.0));
    }

    #[test]
    fn what_leaves_the_unit_open_is_refused_with_a_remedy() {
        for text in ["100", "100M", "100MB", "fast", "", "-1MB/s", "1e3MB/s", "MB/s", "1XB/s"] {
            let error = text.parse::<ByteRate>().unwrap_err();
            assert!(error.to_string().contains("100MB/s"), "{error}");
        }
        assert!("0.2".parse::<Share>().is_err());
        assert!("101%".parse::<Share>().is_err());
        assert!(parse_duration("300").is_err());
        assert!(parse_duration("1min 30").is_err());
        assert!(parse_duration("").is_err());
        assert!("96X".parse::<Bytes>().is_err());
    }

    #[test]
    fn durations_are_read_as_people_type_and_as_they_are_shown() {
        let read = |text: &str| parse_duration(text).map(|time| time.as_millis());
        assert_eq!(read("0s"), Ok(0));
        assert_eq!(read("1.5s"), Ok(1500));
        assert_eq!(read("1h30m"), Ok(5_400_000));
        assert_eq!(read(&show_duration(Duration::from_secs(125))), Ok(125_000));
    }

    #[test]
    fn sizes_follow_qemu_for_a_bare_prefix() {
        assert_eq!("256M".parse(), Ok(Bytes::mib(256)));
        assert_eq!("96MB".parse(), Ok(Bytes(96_000_000)));
        assert_eq!("96 MiB".parse(), Ok(Bytes::mib(96)));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
    }

    #[test]
    fn quantities_are_written_with_three_digits() {
        assert_eq!(Bytes(0).to_string(), "0 B");
        assert_eq!(Bytes(999_600).to_string(), "1.00 MB");
        assert_eq!(Bytes(100_663_296).to_string(), "101 MB");
        assert_eq!(ByteRate(12.34e6).to_string(), "12.3 MB/s");
        assert_eq!(Share::clamped(0.2).to_string(), "20 %");
        assert_eq!(Share::clamped(0.025).to_string(), "2.5 %");
        assert_eq!(Share::NONE.to_string(), "0 %");
        assert_eq!(show_duration(Duration::from_millis(85)), "85 ms");
        assert_eq!(show_duration(Duration::from_millis(1520)), "1.52 s");
        assert_eq!(show_duration(Duration::from_secs(125)), "2 min 05 s");
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic_or_give_a_value_out_of_range(text in "\\PC{0,16}") {
            if let Ok(rate) = text.parse::<ByteRate>() { prop_assert!(rate.0 >= 0.0) }
            if let Ok(share) = text.parse::<Share>() { prop_assert!((0.0..=1.0).contains(&share.get())) }
            let _ = text.parse::<Bytes>();
            let _ = parse_duration(&text);
        }

        #[test]
        fn a_rate_times_a_time_over_the_rate_is_the_time(mb in 1u64..100_000, ms in 1u64..1_000_000) {
            let time = Duration::from_millis(ms);
            let back = (ByteRate::mb(mb).over(time) / ByteRate::mb(mb)).unwrap();
            prop_assert!((back.as_secs_f64() - time.as_secs_f64()).abs() < 1e-6);
        }
    }
}
