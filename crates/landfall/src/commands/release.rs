//! `landfall release`: undoes what a crash of everything has left behind.

use landfall_qemu::release::{
    ReleaseOutcome, ReleasedGuest, release_groups, release_records, remove_stale_locks,
};
use landfall_qemu::stdio::{eprint_line, print_line};
use serde_json::json;

use crate::cli::ReleaseArgs;
use crate::command_error::CommandError;

/// Undoes it and says what was found and done. Returns the exit status.
///
/// # Errors
/// [`CommandError`]: the answer cannot be shown.
pub async fn run(options: &ReleaseArgs) -> Result<u8, CommandError> {
    let mut found = release_records().await;
    if options.all {
        found.extend(release_groups());
    }
    remove_stale_locks();
    if options.json {
        print_line(&json!({ "found": found }).to_string());
    } else if found.is_empty() {
        print_line("Nothing is left of any landfall that has ended.");
    } else {
        found.iter().for_each(|guest| print_line(&in_words(guest)));
    }
    Ok(exit_status(&found))
}

/// The same at the start of another command, where that runs as root: says only what was done.
pub async fn run_at_start() {
    if rustix::process::geteuid().is_root() {
        let found = release_records().await;
        for guest in found.iter().filter(|guest| guest.outcome != ReleaseOutcome::InUse) {
            eprint_line(&format!("landfall: left behind by a crash: {}", in_words(guest)));
        }
    }
}

fn in_words(guest: &ReleasedGuest) -> String {
    let outcome = match guest.outcome {
        ReleaseOutcome::Released => "released",
        ReleaseOutcome::InUse => "left alone",
        ReleaseOutcome::Incomplete => "NOT ALL UNDONE",
        ReleaseOutcome::Unknown => "NOT KNOWN WHERE IT RUNS",
    };
    let details: Vec<&str> = guest.done.iter().chain(&guest.left).map(String::as_str).collect();
    format!("guest of QEMU process {}: {outcome}: {}", guest.pid, details.join("; "))
}

fn exit_status(found: &[ReleasedGuest]) -> u8 {
    let has = |outcome| found.iter().any(|guest| guest.outcome == outcome);
    match () {
        () if has(ReleaseOutcome::Unknown) => 6,
        () if has(ReleaseOutcome::Incomplete) => 3,
        () => 0,
    }
}
