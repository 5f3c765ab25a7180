//! The command line. One table, clap's, drives options, help, completions and the manual page.

mod migrate;
mod plan;
mod policy_parser;
mod release;
mod replay;
mod requirement_args;
mod set;
mod setting_args;
mod simulate;

use std::io::{self, Write};

use clap::{CommandFactory, Parser, Subcommand};

pub use migrate::{MigrateArgs, PostCopyArg};
pub use plan::PlanArgs;
pub use release::ReleaseArgs;
pub use replay::ReplayArgs;
pub use set::Set;
pub use simulate::SimulateArgs;

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
    #[command(about = "Steer one migration to its end")]
    Migrate(Box<MigrateArgs>),
    #[command(
        about = "Forecast a migration: what each setting implies, what conflicts, what would resolve it"
    )]
    Plan(Box<PlanArgs>),
    #[command(about = "Show or change the settings of a migration that is under way")]
    Set(Set),
    #[command(
        about = "Undo what a crash of landfall and its guardian has left behind on this host"
    )]
    Release(ReleaseArgs),
    #[command(
        about = "Boot guests and show what steering is worth against QEMU's own auto-converge"
    )]
    #[cfg(feature = "lab")]
    Demo(landfall_lab::demo::DemoArgs),
    #[command(
        about = "Show a recorded migration again, and check that it would be decided the same"
    )]
    Replay(ReplayArgs),
    #[command(about = "Simulate migrations in virtual time, by several policies side by side")]
    Simulate(SimulateArgs),
    #[command(
        about = "Serve a web page with this host's guests, what each setting implies, and migrations"
    )]
    Serve(crate::web::ServeOptions),
    #[command(about = "Measure policies against each other on real guests, in paired runs")]
    #[cfg(feature = "lab")]
    Bench(landfall_lab::bench::BenchArgs),
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
    use landfall_migration::policy_registry::NamedPolicy;
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
        let asked = options.asked.settings().unwrap().requirements;
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
        let names: Vec<&str> = options.policy.iter().map(NamedPolicy::name).collect();
        assert_eq!(names, ["plain", "auto-converge-2013"]);
        let error = parse(&[&["landfall", "migrate", "unix:/s", "tcp:h:1"][..], &old].concat());
        assert!(error.unwrap_err().to_string().contains("auto-converge-2013"));
        assert!(parse(&["landfall", "simulate"]).is_err(), "there is no scenario");
    }

    #[test]
    fn a_build_for_hosts_has_no_experiments() {
        let command = Cli::command();
        let has = |name: &str| command.find_subcommand(name).is_some();
        assert!(has("migrate") && has("simulate"));
        assert_eq!([has("demo"), has("bench")], [cfg!(feature = "lab"); 2]);
    }

    #[test]
    fn the_manual_can_be_written() {
        let mut page = Vec::new();
        manual(&mut page).unwrap();
        assert!(String::from_utf8(page).unwrap().contains("max"));
    }
}
