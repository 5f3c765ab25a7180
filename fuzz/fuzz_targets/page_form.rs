//! The form of the page: any fields are settings or problems, and never an option that the form does
//! not offer.

#![no_main]

use landfall_core::requirements::{SETTINGS, Settings};
use libfuzzer_sys::fuzz_target;

// The page is part of a program, not of a library, so its reader is compiled in here.
#[allow(dead_code)]
#[path = "../../crates/landfall/src/web/settings_form.rs"]
mod settings_form;

use settings_form::SettingsForm;

fuzz_target!(|fields: Vec<(u8, String)>| {
    let names: Vec<&str> =
        SETTINGS.iter().map(|spec| spec.name).chain(["policy", "apply", "other"]).collect();
    let named = |(name, text): &(u8, String)| {
        (names[usize::from(*name) % names.len()].to_owned(), text.clone())
    };
    let fields: Vec<(String, String)> = fields.iter().take(64).map(named).collect();
    let form = SettingsForm::parse(&fields);
    for problem in &form.problems {
        assert!(!problem.error.to_string().is_empty());
        assert_eq!(form.problem_of(&problem.field).is_some(), true);
    }
    assert!(form.built_in_policy().name() != "" && form.give_way_name(usize::MAX).is_empty());
    let options = form.migrate_options();
    let mut again = Settings::default();
    for pair in options.chunks(2) {
        let [name, text] = pair else { panic!("an option without a value: {options:?}") };
        match name.strip_prefix("--").unwrap() {
            "policy" => assert_eq!(*text, form.policy),
            name => again.set(name, text).unwrap(),
        }
    }
    let texts = |settings: &Settings| settings.all().map(|setting| setting.text());
    assert_eq!(texts(&again), texts(&form.settings));
});
