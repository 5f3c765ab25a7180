//! The page of a guest: how it writes, what each setting implies, and the start of its migration.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use landfall_core::policy;
use landfall_core::requirements::Requirement;
use maud::{Markup, html};

use super::guests::{Guest, Looked};
use super::guests_page::look;
use super::implied::Implied;
use super::implied_page;
use super::layout::{Place, ago, page};
use super::pictures::Room;
use super::settings::Settings;

/// A destination on this host: its URI, its monitor, its name.
pub type Nearby = (String, String, String);

/// The page; what is implied where the guest was looked at.
pub fn guest(
    guest: &Guest,
    settings: &Settings,
    implied: Option<&Implied>,
    nearby: &[Nearby],
    under_way: Option<&str>,
    room: Room,
) -> Markup {
    let contents = html! {
        .title {
            h1 { (guest.name) }
            @if let Some(implied) = implied { (implied_page::class(implied)) }
            (facts(guest))
            (look(guest, false))
        }
        @if let Some(name) = under_way {
            p.note { "It is being migrated. " a href={ "/migrations/" (name) } { "Watch it" } }
        }
        @if let Some(trouble) = &guest.trouble {
            p.problem role="alert" { "The last look failed: " (trouble) }
        }
        @match (&guest.looked, implied) {
            (Some(looked), Some(implied)) => {
                (studio(guest, settings, implied, nearby, room))
                (how_it_writes(looked, implied, room))
            }
            _ => (unseen(guest)),
        }
    };
    page(&guest.name, Place::Guests, contents)
}

fn facts(guest: &Guest) -> Markup {
    html! {
        p.hint {
            code { (guest.monitor) }
            @if let Some(qemu) = &guest.qemu { " · QEMU " (qemu.pid) }
            @if let Some(looked) = &guest.looked {
                " · looked at "
                span data-since=(since(looked)) {
                    (ago(Instant::now().saturating_duration_since(looked.at)))
                }
            }
        }
    }
}

/// When it was looked at, in seconds since 1970, for the page to count on.
fn since(looked: &Looked) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Instant::now().saturating_duration_since(looked.at)).as_secs()
}

fn unseen(guest: &Guest) -> Markup {
    html! {
        section.empty {
            h2 { "Nothing is known of it yet" }
            p {
                "A look watches for three seconds how " (guest.name) " writes its memory: QEMU takes "
                "checksums of pages drawn at random, a few microseconds of its host's time each. Nothing "
                "in the guest is changed, and it is not held. QEMU's monitor serves one client at a time, "
                "and is landfall's for as long."
            }
            p { "Then each setting's total time, CPU, stall and lost work are shown here, before you start." }
        }
    }
}

/// The dial, the requirements, what they imply, and the start: one form.
fn studio(
    guest: &Guest,
    settings: &Settings,
    implied: &Implied,
    nearby: &[Nearby],
    room: Room,
) -> Markup {
    let here = format!("/guests/{}", guest.id);
    html! {
        form id="settings" method="post" action={ (here) "/start" } autocomplete="off"
            data-implied={ (here) "/implied" } {
            // The first button is the one that Enter presses: it changes nothing.
            button.noscript formmethod="get" formaction=(here) formnovalidate { "Show what this implies" }
            section.dial aria-labelledby="dial" {
                h2 id="dial" { label for="aggression" { "Aggression" } }
                output id="dial-value" for="aggression" { (format!("{:.2}", settings.demands.aggression.get())) }
                input id="aggression" name="aggression" type="range" min="0" max="1" step="0.05"
                    value=(settings.demands.aggression.get()) aria-describedby="dial-ends";
                p.ends id="dial-ends" { span { "disturb the guest least" } span { "end soonest" } }
            }
            (implied_page::figures(implied, settings))
            p.unseen id="said" role="status" {}
            .two {
                .stack { (requirements(settings)) (start(nearby)) }
                (implied_page::frontier(implied, settings, room))
            }
        }
    }
}

fn requirements(settings: &Settings) -> Markup {
    let text = |name, label, hint, placeholder| field(settings, name, label, hint, placeholder);
    html! {
        fieldset.card {
            legend { "Requirements" }
            .fields {
                (text("max-bandwidth", "Bandwidth, at most", "100MB/s, 1Gbit/s", "what QEMU is set to"))
                (text("min-cpu", "CPU, at least", "of each vCPU, while it runs", "0%"))
                (text("max-stall", "Stall, at most", "at a stretch, downtime included", "300ms"))
                (text("max-time", "Time, at most", "the whole migration", "any"))
            }
            (give_way(settings))
            .field {
                label for="policy" { "Policy" }
                select id="policy" name="policy" {
                    @for entry in policy::ALL.iter().filter(|entry| entry.name != "post-copy") {
                        option value=(entry.name) selected[entry.name == settings.policy] { (entry.name) }
                    }
                }
                p.hint id="policy-hint" { (policy_help(&settings.policy)) }
            }
            (implied_page::wrong(settings))
        }
    }
}

fn policy_help(name: &str) -> &'static str {
    policy::ALL.iter().find(|entry| entry.name == name).map_or("", |entry| entry.help)
}

fn field(settings: &Settings, name: &str, label: &str, hint: &str, placeholder: &str) -> Markup {
    let described = format!("{name}-hint {name}-wrong");
    html! {
        .field {
            label for=(name) { (label) }
            input id=(name) name=(name) value=(settings.typed(name)) placeholder=(placeholder)
                spellcheck="false" autocapitalize="off" aria-describedby=(described)
                aria-invalid=[settings.problem(name).map(|_| "true")];
            p.hint id={ (name) "-hint" } { (hint) }
        }
    }
}

/// The order in which requirements may be broken.
fn give_way(settings: &Settings) -> Markup {
    html! {
        fieldset.order {
            legend { "May be broken where all cannot be kept" }
            @for (place, label) in ["first", "then", "last"].into_iter().enumerate() {
                .field {
                    label for={ "give-way-" (place) } { (label) }
                    select id={ "give-way-" (place) } name="give-way" {
                        option value="" { "none" }
                        @for which in Requirement::ALL {
                            option value=(which) selected[settings.gives_way(place) == which.name()] {
                                (requirement_name(which))
                            }
                        }
                    }
                }
            }
        }
    }
}

/// How people call a requirement on the page.
pub fn requirement_name(which: Requirement) -> &'static str {
    match which {
        Requirement::MaxBandwidth => "bandwidth",
        Requirement::MinCpu => "CPU",
        Requirement::MaxStall => "stall",
        Requirement::MaxTime => "time",
    }
}

fn start(nearby: &[Nearby]) -> Markup {
    html! {
        fieldset.card.start {
            legend { "Migrate" }
            .fields {
                .field {
                    label for="destination" { "To" }
                    input id="destination" name="destination" required list="nearby"
                        placeholder="tcp:otherhost:4444" spellcheck="false" autocapitalize="off"
                        aria-describedby="destination-hint";
                    p.hint id="destination-hint" { "where a QEMU waits, started with -incoming" }
                }
                .field {
                    label for="destination-qmp" { "Its monitor (optional)" }
                    input id="destination-qmp" name="destination-qmp" list="nearby-monitors"
                        placeholder="unix:/run/new.qmp" spellcheck="false" autocapitalize="off"
                        aria-describedby="destination-qmp-hint";
                    p.hint id="destination-qmp-hint" { "to check it first, and to see the guest run there" }
                }
            }
            datalist id="nearby" {
                @for (uri, _, name) in nearby { option value=(uri) { (name) } }
            }
            datalist id="nearby-monitors" {
                @for (_, monitor, name) in nearby { option value=(monitor) { (name) } }
            }
            button.main id="start" { "Start the migration" }
        }
    }
}

fn how_it_writes(looked: &Looked, implied: &Implied, room: Room) -> Markup {
    let known = &looked.foresight.prior;
    let figure = |name: &str, value: Option<String>| {
        html! { div { dt { (name) } dd { (value.unwrap_or_else(|| "not known".to_owned())) } } }
    };
    html! {
        section.two {
            (implied_page::curve(implied, room))
            .card {
                h2 { "What was found" }
                (implied_page::meaning(implied))
                dl.facts {
                    (figure("Memory", known.memory.map(|bytes| bytes.to_string())))
                    (figure("with contents", known.contents.map(|bytes| bytes.to_string())))
                    (figure("vCPUs", Some(looked.foresight.vcpus.to_string())))
                    (figure("CPU it takes", known.pace.map(|pace| pace.to_string())))
                    (figure("Link, as QEMU is set", known.link.map(|link| link.to_string())))
                }
                @for note in &looked.foresight.notes { p.hint { (note) } }
            }
        }
    }
}
