//! The first page: all guests.

use std::time::Instant;

use maud::{Markup, html};

use super::labels::{badge, class_badge};
use super::layout::{NavEntry, format_age, page_frame};
use crate::web::guests::ListedGuest;
use crate::web::what_if::class_by_default;

/// A migration that is running now.
pub struct ActiveMigration {
    /// The source's monitor.
    pub source: String,
    /// The migration's name, if it has a page.
    pub name: Option<String>,
    /// How far it is, if its landfall says so.
    pub progress: Option<String>,
}

/// Renders the page.
pub fn guests_page(guests: &[ListedGuest], active: &[ActiveMigration]) -> Markup {
    let contents = html! {
        .title {
            h1 { "Guests" }
            p.hint { "Guests named by --guest, QEMUs that run on this host, and guests added below." }
        }
        @if guests.is_empty() {
            p.empty {
                "No QEMU with a QMP socket runs on this host. Start QEMU with "
                code { "-qmp unix:/run/vm.qmp,server=on,wait=off" }
                ", or add the address of a guest's QMP monitor below."
            }
        } @else {
            table.cards {
                thead { tr {
                    th scope="col" { "Guest" }
                    th scope="col" { "Migration" }
                    th scope="col" { "QMP monitor" }
                    th scope="col" { "Measured" }
                    th scope="col" { span.unseen { "Actions" } }
                } }
                tbody { @for guest in guests { (guest_row(guest, active)) } }
            }
        }
        section {
            h2 { "Add a guest" }
            form.inline method="post" action="/guests" {
                .field {
                    label for="monitor" { "QMP monitor" }
                    input id="monitor" name="monitor" required placeholder="unix:/run/vm.qmp" size="34"
                        autocomplete="off" spellcheck="false";
                }
                button { "Add" }
            }
        }
    };
    page_frame("Guests", NavEntry::Guests, contents)
}

fn guest_row(guest: &ListedGuest, active: &[ActiveMigration]) -> Markup {
    let class = guest.probe.as_ref().and_then(|probe| class_by_default(probe));
    let monitor = guest.monitor.to_string();
    let migration = active.iter().find(|migration| migration.source == monitor);
    html! {
        tr {
            th scope="row" {
                a href={ "/guests/" (guest.id) } { (guest.name) }
                @if let Some(qemu) = &guest.qemu {
                    span.sub {
                        "QEMU process " (qemu.pid)
                        @if let Some(owner) = qemu.owner.shown() { " " (owner) }
                        @if qemu.options.incoming.is_some() { ", started to receive a migration" }
                    }
                }
            }
            td data-name="Migration" {
                @match class {
                    Some(class) => (class_badge(class)),
                    None => span.none { "not measured" },
                }
            }
            td data-name="QMP monitor" { code { (monitor) } }
            td data-name="Measured" { (probe_age(guest)) }
            td.act {
                @match migration {
                    Some(ActiveMigration { name: Some(name), .. }) => {
                        a.button href={ "/migrations/" (name) } { "Migrating…" }
                    }
                    Some(ActiveMigration { progress, .. }) => {
                        (badge("live", "migrating, not started here"))
                        @if let Some(progress) = progress { span.sub { (progress) } }
                    }
                    None => (probe_button(guest, ProbeButton::Short)),
                }
            }
        }
    }
}

fn probe_age(guest: &ListedGuest) -> Markup {
    html! {
        @match &guest.probe {
            _ if guest.is_probing => "now…",
            Some(probe) => (format_age(Instant::now().saturating_duration_since(probe.ended_at))),
            None => span.none { "never" },
        }
    }
}

/// How much the text of a probe button says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeButton {
    /// For a list.
    Short,
    /// For the page of the guest.
    Long,
}

/// Renders the button that probes a guest.
pub fn probe_button(guest: &ListedGuest, length: ProbeButton) -> Markup {
    html! {
        form method="post" action={ "/guests/" (guest.id) "/look" } data-busy="Measuring…" {
            button disabled[guest.is_probing] {
                @match (guest.probe.is_some(), length) {
                    (true, _) => "Measure again",
                    (false, ProbeButton::Short) => "Measure",
                    (false, ProbeButton::Long) => "Measure this guest",
                }
                span.unseen { " (" (guest.name) ")" }
            }
        }
    }
}
