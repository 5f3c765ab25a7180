//! landfall: makes live migrations of QEMU/KVM guests land inside limits their operator stated.
//!
//! **What belongs in this crate:** the command line ([`cli`]), a thin file or folder for each command
//! ([`commands`]), what they print ([`output`]), the operator's hooks ([`hooks`]) and the web page
//! ([`web`]). Deciding is in `landfall-core`, acting in `landfall-qemu`, simulating in `landfall-sim`; one
//! migration from probe to report is in `landfall-migration`. Experiments and guests to try things on are in
//! `landfall-lab`, which is left out of a build without the feature `lab`.

mod cli;
mod commands;
mod hooks;
mod output;
mod signals;
mod web;

use std::panic;
use std::process::ExitCode;

use clap::Parser;
use landfall_qemu::stdio::eprint_line;

/// Exit status for wrong arguments, also clap's own.
const USAGE: u8 = 2;

/// Exit status if something failed and everything is as before.
const FAILED: u8 = 5;

/// Exit status if the guest's state is not known.
const UNKNOWN: u8 = 6;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprint_line(&format!("landfall: the runtime does not start: {error}"));
            return ExitCode::from(FAILED);
        }
    };
    let run = panic::AssertUnwindSafe(|| runtime.block_on(commands::run(cli.command)));
    // The guardian sees this process end without a message that all is done, and releases the guest. What
    // becomes of it is not known here.
    ExitCode::from(panic::catch_unwind(run).unwrap_or_else(|_| {
        eprint_line(
            "landfall: this is a bug in landfall. Its guardian lets the guest go and cancels the \
             migration; look at the guest with QMP query-status",
        );
        UNKNOWN
    }))
}
