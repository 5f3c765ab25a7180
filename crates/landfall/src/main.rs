//! landfall: makes live migrations of QEMU/KVM guests land inside limits their operator stated.
//!
//! **What belongs in this crate:** the command line ([`cli`]), a thin file or folder for each command
//! ([`commands`]), what they print ([`output`]), the operator's hooks ([`hooks`]) and the web page
//! ([`web`]). Deciding is in `landfall-core`, acting in `landfall-qemu`, simulating in `landfall-sim`; one
//! migration from probe to report is in `landfall-migration`. Experiments and guests to try things on are in
//! `landfall-lab`, which is left out of a build without the feature `lab`.

mod cli;
mod command_error;
mod commands;
mod hooks;
mod output;
mod signals;
mod web;

use std::panic;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use landfall_qemu::stdio::flush_stderr;

use command_error::CommandError;

/// How long to wait at the end for a terminal that takes no more lines.
const LAST_LINES: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let status = run(cli.command).unwrap_or_else(|error| error.report());
    flush_stderr(LAST_LINES);
    ExitCode::from(status)
}

/// Runs a command on a runtime of its own.
fn run(command: cli::Command) -> Result<u8, CommandError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| CommandError::failed(format!("the runtime does not start: {error}")))?;
    let run = panic::AssertUnwindSafe(|| runtime.block_on(commands::run(command)));
    // The guardian sees this process end without a message that all is done, and releases the guest. What
    // becomes of it is not known here.
    panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(CommandError::bug(
            "this is a bug in landfall. Its guardian lets the guest go and cancels the migration; look \
             at the guest with QMP query-status",
        ))
    })
}
