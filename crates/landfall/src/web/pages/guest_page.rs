//! The page of a guest: how it writes memory, what settings imply, and the start of its migration.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use landfall_core::policy;
use landfall_core::requirements::{Requirement, SETTINGS, SettingSpec};
use maud::{Markup, html};

use super::guests_page::{ProbeButton, probe_button};
use super::labels::requirement_label;
use super::layout::{NavEntry, format_age, page_frame, sentence};
use super::what_if_page;
use crate::web::charts::PageWidth;
use crate::web::guests::{GuestProbe, ListedGuest};
use crate::web::settings_form::SettingsForm;
use crate::web::what_if::WhatIf;

/// Policies that the form does not offer: a page has no field to allow post-copy.
const NOT_OFFERED: &str = "post-copy";

/// A QEMU on this host that was started to wait for a migration.
pub struct WaitingQemu {
    /// The migration URI that it waits at.
    pub uri: String,
    /// Its monitor.
    pub monitor: String,
    /// The name that people read.
    pub name: String,
}

/// Renders the page; with what the settings imply if the guest was probed, and the name of its migration
/// if one runs.
pub fn guest_page(
    guest: &ListedGuest,
    form: &SettingsForm,
    what_if: Option<&WhatIf>,
    waiting: &[WaitingQemu],
    running: Option<&str>,
    width: PageWidth,
) -> Markup {
    let contents = html! {
        .title {
            h1 { (guest.name) }
            @if let Some(what_if) = what_if { (what_if_page::class_part(what_if)) }
            (facts(guest))
            (probe_button(guest, ProbeButton::Long))
        }
        @if let Some(name) = running {
            p.note { "This guest is being migrated. " a href={ "/migrations/" (name) } { "Watch it" } }
        }
        @if let Some(error) = &guest.probe_error {
            p.problem role="alert" { "The guest could not be measured. " (sentence(error)) }
        }
        @match (&guest.probe, what_if) {
            (Some(probe), Some(what_if)) => {
                (migration_form(guest, form, what_if, waiting, width))
                (probe_results(probe, what_if, width))
            }
            _ => (not_probed(guest)),
        }
    };
    page_frame(&guest.name, NavEntry::Guests, contents)
}

fn facts(guest: &ListedGuest) -> Markup {
    html! {
        p.hint {
            code { (guest.monitor) }
            @if let Some(qemu) = &guest.qemu {
                " · QEMU process " (qemu.pid)
                @if let Some(owner) = qemu.owner.shown() { " " (owner) }
            }
            @if let Some(probe) = &guest.probe {
                " · measured "
                span data-since=(probe_unix_seconds(probe)) {
                    (format_age(Instant::now().saturating_duration_since(probe.ended_at)))
                }
            }
        }
    }
}

/// Returns when the guest was probed, in seconds since 1970. The script on the page counts on from there.
fn probe_unix_seconds(probe: &GuestProbe) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Instant::now().saturating_duration_since(probe.ended_at)).as_secs()
}

fn not_probed(guest: &ListedGuest) -> Markup {
    html! {
        section.empty {
            h2 { "Not measured yet" }
            p {
                "Measuring takes three seconds. QEMU computes checksums of pages drawn at random, to see "
                "how fast " (guest.name) " writes its memory; that takes a few microseconds of its host's "
                "CPU for each page. Nothing in the guest changes, and it is not throttled. A QMP monitor "
                "serves one client at a time, so landfall occupies it meanwhile."
            }
            p {
                "After that, this page shows the total time, guest CPU, stall and lost work that each "
                "setting implies, before you start a migration."
            }
        }
    }
}

/// Renders the form: the dial, what the settings imply, the requirements, and the start.
fn migration_form(
    guest: &ListedGuest,
    form: &SettingsForm,
    what_if: &WhatIf,
    waiting: &[WaitingQemu],
    width: PageWidth,
) -> Markup {
    let page = format!("/guests/{}", guest.id);
    let aggression = form.settings.aggression.get();
    html! {
        form id="settings" method="post" action={ (page) "/start" } autocomplete="off"
            data-implied={ (page) "/implied" } {
            // Enter presses the first button of a form: this one changes nothing.
            button.noscript formmethod="get" formaction=(page) formnovalidate { "Show what this implies" }
            section.dial aria-labelledby="dial" {
                h2 id="dial" { label for="aggression" { "Aggression" } }
                output id="dial-value" for="aggression" { (format!("{aggression:.2}")) }
                input id="aggression" name="aggression" type="range" min="0" max="1" step="0.05"
                    value=(aggression) aria-describedby="dial-ends";
                p.ends id="dial-ends" { span { "disturb the guest least" } span { "finish soonest" } }
            }
            (what_if_page::figures_part(what_if, form))
            p.unseen id="said" role="status" {}
            .two {
                .stack { (requirement_fields(form)) (start_fields(waiting)) }
                (what_if_page::trade_offs_part(what_if, form, width))
            }
        }
    }
}

fn requirement_fields(form: &SettingsForm) -> Markup {
    html! {
        fieldset.card {
            legend { "Requirements" }
            .fields {
                @for spec in SETTINGS.iter().take(Requirement::ALL.len()) { (text_field(form, spec)) }
            }
            (give_way_fields(form))
            .field {
                label for="policy" { "Policy" }
                select id="policy" name="policy" {
                    @for entry in policy::ALL.iter().filter(|entry| entry.name != NOT_OFFERED) {
                        option value=(entry.name) selected[entry.name == form.policy] { (entry.name) }
                    }
                }
                p.hint id="policy-hint" { (policy_help(&form.policy)) }
            }
            (what_if_page::field_problems_part(form))
        }
    }
}

fn policy_help(name: &str) -> &'static str {
    policy::ALL.iter().find(|entry| entry.name == name).map_or("", |entry| entry.help)
}

fn text_field(form: &SettingsForm, spec: &SettingSpec) -> Markup {
    let SettingSpec { name, label, hint, default, .. } = *spec;
    let described = format!("{name}-hint {name}-wrong");
    html! {
        .field {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(form.typed_text(name)) placeholder=(default)
                spellcheck="false" autocapitalize="off" aria-describedby=(described)
                aria-invalid=[form.problem_of(name).map(|_| "true")];
            p.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

/// Renders the order in which requirements may be broken.
fn give_way_fields(form: &SettingsForm) -> Markup {
    html! {
        fieldset.order {
            legend { "If they cannot all be kept, what may be broken" }
            @for (index, label) in ["first", "then", "last"].into_iter().enumerate() {
                .field {
                    label for={ "give-way-" (index) } { (label) }
                    select id={ "give-way-" (index) } name="give-way" {
                        option value="" { "none" }
                        @for which in Requirement::ALL {
                            option value=(which) selected[form.give_way_name(index) == which.name()] {
                                (requirement_label(which))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn start_fields(waiting: &[WaitingQemu]) -> Markup {
    html! {
        fieldset.card.start {
            legend { "Migrate" }
            .fields {
                .field {
                    label for="destination" { "To" }
                    input id="destination" name="destination" required list="nearby"
                        placeholder="tcp:otherhost:4444" spellcheck="false" autocapitalize="off"
                        aria-describedby="destination-hint";
                    p.hint id="destination-hint" { "where a QEMU waits that was started with -incoming" }
                }
                .field {
                    label for="destination-qmp" { "Its QMP monitor (optional)" }
                    input id="destination-qmp" name="destination-qmp" list="nearby-monitors"
                        placeholder="unix:/run/new.qmp" spellcheck="false" autocapitalize="off"
                        aria-describedby="destination-qmp-hint";
                    p.hint id="destination-qmp-hint" {
                        "lets landfall check the destination first, and see that the guest runs there"
                    }
                }
            }
            datalist id="nearby" {
                @for qemu in waiting { option value=(qemu.uri) { (qemu.name) } }
            }
            datalist id="nearby-monitors" {
                @for qemu in waiting { option value=(qemu.monitor) { (qemu.name) } }
            }
            button.main id="start" { "Start the migration" }
        }
    }
}

fn probe_results(probe: &GuestProbe, what_if: &WhatIf, width: PageWidth) -> Markup {
    let prior = &probe.preflight.prior;
    let fact = |name: &str, value: Option<String>| {
        html! { div { dt { (name) } dd { (value.unwrap_or_else(|| "not known".to_owned())) } } }
    };
    html! {
        section.two {
            (what_if_page::dirty_curve_part(what_if, width))
            .card {
                h2 { "What was measured" }
                (what_if_page::class_explanation_part(what_if))
                dl.facts {
                    (fact("Memory", prior.memory.map(|bytes| bytes.to_string())))
                    (fact("Memory in use", prior.contents.map(|bytes| bytes.to_string())))
                    (fact("vCPUs", Some(probe.preflight.vcpus.to_string())))
                    (fact("CPU in use", prior.cpu_demand.map(|pace| pace.to_string())))
                    (fact("Link, as set in QEMU", prior.link.map(|link| link.to_string())))
                }
                @for note in &probe.preflight.notes { p.hint { (note) } }
            }
        }
    }
}
