//! The command line. One table, clap's, drives options, help, completions and the manual page.

mod set;

use std::io::{self, Write};
use std::path::PathBuf;

use clap::builder::PossibleValuesParser;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use landfall_core::requirements::Aggression;
use landfall_core::units::ByteRate;
use landfall_qemu::monitor;
use landfall_qemu::qmp::QmpAddress;

use crate::asked::Asked;
use crate::hooks::Hook;
use crate::law::{Law, LawParser};
use crate::plan::Plan;

pub use set::Set;

/// Makes live migrations of QEMU/KVM guests land inside limits that you state, and takes as little
/// work from the guest as can be taken.
#[derive(Debug, Parser)]
#[command(name = "landfall", version, max_term_width = 100, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Steer one migration to its end
    Migrate(Box<Migrate>),
    /// Say before a migration what each setting implies, what conflicts, and what would resolve it
    Plan(Box<Plan>),
    /// See or change what is demanded of a migration that is under way
    Set(Set),
    /// Boot guests and show what steering is worth against QEMU's own auto-converge
    Demo(Demo),
    /// Show a recorded migration again, and check that it would be decided the same
    Replay(Replay),
    /// Simulate migrations in virtual time, by several policies side by side
    Simulate(Simulate),
    /// Serve the page that shows guests, what each setting implies, and migrations as they go
    Serve(crate::serve::Options),
    /// Measure policies against each other on real guests, in paired runs
    Bench(Bench),
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page (roff): landfall manual | man -l -
    Manual,
    /// Outlive landfall and let the guest go if it dies (started by landfall itself)
    #[command(hide = true, name = landfall_qemu::guardian::SUBCOMMAND)]
    Guardian,
}

/// Moves a running guest from one QEMU to another, holding its CPU from outside where that is what
/// makes it land.
///
/// The guest's CPU is held with the kernel's CFS bandwidth controller, on its vCPU threads alone.
/// Whatever happens - an error, Ctrl-C, kill -9 - the guest ends running at full speed with its old
/// limits, or landfall says exactly what it does not know.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Migrate {
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
    pub asked: Asked,

    /// Whether the guest may run at the destination before all its memory is there. It is lost if
    /// the link fails then
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = PostCopy::Never)]
    pub post_copy: PostCopy,

    /// Write every observation and decision to this file, a line of JSON each, for landfall replay
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Run a program at a point of the migration (before-start, before-switch-over, landed, failed),
    /// with the facts as JSON on its standard input; again for another. A before-start that fails
    /// refuses the migration
    #[arg(long, value_name = "POINT=PROGRAM")]
    pub hook: Vec<Hook>,

    /// Print the report as one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,

    /// Go on when the terminal or whoever started this is gone (for landfall serve)
    #[arg(long, hide = true)]
    pub own_session: bool,
}

/// Shows what a recording of landfall migrate --record holds: the moments at which something changed
/// and why, and the report. Then makes every decision again from the recorded samples and says whether
/// all are the same, byte for byte.
#[derive(Debug, Args)]
#[command(after_long_help = REPLAY_EXAMPLES)]
pub struct Replay {
    /// The recording
    pub file: PathBuf,

    /// Say only whether the decisions are the same again
    #[arg(long, conflicts_with = "json")]
    pub check: bool,

    /// Simulate the same guest over the same link by these policies as well, and by the recorded one
    /// to compare with
    #[arg(long, value_name = "NAME", value_delimiter = ',', conflicts_with = "check",
          value_parser = LawParser { simulated: false })]
    pub policy: Vec<Law>,

    /// Draw what was left, the dirty rate, the link and the guest's CPU over time into this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,

    /// Show the live line again first, as fast as it went or so many times as fast
    #[arg(long, value_name = "SPEED", num_args = 0..=1, default_missing_value = "1",
          value_parser = speed)]
    pub live: Option<f64>,

    /// Print what happened, the check and the report as one JSON object on standard output, and
    /// nothing else
    #[arg(long)]
    pub json: bool,
}

/// Boots guests whose behaviour is known, a pathological one and one of the middle, and moves each
/// by QEMU's auto-converge and by landfall over the same link. Needs QEMU, and root for the CPU
/// controller.
#[derive(Debug, Args)]
pub struct Demo {
    /// Rate of the link
    #[arg(long, value_name = "RATE", default_value = "100MB/s")]
    pub bandwidth: ByteRate,

    /// Where the picture of the curves goes
    #[arg(long, value_name = "FILE", default_value = "landfall-demo.svg")]
    pub picture: PathBuf,

    /// Print the figures as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Simulates guests, links and QEMU's pre-copy in virtual time, and moves each guest by several
/// policies: the same ones that steer real migrations, and QEMU's auto-converge of 2013 besides.
///
/// A scenario is a readable file; those in scenarios/ of the sources show what it can say. A value
/// can be a range, [low, high], of which each draw takes another. All follows from the seed: the
/// same seed gives the same figures.
#[derive(Debug, Args)]
pub struct Simulate {
    /// What to simulate, one after the other
    #[arg(required = true, value_name = "SCENARIO.toml")]
    pub scenarios: Vec<PathBuf>,

    /// A policy to move the guest by; again for another [default: those of the scenario]
    #[arg(long, value_name = "NAME",
          value_parser = LawParser { simulated: true })]
    pub policy: Vec<Law>,

    /// The gentlest way that keeps the requirements at 0.0, the fastest end at 1.0 [default: the
    /// scenario's, or 0.5]
    #[arg(long, value_name = "0.0..1.0", allow_negative_numbers = true)]
    pub aggression: Option<Aggression>,

    /// What everything random follows from [default: the scenario's]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<landfall_sim::Seed>,

    /// How many migrations by each policy [default: the scenario's]
    #[arg(long, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..))]
    pub draws: Option<u32>,

    /// Draw what remained and the guest's CPU over time, of the first draw, into this file (SVG)
    #[arg(long, value_name = "FILE")]
    pub picture: Option<PathBuf>,

    /// Folder whose regret.md gets what each policy loses beyond somebody who knows guest and link
    /// beforehand
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// Print all figures as one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Moves guests whose behaviour is known by several policies in turn, several times, and prints the
/// medians and their ratios. Needs QEMU, root, and a machine with nothing else to do.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Bench {
    #[command(subcommand)]
    pub experiment: Option<Experiment>,

    /// Comparisons to make [default: all]
    #[arg(value_parser = PossibleValuesParser::new(crate::bench::names()))]
    pub only: Vec<String>,

    /// Move them by these policies alone [default: those that each comparison is about]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(landfall_core::policy::names()))]
    pub policy: Vec<String>,

    /// How often each policy moves each guest
    #[arg(long, value_name = "TIMES", default_value_t = 3)]
    pub repeat: usize,

    /// Record every run in this folder, for landfall replay
    #[arg(long, value_name = "FOLDER")]
    pub record: Option<PathBuf>,

    /// Print the figures of every run as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// What else there is to be measured.
#[derive(Debug, Subcommand)]
pub enum Experiment {
    /// Whether throttling acts as time dilation, and what a migration costs beyond its bytes
    Theory(Theory),
    /// How far forecasts and simulations are from what then happens
    Accuracy(Accuracy),
}

/// Moves guests of known behaviour over two links by all policies, and sets what was forecast before
/// each start, and what the simulator makes of it, beside what was measured (15 minutes). Needs QEMU,
/// root, and a machine with nothing else to do.
#[derive(Debug, Args)]
pub struct Accuracy {
    /// Folder whose accuracy.md gets the tables
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// How often to go through the matrix
    #[arg(long, value_name = "TIMES", default_value_t = 1)]
    pub repeat: usize,

    /// Print every migration as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Measures how much distinct memory guests of known behaviour dirty, free and held by quota and by
/// pauses, against the dirty curve of the free guest (6 minutes). Needs QEMU 8.2, root, and a machine
/// with nothing else to do.
#[derive(Debug, Args)]
pub struct Theory {
    /// Folder whose theory.md gets the figures, and whose theory/ the pictures
    #[arg(long, value_name = "FOLDER")]
    pub docs: Option<PathBuf>,

    /// Print every measurement as JSON on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PostCopy {
    /// It stays at the source until all its memory is at the destination
    Never,
    /// It may, with --policy post-copy
    Allow,
}

/// A migration URI that leads to another QEMU.
fn uri(text: &str) -> Result<String, monitor::MigrationUriError> {
    monitor::check_migration_uri(text).map(|()| text.to_owned())
}

/// A speed at which time can pass.
fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse::<f64>().ok().filter(|speed| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| "write how many times as fast as it went, for example 10".to_owned())
}

const REPLAY_EXAMPLES: &str = "\
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

/// Writes the manual page.
pub fn manual(out: &mut impl Write) -> io::Result<()> {
    let command = Cli::command();
    clap_mangen::Man::new(command.clone()).render(out)?;
    for subcommand in command.get_subcommands().filter(|command| !command.is_hide_set()) {
        let title = format!("landfall-{}", subcommand.get_name());
        clap_mangen::Man::new(subcommand.clone().name(title)).render(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use landfall_core::requirements::Requirement;
    use std::time::Duration;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_fixed_names_of_the_contract_are_there() {
        let options = [
            "--destination-qmp",
            "unix:/d",
            "--max-bandwidth",
            "100MB/s",
            "--min-cpu",
            "20%",
            "--max-stall",
            "300ms",
            "--max-time",
            "90s",
            "--aggression",
            "0.5",
            "--policy",
            "plain",
            "--give-way",
            "max-stall,min-cpu",
            "--post-copy",
            "allow",
            "--record",
            "f",
            "--json",
        ];
        let line = ["landfall", "migrate", "unix:/s", "tcp:h:1"].into_iter().chain(options);
        let Command::Migrate(options) = Cli::try_parse_from(line).unwrap().command else {
            panic!()
        };
        let asked = options.asked.demands().unwrap().requirements;
        assert_eq!(asked.give_way, [Requirement::MaxStall, Requirement::MinCpu]);
        assert_eq!(asked.max_time, Some(Duration::from_secs(90)));
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_remedy() {
        for (option, value, remedy) in [
            ("--max-bandwidth", "100", "100MB/s"),
            ("--min-cpu", "0.2", "20%"),
            ("--max-stall", "300", "300ms"),
            ("--aggression", "2", "0.0"),
            ("--policy", "magic", "progressive"),
            ("--give-way", "all", "max-stall"),
            ("--max-bandwidth", "0MB/s", "QEMU's own limit"),
            ("--max-stall", "0ms", "some tens of ms"),
        ] {
            let line = ["landfall", "migrate", "unix:/s", "tcp:h:1", option, value];
            let error = Cli::try_parse_from(line).unwrap_err().to_string();
            assert!(error.contains(remedy) && error.contains(value), "{error}");
        }
    }

    #[test]
    fn a_replay_goes_as_fast_as_it_went_unless_told_otherwise() {
        for (options, expected) in [
            (&["f"][..], Some(None)),
            (&["f", "--live"], Some(Some(1.0))),
            (&["f", "--live", "2.5"], Some(Some(2.5))),
            (&["f", "--live", "0"], None),
            (&["f", "--live", "inf"], None),
        ] {
            let line = [&["landfall", "replay"], options].concat();
            let speed = match Cli::try_parse_from(line) {
                Ok(Cli { command: Command::Replay(replay) }) => Some(replay.live),
                Ok(_) => panic!(),
                Err(error) => {
                    assert!(error.to_string().contains("for example 10"), "{error}");
                    None
                }
            };
            assert_eq!(speed, expected);
        }
    }

    #[test]
    fn a_destination_that_is_no_qemu_is_refused() {
        for uri in ["bogus", "exec:cat > /dev/null", "file:/tmp/guest"] {
            let error = Cli::try_parse_from(["landfall", "migrate", "unix:/s", uri]).unwrap_err();
            assert!(error.to_string().contains("-incoming"), "{error}");
        }
    }

    #[test]
    fn a_policy_that_no_qemu_has_any_more_can_be_simulated_and_nothing_else() {
        let parse = |line: &[&str]| Cli::try_parse_from(line.iter().copied());
        let old = ["--policy", "auto-converge-2013"];
        let simulate = ["landfall", "simulate", "s.toml", "--policy", "plain", "--seed", "7"];
        let Command::Simulate(options) = parse(&[&simulate[..], &old].concat()).unwrap().command
        else {
            panic!()
        };
        let names: Vec<&str> = options.policy.iter().map(Law::name).collect();
        assert_eq!(names, ["plain", "auto-converge-2013"]);
        let error = parse(&[&["landfall", "migrate", "unix:/s", "tcp:h:1"][..], &old].concat());
        assert!(error.unwrap_err().to_string().contains("auto-converge-2013"));
        assert!(parse(&["landfall", "simulate"]).is_err(), "there is no scenario");
    }

    #[test]
    fn the_manual_can_be_written() {
        let mut page = Vec::new();
        manual(&mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("max"));
    }
}
