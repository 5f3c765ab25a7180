//! What people type: any text is a quantity in its range, which can be shown, or is refused.

#![no_main]

use landfall_core::requirements::{Aggression, Requirement, SETTINGS, Setting, Settings};
use landfall_core::units::{ByteRate, Bytes, Share, parse_duration, show_duration};
use landfall_qemu::monitor::check_migration_uri;
use landfall_qemu::qmp::QmpAddress;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(rate) = text.parse::<ByteRate>() {
        assert!(rate.0 >= 0.0 && rate.0.is_finite());
        assert!(!rate.to_string().is_empty());
    }
    if let Ok(share) = text.parse::<Share>() {
        assert!((0.0..=1.0).contains(&share.get()));
        assert!(share.to_string().ends_with('%'));
    }
    if let Ok(bytes) = text.parse::<Bytes>() {
        assert!(bytes.to_string().ends_with('B'));
    }
    if let Ok(time) = parse_duration(text) {
        assert!(!show_duration(time).is_empty());
    }
    if let Ok(aggression) = text.parse::<Aggression>() {
        assert!((0.0..=1.0).contains(&aggression.get()));
    }
    if let Ok(requirement) = text.parse::<Requirement>() {
        assert_eq!(requirement.name(), text.trim());
    }
    for name in SETTINGS.each_ref().map(|spec| spec.name) {
        if let Ok(setting) = Setting::parse(name, text) {
            let (mut once, mut again) = (Settings::default(), Settings::default());
            once.apply(setting.clone());
            again.set(name, &setting.text()).unwrap();
            let texts = |settings: &Settings| settings.all().map(|setting| setting.text());
            assert_eq!(texts(&once), texts(&again));
        }
    }
    if let Ok(address) = text.parse::<QmpAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    let _ = check_migration_uri(text);
});
