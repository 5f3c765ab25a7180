//! What all pages have in common: the frame, the login, how figures and classes are said.

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use landfall_core::report::{Class, ForecastRange, Outcome};
use landfall_core::units::Share;
use maud::{DOCTYPE, Markup, html};

use super::migrations::date;
use landfall_migration::text::format_seconds as seconds;

/// Where somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Guests,
    Migrations,
    Elsewhere,
}

/// A whole page.
pub fn page(title: &str, place: Place, contents: Markup) -> Markup {
    let here = |link: Place| (link == place).then_some("page");
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                a.skip href="#main" { "To the contents" }
                header.bar {
                    a.mark href="/" { "landfall" }
                    nav aria-label="Pages" {
                        a href="/" aria-current=[here(Place::Guests)] { "Guests" }
                        a href="/migrations" aria-current=[here(Place::Migrations)] { "Migrations" }
                    }
                    form method="post" action="/logout" { button.quiet { "Log out" } }
                }
                main id="main" { (contents) }
            }
        }
    }
}

fn head(title: &str) -> Markup {
    html! {
        head {
            meta charset="utf-8";
            meta name="viewport" content="width=device-width, initial-scale=1";
            meta name="color-scheme" content="light dark";
            title { (title) " · landfall" }
            link rel="stylesheet" href="/style.css";
            link rel="icon" href="/icon.svg" type="image/svg+xml";
            script src="/page.js" defer {}
        }
    }
}

/// The page of whoever has not shown the token yet.
pub fn login(problem: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            (head("Log in"))
            body.login {
                main id="main" {
                    h1 { "landfall" }
                    form method="post" action="/login" id="login" {
                        label for="token" { "Token" }
                        p.hint id="token-hint" {
                            "landfall serve printed it when it was started, and an address with it."
                        }
                        input id="token" name="token" type="password" required
                            autocomplete="current-password" aria-describedby="token-hint";
                        @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                        button.main { "Open" }
                    }
                }
            }
        }
    }
}

/// A page that says what is wrong, and how it goes on.
pub fn problem(status: StatusCode, what: &str) -> Response {
    let contents = html! {
        h1 { "That did not work" }
        p.problem role="alert" { (what) }
        p { a href="/" { "To the guests" } }
    };
    (status, page("That did not work", Place::Elsewhere, contents)).into_response()
}

/// A class, as people say it.
pub fn class_name(class: Class) -> &'static str {
    match class {
        Class::Unaided => "lands unaided",
        Class::Middle => "lands when held",
        Class::Pathological => "lands only by a pause",
        Class::Unknown => "not known yet",
    }
}

/// What a class means.
pub fn class_in_words(class: Class) -> &'static str {
    match class {
        Class::Unaided => {
            "It writes less than the link carries. It lands by itself, and is never held."
        }
        Class::Middle => {
            "It writes more than the link carries, and lands within the stall allowed once its CPU is \
             held late in the migration."
        }
        Class::Pathological => {
            "It writes its working set again faster than any hold allowed can prevent. It lands by a \
             pause longer than the stall allowed, or not at all."
        }
        Class::Unknown => "Too little is known of the guest or the link.",
    }
}

/// An end, as people say it, and the colour of it.
pub fn outcome(outcome: Outcome, kept: bool) -> (&'static str, &'static str) {
    match outcome {
        Outcome::Landed if kept => ("landed", "good"),
        Outcome::Landed => ("landed, not within every requirement", "fair"),
        Outcome::Refused => ("refused", "bad"),
        Outcome::Cancelled => ("cancelled", "fair"),
        Outcome::Failed => ("failed", "bad"),
        Outcome::Unknown => ("not known", "bad"),
    }
}

/// A badge.
pub fn badge(kind: &str, text: &str) -> Markup {
    html! { span class={ "badge " (kind) } { (text) } }
}

/// `1.80 s to 2.40 s`, and nothing where both are the same to read.
pub fn between(range: &ForecastRange, show: impl Fn(f64) -> String) -> String {
    let (low, high) = (show(range.low), show(range.high));
    if low == high { String::new() } else { format!("{low} to {high}") }
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    Share::clamped(share).to_string()
}

/// A figure that may not be known.
pub fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "not known".to_owned(), seconds)
}

/// `12 s ago`.
pub fn ago(time: Duration) -> String {
    match time.as_secs() {
        0..=1 => "just now".to_owned(),
        s @ 2..=119 => format!("{s} s ago"),
        s @ 120..=7199 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

/// `2026-11-22 02:31 UTC`.
pub fn moment(seconds: u64) -> Markup {
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute) = (seconds / 3600 % 24, seconds / 60 % 60);
    html! {
        time datetime=(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")) {
            (format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC"))
        }
    }
}
