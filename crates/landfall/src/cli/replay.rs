//! The options of `landfall replay`.

use std::path::PathBuf;

use clap::Args;
use landfall_migration::policy_registry::NamedPolicy;

use super::policy_parser::PolicyParser;

/// Shows what a recording of landfall migrate --record holds: the moments at which something changed
/// and why, and the report. Then makes every decision again from the recorded samples and says whether
/// all are the same, byte for byte.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ReplayArgs {
    /// The recording
    pub file: PathBuf,

    /// Say only whether the decisions are the same again
    #[arg(long, conflicts_with = "json")]
    pub check: bool,

    /// Simulate the same guest over the same link by these policies as well, and by the recorded one
    /// to compare with
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "check",
          value_parser = PolicyParser { simulated: false })]
    pub policy: Vec<NamedPolicy>,

    /// Draw what was left, the dirty rate, the link and the guest's CPU over time into this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,

    /// First show the progress line again, at the recorded speed or SPEED times as fast
    #[arg(long, value_name = "SPEED", num_args = 0..=1, default_missing_value = "1",
          value_parser = speed)]
    pub live: Option<f64>,

    /// Print what happened, the check and the report as one JSON object on standard output, and
    /// nothing else
    #[arg(long)]
    pub json: bool,
}

/// A text that is not a speed at which a recording can be shown.
#[derive(Debug, thiserror::Error)]
#[error("write a factor of the recorded speed above zero, for example 10")]
struct InvalidSpeed;

fn speed(text: &str) -> Result<f64, InvalidSpeed> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or(InvalidSpeed)
}

const EXAMPLES: &str = "\
Examples:
  Record a migration, and see afterwards what was decided, when and why:

    landfall migrate unix:/run/vm.qmp tcp:otherhost:4444 --record vm.jsonl
    landfall replay vm.jsonl --picture vm.svg

  What other policies would have made of the same guest and link, in the simulator:

    landfall replay vm.jsonl --policy auto-converge,pause-and-ship

Exit status:
  0  every decision is the same again
  1  a decision is another, or this landfall does not have the policy
  2  wrong arguments, or not a recording that can be replayed";
