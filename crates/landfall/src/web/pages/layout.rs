//! What all pages share: the frame, the login, the page of a refusal, and how times are shown.

use std::time::Duration;

use maud::{DOCTYPE, Markup, html};

use crate::web::calendar::UtcTime;

/// The entry of the navigation that a page belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NavEntry {
    Guests,
    Migrations,
    Neither,
}

/// Renders a whole page.
pub fn page_frame(title: &str, entry: NavEntry, contents: Markup) -> Markup {
    let current = |link: NavEntry| (link == entry).then_some("page");
    html! {
        (DOCTYPE)
        html lang="en" {
            (head(title))
            body {
                a.skip href="#main" { "Skip to the contents" }
                header.bar {
                    a.mark href="/" { "landfall" }
                    nav aria-label="Pages" {
                        a href="/" aria-current=[current(NavEntry::Guests)] { "Guests" }
                        a href="/migrations" aria-current=[current(NavEntry::Migrations)] { "Migrations" }
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

/// Renders the login, with what was wrong with the last try.
pub fn login_page(problem: Option<&str>) -> Markup {
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
                            "landfall serve printed the token when it started, as the end of the address "
                            "to open: the part after #."
                        }
                        input id="token" name="token" type="password" required
                            autocomplete="current-password" aria-describedby="token-hint";
                        @if let Some(problem) = problem { p.problem role="alert" { (problem) } }
                        button.main { "Log in" }
                    }
                }
            }
        }
    }
}

/// Renders a page that says why something was refused and what to do.
pub fn problem_page(problem: &str) -> Markup {
    let contents = html! {
        h1 { "That did not work" }
        p.problem role="alert" { (sentence(problem)) }
        p { a href="/" { "Guests" } " · " a href="/migrations" { "Migrations" } }
    };
    page_frame("That did not work", NavEntry::Neither, contents)
}

/// Makes a sentence of an error's text: with a capital letter and a full stop.
pub fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let mut sentence: String = letters
        .next()
        .map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect());
    if !sentence.is_empty() && !sentence.ends_with(['.', '!', '?']) {
        sentence.push('.');
    }
    sentence
}

/// Writes how long ago something was: `12 s ago`.
pub fn format_age(age: Duration) -> String {
    match age.as_secs() {
        0..=1 => "just now".to_owned(),
        s @ 2..=119 => format!("{s} s ago"),
        s @ 120..=7199 => format!("{} min ago", s / 60),
        s => format!("{} h ago", s / 3600),
    }
}

/// Renders a time in UTC: `2026-11-22 02:31 UTC`.
pub fn utc_time(unix_seconds: u64) -> Markup {
    let UtcTime { year, month, day, hour, minute, .. } = UtcTime::from_unix_seconds(unix_seconds);
    html! {
        time datetime=(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}Z")) {
            (format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errors_text_becomes_a_sentence() {
        assert_eq!(sentence("there is none"), "There is none.");
        assert_eq!(sentence("Nothing was done."), "Nothing was done.");
        assert_eq!(sentence(""), "");
    }
}
