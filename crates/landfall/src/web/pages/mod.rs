//! The pages, as HTML: a file for each, the frame that they share, and the words for what they show.

pub mod guest_page;
pub mod guests_page;
pub mod history_page;
mod labels;
pub mod layout;
pub mod migration_page;
pub mod what_if_page;

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use landfall_core::model::CurvePoint;
    use landfall_core::model::prior::Prior;
    use landfall_core::units::{ByteRate, Bytes, CpuDemand, CpuTime};
    use landfall_migration::preflight::Preflight;

    use super::*;
    use crate::web::charts::PageWidth;
    use crate::web::guests::{GuestList, GuestProbe, ListedGuest};
    use crate::web::migrations::RecordedMigration;
    use crate::web::settings_form::SettingsForm;
    use crate::web::timeline::MigrationTimeline;
    use crate::web::what_if::{WhatIf, WhatIfGrade, answer_what_if};

    /// A guest that writes its working set again about three times as fast as the link carries it.
    fn busy_guest() -> (ListedGuest, GuestProbe) {
        let point = |cpu: f64, dirtied: f64| CurvePoint {
            cpu: CpuTime(cpu),
            dirtied: Bytes(dirtied as u64),
            error: 0.05,
        };
        let prior = Prior {
            points: vec![point(0.1, 5e6), point(1.0, 40e6), point(2.0, 55e6)],
            contents: Some(Bytes(90_000_000)),
            memory: Some(Bytes(256_000_000)),
            cpu_demand: Some(CpuDemand(1.0)),
            link: Some(ByteRate(16e6)),
            emulated: false,
        };
        let probe = GuestProbe {
            preflight: Preflight { prior, vcpus: 1, notes: vec![] },
            ended_at: Instant::now(),
            pareto_cache: Default::default(),
        };
        let guests = GuestList::new(vec!["unix:/nowhere/db1.qmp".parse().unwrap()]);
        (guests.list().remove(0), probe)
    }

    fn what_if(probe: &GuestProbe, form: &SettingsForm) -> WhatIf {
        answer_what_if(probe, form, WhatIfGrade::Planned, &|| true).unwrap()
    }

    fn form(fields: &[(&str, &str)]) -> SettingsForm {
        let owned = |(name, text): &(&str, &str)| ((*name).to_owned(), (*text).to_owned());
        SettingsForm::parse(&fields.iter().map(owned).collect::<Vec<_>>())
    }

    #[test]
    fn a_guest_page_has_every_part_that_the_script_replaces() {
        let (mut guest, probe) = busy_guest();
        let form = form(&[("aggression", "0.5")]);
        let what_if = what_if(&probe, &form);
        let width = PageWidth::from_request(None);
        guest.probe = Some(probe.into());
        let page = guest_page::guest_page(&guest, &form, Some(&what_if), &[], Some("x"), width);
        let page = page.into_string();
        let parts = what_if_page::changing_parts(&what_if, &form, width).into_string();
        for id in ["class", "implied", "frontier", "curve", "meaning", "wrong"] {
            let id = format!("id=\"{id}\"");
            assert_eq!(page.matches(&id).count(), 1, "{id} on the page");
            assert_eq!(parts.matches(&id).count(), 1, "{id} in the parts");
        }
        for id in ["settings", "dial-value", "said", "destination", "destination-qmp", "start"] {
            assert!(page.contains(&format!("id=\"{id}\"")), "{id}: {page}");
        }
        assert!(page.contains("href=\"/migrations/x\"") && page.contains("Measure again"));
    }

    #[test]
    fn a_guest_that_was_not_measured_is_explained() {
        let (guest, _) = busy_guest();
        let form = form(&[]);
        let width = PageWidth::from_request(None);
        let page = guest_page::guest_page(&guest, &form, None, &[], None, width).into_string();
        assert!(page.contains("Not measured yet") && page.contains("Measure this guest"), "{page}");
    }

    #[test]
    fn what_cannot_be_kept_is_said_with_buttons_that_resolve_it() {
        let (_, probe) = busy_guest();
        let form = form(&[("max-stall", "20ms"), ("max-bandwidth", "magic")]);
        let what_if = what_if(&probe, &form);
        let parts =
            what_if_page::changing_parts(&what_if, &form, PageWidth::from_request(Some(320)));
        let parts = parts.into_string();
        assert!(parts.contains("class=\"conflict\"") && parts.contains("cannot land"), "{parts}");
        assert!(parts.contains("name=\"apply\" value=\"max-stall="), "{parts}");
        assert!(parts.contains("data-field=\"max-bandwidth\""), "{parts}");
    }

    #[test]
    fn a_running_migration_can_be_followed_changed_and_cancelled() {
        let migration = RecordedMigration {
            name: "20261122-023139-db1".into(),
            file: "/nowhere/20261122-023139-db1.jsonl".into(),
            start_note: None,
        };
        let timeline = MigrationTimeline::new(&migration.file);
        let data = migration_page::MigrationPageData {
            migration: &migration,
            timeline: &timeline,
            expected: None,
            report: None,
            is_running: true,
        };
        let width = PageWidth::from_request(None);
        let page = migration_page::migration_page(&data, &Default::default(), width).into_string();
        for part in [
            "data-events=\"/migrations/20261122-023139-db1/events\"",
            "action=\"/migrations/20261122-023139-db1/set\"",
            "action=\"/migrations/20261122-023139-db1/cancel\"",
            "id=\"state\"",
            "id=\"now\"",
            "id=\"picture\"",
            "id=\"max-stall\"",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        let ended = migration_page::MigrationPageData { is_running: false, ..data };
        let page = migration_page::migration_page(&ended, &Default::default(), width).into_string();
        assert!(page.contains("It ended without a report") && page.contains("query-status"));
        assert!(!page.contains("/cancel") && !page.contains("data-events"), "{page}");
    }
}
