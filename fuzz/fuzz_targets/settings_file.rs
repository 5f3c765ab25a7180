//! Files of requirements (`--requirements`), and settings in JSON: any text is refused in words, or
//! gives settings that are written and read again without a change.

#![no_main]

use landfall_core::requirements::Settings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match toml::from_str::<Settings>(text) {
        Ok(settings) => check(&settings),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Ok(settings) = serde_json::from_str::<Settings>(text) {
        check(&settings);
    }
});

fn check(settings: &Settings) {
    let text = serde_json::to_string(settings).unwrap();
    assert_eq!(serde_json::from_str::<Settings>(&text).unwrap(), *settings, "{text}");
    let mut typed = Settings::default();
    for setting in settings.changed_from(&Settings::default()) {
        typed.set(setting.name(), &setting.text()).unwrap();
    }
    let texts = |settings: &Settings| settings.all().map(|setting| setting.text());
    assert_eq!(texts(&typed), texts(settings));
}
