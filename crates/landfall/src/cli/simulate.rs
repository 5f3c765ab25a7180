//! The options of `landfall simulate`.

use std::path::PathBuf;

use clap::Args;
use landfall_core::requirements::Aggression;
use landfall_migration::policy_registry::NamedPolicy;

use super::policy_parser::PolicyParser;

/// Simulates guests, links and QEMU's pre-copy in virtual time, and moves each guest by several
/// policies: the same ones that steer real migrations, and QEMU's auto-converge of 2013 besides.
///
/// A scenario is a readable file; those in scenarios/ of the sources show what it can say. A value
/// can be a range, [low, high], from which each draw takes a value. The same seed gives the same
/// figures.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// What to simulate, one after the other
    #[arg(required = true, value_name = "SCENARIO.toml")]
    pub scenarios: Vec<PathBuf>,

    /// A policy to move the guest by; may be given several times [default: those of the scenario]
    #[arg(long, value_name = "NAME",
          value_parser = PolicyParser { simulated: true })]
    pub policy: Vec<NamedPolicy>,

    /// 0.0 disturbs the guest least within the requirements, 1.0 finishes soonest [default: the
    /// scenario's, or 0.5]
    #[arg(long, value_name = "0.0..1.0", allow_negative_numbers = true)]
    pub aggression: Option<Aggression>,

    /// The seed of everything random [default: the scenario's]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<landfall_sim::Seed>,

    /// How many migrations by each policy [default: the scenario's]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,

    /// Draw what remained and the guest's CPU over time, of the first draw, into this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,

    /// Folder whose regret.md gets what each policy loses beyond an oracle that knows guest and link
    /// beforehand
    #[cfg(feature = "lab")]
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// Print all figures as one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}
