//! The command line of `landfall release`.

use clap::Args;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Before landfall changes anything it writes down how to undo it, in its runtime directory (/run/landfall). A \
guardian undoes it when landfall dies. This command does so where both have died: it lets vCPUs run, ends the \
migration so that the guest runs in exactly one place, and puts QEMU's settings back. Guests of which a \
landfall or its guardian is in charge are left alone. landfall migrate and landfall serve do the same when \
they start as root.

Exit status: 0 nothing is left; 3 something could not be undone; 6 it is not known where a guest runs.")]
pub struct ReleaseArgs {
    /// Also empty and remove control groups named landfall-* of which no record is left
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
