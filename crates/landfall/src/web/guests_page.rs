//! The first page: all guests.

use std::time::Instant;

use landfall_core::report::Class;
use maud::{Markup, html};

use super::guests::Guest;
use super::implied::class_by_default;
use super::layout::{Place, ago, badge, class_name, page};

/// A guest that is being migrated: the source's monitor, and the migration's page, where it has one.
pub struct UnderWay {
    pub source: String,
    pub name: Option<String>,
    /// How it stands, where it says so.
    pub stands: Option<String>,
}

/// The page.
pub fn guests(guests: &[Guest], under_way: &[UnderWay]) -> Markup {
    let contents = html! {
        .title { h1 { "Guests" } p.hint { "Named at the start, running on this host, or added below." } }
        @if guests.is_empty() {
            p.empty {
                "No QEMU with a monitor socket runs here. Start one with "
                code { "-qmp unix:/run/vm.qmp,server=on,wait=off" } ", or add the address of a monitor."
            }
        } @else {
            table.cards {
                thead { tr {
                    th scope="col" { "Guest" }
                    th scope="col" { "By itself" }
                    th scope="col" { "Monitor" }
                    th scope="col" { "Looked at" }
                    th scope="col" { span.unseen { "What can be done" } }
                } }
                tbody { @for guest in guests { (row(guest, under_way)) } }
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
    page("Guests", Place::Guests, contents)
}

fn row(guest: &Guest, under_way: &[UnderWay]) -> Markup {
    let class = guest.looked.as_ref().and_then(|looked| class_by_default(looked));
    let monitor = guest.monitor.to_string();
    let migration = under_way.iter().find(|migration| migration.source == monitor);
    html! {
        tr {
            th scope="row" {
                a href={ "/guests/" (guest.id) } { (guest.name) }
                @if let Some(qemu) = &guest.qemu {
                    span.sub {
                        "QEMU " (qemu.pid)
                        @if qemu.incoming.is_some() { ", started to take a guest over" }
                    }
                }
            }
            td data-name="By itself" {
                @match class {
                    Some(class) => (badge(class_colour(class), class_name(class))),
                    None => span.none { "not looked at" },
                }
            }
            td data-name="Monitor" { code { (monitor) } }
            td data-name="Looked at" { (looked_at(guest)) }
            td.act {
                @match migration {
                    Some(UnderWay { name: Some(name), .. }) => {
                        a.button href={ "/migrations/" (name) } { "Migrating…" }
                    }
                    Some(UnderWay { stands, .. }) => {
                        (badge("live", "migrating, started elsewhere"))
                        @if let Some(stands) = stands { span.sub { (stands) } }
                    }
                    None => (look(guest, true)),
                }
            }
        }
    }
}

/// When it was looked at.
pub fn looked_at(guest: &Guest) -> Markup {
    html! {
        @match &guest.looked {
            _ if guest.looking => "now…",
            Some(looked) => (ago(Instant::now().saturating_duration_since(looked.at))),
            None => span.none { "never" },
        }
    }
}

/// The button that probes it.
pub fn look(guest: &Guest, short: bool) -> Markup {
    let again = guest.looked.is_some();
    html! {
        form method="post" action={ "/guests/" (guest.id) "/look" } data-busy="Looking…" {
            button disabled[guest.looking] {
                @match (again, short) {
                    (true, _) => "Look again",
                    (false, true) => "Look",
                    (false, false) => "Look at this guest",
                }
                span.unseen { " (" (guest.name) ")" }
            }
        }
    }
}

/// The colour that a class has.
pub fn class_colour(class: Class) -> &'static str {
    match class {
        Class::Unaided => "good",
        Class::Middle => "fair",
        Class::Pathological => "bad",
        Class::Unknown => "",
    }
}
