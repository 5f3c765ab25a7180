//! The options of `landfall migrate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use landfall_core::units::parse_duration;
use landfall_qemu::monitor;
use landfall_qemu::qmp::QmpAddress;

use super::requirement_args::RequirementArgs;
use crate::hooks::Hook;

/// Moves a running guest from one QEMU to another, and throttles its vCPUs from outside where that makes
/// the migration land.
///
/// The throttle is the kernel's CFS bandwidth controller, on the vCPU threads alone.
/// Whatever happens - an error, Ctrl-C, kill -9 - the guest ends running at full speed with its old
/// limits, or landfall says exactly what it does not know.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct MigrateArgs {
    /// QMP monitor of the QEMU that the guest is to leave: unix:/run/vm.qmp or tcp:127.0.0.1:4445
    pub source: QmpAddress,

    /// Where a QEMU started with -incoming waits: tcp:host:port or unix:/path
    #[arg(value_parser = uri)]
    pub destination: String,

    /// QMP monitor of the destination: lets landfall check it beforehand, set it up, and see the
    /// guest run there
    #[arg(long, value_name = "ADDRESS")]
    pub destination_qmp: Option<QmpAddress>,

    #[command(flatten)]
    pub asked: RequirementArgs,

    /// Whether the guest may run at the destination before all its memory is there. If the link fails
    /// then, the guest is lost
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = PostCopyArg::Never)]
    pub post_copy: PostCopyArg,

    /// Write every observation and decision to this file, a line of JSON each, for landfall replay
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Longest wait before the switch-over, with the guest stopped, for another program: for one that
    /// completes a disk's mirror where pause-before-switchover is set, or a hold-switch-over hook. After
    /// that the migration is cancelled
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    pub switch_over_deadline: Duration,

    /// Run a program at a point of the migration (before-start, before-switch-over, hold-switch-over,
    /// landed, failed), with the facts as JSON on its standard input. May be given several times. A
    /// before-start program that fails refuses the migration. The guest stands still while a
    /// hold-switch-over program runs; one that fails cancels the migration
    #[arg(long, value_name = "POINT=PROGRAM")]
    pub hook: Vec<Hook>,

    /// Print the report as one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,

    /// Continue when the terminal or the process that started this is gone (for landfall serve)
    #[arg(long, hide = true)]
    pub own_session: bool,
}

/// Whether post-copy is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PostCopyArg {
    /// It stays at the source until all its memory is at the destination
    Never,
    /// It may, with --policy post-copy
    Allow,
}

/// Lets through a migration URI that leads to another QEMU.
fn uri(text: &str) -> Result<String, monitor::MigrationUriError> {
    monitor::check_migration_uri(text).map(|()| text.to_owned())
}

const EXAMPLES: &str = "\
Examples:
  Start the destination as you would start the guest, plus -incoming tcp:0:4444, then:

    landfall migrate unix:/run/vm.qmp tcp:otherhost:4444

  Land within two minutes, pausing the guest for as long as it takes if nothing gentler will do:

    landfall migrate unix:/run/vm.qmp tcp:otherhost:4444 --max-time 2min --give-way max-stall

Exit status:
  0  landed, every requirement kept
  2  wrong arguments
  3  landed, a requirement was broken
  4  refused before starting; the guest is as it was
  5  failed or cancelled; the guest runs at the source at full speed
  6  the guest's state is not known; all that is known was said";
