//! The options of `landfall plan`.

use std::path::PathBuf;

use clap::Args;
use landfall_core::units::{ByteRate, UnitError};
use landfall_qemu::qmp::QmpAddress;

use super::requirement_args::RequirementArgs;

/// Says of a running guest what a migration would be: how it writes its memory, its class, what each
/// setting of the aggression implies for time, CPU, stall and work lost, the setting to recommend, which
/// requirements conflict, and what would resolve it. Changes nothing; the guest is only watched.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct PlanArgs {
    /// QMP monitor of the QEMU that the guest runs in: unix:/run/vm.qmp or tcp:127.0.0.1:4445
    pub source: QmpAddress,

    /// Rate of the link that the guest would leave by: 100MB/s, 1Gbit/s [default: --max-bandwidth, or
    /// what QEMU is set to]
    #[arg(long, value_name = "RATE", value_parser = above_zero)]
    pub to_rate: Option<ByteRate>,

    #[command(flatten)]
    pub asked: RequirementArgs,

    /// Draw how the guest writes its memory into this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,

    /// Print everything as one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// A text that is not the rate of a link.
#[derive(Debug, thiserror::Error)]
enum LinkRateError {
    /// It is not a rate.
    #[error(transparent)]
    Unit(#[from] UnitError),
    /// It is a rate of zero.
    #[error("nothing can be sent at that rate; write what the link carries, for example 1Gbit/s")]
    Zero,
}

fn above_zero(text: &str) -> Result<ByteRate, LinkRateError> {
    let rate: ByteRate = text.parse()?;
    if rate.per_second() == 0 { Err(LinkRateError::Zero) } else { Ok(rate) }
}

const EXAMPLES: &str = "\
Examples:
  What would it take to move this guest over a link of a gigabit, in two minutes at the most?

    landfall plan unix:/run/vm.qmp --to-rate 1Gbit/s --max-time 2min

  Look longer, for a guest whose ways change, and draw how it writes:

    landfall plan unix:/run/vm.qmp --to-rate 1Gbit/s --probe 10s --picture vm.svg

Exit status:
  0  the plan was made; the output says whether all requirements can be kept
  2  wrong arguments
  5  the monitor of the guest does not answer";
