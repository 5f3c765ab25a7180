//! `landfall set`: shows or changes what is demanded of a migration under way.

use landfall_core::requirements::Settings;
use landfall_core::units::{Share, show_duration};
use landfall_migration::progress::progress_text;
use landfall_migration::tables::borderless_table;
use landfall_qemu::control::{
    ControlAnswer, ControlRequest, GuestIdentity, SteeredMigration, client,
};
use landfall_qemu::stdio::print_line;
use serde_json::{Value, json};

use crate::cli::Set;
use crate::command_error::CommandError;

/// Shows or changes the settings and prints the answer.
///
/// # Errors
/// [`CommandError`]; nothing was changed.
pub async fn run(options: Set) -> Result<(), CommandError> {
    print_line(&ask(&options).await?);
    Ok(())
}

/// Asks the landfall that steers, and returns its answer as text.
async fn ask(options: &Set) -> Result<String, CommandError> {
    let found = client::find_migration(&options.guest).await;
    let (mut landfall, steered) = found.map_err(CommandError::refused)?;
    let given = options.settings.given();
    let request = match given.is_empty() {
        _ if options.cancel => ControlRequest::Cancel,
        true => return Ok(shown(&steered, None, options.json)),
        false => ControlRequest::Set {
            settings: given.iter().map(|new| (new.name().to_owned(), new.text())).collect(),
        },
    };
    match landfall.send_request(&request).await.map_err(CommandError::refused)? {
        ControlAnswer::Set { was, now } => {
            let steered = SteeredMigration { settings: now, ..steered };
            Ok(shown(&steered, Some(&was), options.json))
        }
        ControlAnswer::Cancelling => Ok(cancelling(&steered.guest, options.json)),
        ControlAnswer::Refused { reason } => {
            Err(CommandError::refused(format!("{reason}. Nothing was changed")))
        }
        ControlAnswer::Shown { steered } => Ok(shown(&steered, None, options.json)),
    }
}

fn shown(steered: &SteeredMigration, was: Option<&Settings>, json: bool) -> String {
    if json { as_json(steered, was).to_string() } else { in_words(steered, was) }
}

fn cancelling(guest: &GuestIdentity, json: bool) -> String {
    match json {
        true => json!({ "guest": guest_as_json(guest), "cancelling": true }).to_string(),
        false => format!("{} is being given up: the guest runs on at the source", called(guest)),
    }
}

fn in_words(steered: &SteeredMigration, was: Option<&Settings>) -> String {
    let header: &[&str] = if was.is_some() { &["", "was", "now"] } else { &[] };
    let mut table = borderless_table(header.iter().copied(), []);
    let now = steered.settings.all();
    match was {
        None => now.iter().for_each(|now| _ = table.add_row([now.name(), &now.text()])),
        Some(was) => {
            for (was, now) in was.all().iter().zip(&now) {
                let changed = if was == now { String::new() } else { now.text() };
                table.add_row([now.name(), &was.text(), &changed]);
            }
        }
    }
    let guest = called(&steered.guest);
    let mut text = format!("{guest}, to {} by policy {}\n", steered.destination, steered.policy);
    if let Some(glance) = &steered.progress {
        let (time, done) = (show_duration(glance.at.0), Share::clamped(glance.done));
        text += &format!("{done} after {time}: {}\n{}\n", progress_text(glance), glance.reason);
    }
    let table: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    text + table.join("\n").as_str()
}

fn called(guest: &GuestIdentity) -> String {
    let name = guest.name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default();
    format!("{name}process {} at {}", guest.pid, guest.source)
}

fn as_json(steered: &SteeredMigration, was: Option<&Settings>) -> Value {
    let progress = steered.progress.as_ref().map(|glance| {
        json!({
            "at_s": glance.at.as_secs_f64(),
            "phase": glance.phase,
            "done": glance.done,
            "remaining_bytes": glance.remaining.0,
            "time_left_s": glance.time_left.map(|time| time.as_secs_f64()),
            "held_to": glance.held_to.map(Share::get),
            "dirty_bytes_per_s": glance.dirty_rate.map(|rate| rate.0),
            "link_bytes_per_s": glance.link.map(|rate| rate.0),
            "why": glance.reason,
        })
    });
    json!({
        "guest": guest_as_json(&steered.guest),
        "destination": steered.destination,
        "policy": steered.policy,
        "was": was,
        "now": steered.settings,
        "progress": progress,
    })
}

fn guest_as_json(guest: &GuestIdentity) -> Value {
    json!({ "pid": guest.pid, "name": guest.name, "source": guest.source.to_string() })
}
