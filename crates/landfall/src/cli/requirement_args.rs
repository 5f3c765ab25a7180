//! What is asked of a migration, on the command line: options that `landfall migrate` and `landfall plan`
//! share, and a file that has the same names and texts.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use landfall_core::policy;
use landfall_core::requirements::settings::{Demand, Demands};
use landfall_core::units::parse_duration;
use landfall_migration::policy_registry::NamedPolicy;

use super::policy_parser::PolicyParser;

/// The options. What is read here is read by [`Demand::read`], like everywhere else.
#[derive(Debug, Clone, Args)]
pub struct RequirementArgs {
    /// Most that may go over the link before the switch-over: 100MB/s, 1Gbit/s [default: what QEMU
    /// is set to]
    #[arg(long, value_name = "RATE", value_parser = demand("max-bandwidth"))]
    pub max_bandwidth: Option<Demand>,

    /// Least CPU that each vCPU keeps while the guest runs, for example 20% [default: 0%]
    #[arg(long, value_name = "PERCENT", value_parser = demand("min-cpu"))]
    pub min_cpu: Option<Demand>,

    /// Longest time the guest may stand still at a stretch, final downtime included: 300ms, 1.5s
    /// [default: 300ms]
    #[arg(long, value_name = "DURATION", value_parser = demand("max-stall"))]
    pub max_stall: Option<Demand>,

    /// Longest time for the whole migration: 90s, 10min [default: none]
    #[arg(long, value_name = "DURATION", value_parser = demand("max-time"))]
    pub max_time: Option<Demand>,

    /// The gentlest way that keeps the requirements at 0.0, the fastest end at 1.0 [default: 0.5]
    #[arg(long, value_name = "0.0..1.0", allow_negative_numbers = true,
          value_parser = demand("aggression"))]
    pub aggression: Option<Demand>,

    /// Requirements that may be broken where all cannot be kept, the first one first: min-cpu,
    /// max-stall, max-time, max-bandwidth [default: none; rather than break one, the migration is
    /// refused or cancelled, with the guest unharmed]
    #[arg(long, value_name = "LIST", value_parser = demand("give-way"))]
    pub give_way: Vec<Demand>,

    /// Read what is asked from this file first; options go before it. Lines such as
    /// max-stall = "300ms", with the names of the six options above (TOML)
    #[arg(long, value_name = "FILE")]
    pub requirements: Option<PathBuf>,

    /// What to do about a guest that dirties its memory faster than the link carries it
    #[arg(long, value_name = "NAME", default_value = policy::DEFAULT,
          value_parser = PolicyParser { simulated: false })]
    pub policy: NamedPolicy,

    /// How long to watch how the guest writes before the start, for the forecast and the first plan;
    /// 0s knows nothing
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = parse_duration)]
    pub probe: Duration,
}

impl RequirementArgs {
    /// All that is asked: the file's demands, and the options before them.
    ///
    /// # Errors
    /// In words: the file cannot be read, or asks for what cannot be.
    pub fn demands(&self) -> Result<Demands, String> {
        let mut demands = match &self.requirements {
            Some(file) => from_file(file)?,
            None => Demands::default(),
        };
        let options =
            [&self.max_bandwidth, &self.min_cpu, &self.max_stall, &self.max_time, &self.aggression];
        options.into_iter().flatten().for_each(|demand| demands.apply(demand.clone()));
        if !self.give_way.is_empty() {
            let names: Vec<String> = self.give_way.iter().map(Demand::text).collect();
            demands.set("give-way", &names.join(",")).map_err(|error| error.to_string())?;
        }
        Ok(demands)
    }
}

fn from_file(file: &Path) -> Result<Demands, String> {
    let name = file.display();
    let text = fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
    toml::from_str(&text).map_err(|error| format!("{name}: {}", error.to_string().trim_end()))
}

/// Reads the demand of a name.
fn demand(
    name: &'static str,
) -> impl Fn(&str) -> Result<Demand, String> + Clone + Send + Sync + 'static {
    move |text| Demand::read(name, text).map_err(|error| error.problem())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use landfall_core::requirements::Requirement;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        asked: RequirementArgs,
    }

    fn parse(options: &[&str]) -> Result<Demands, String> {
        let line = [&["landfall"], options].concat();
        Line::try_parse_from(line).map_err(|error| error.to_string())?.asked.demands()
    }

    #[test]
    fn what_is_not_asked_has_its_default() {
        assert_eq!(parse(&[]), Ok(Demands::default()));
    }

    #[test]
    fn options_go_before_the_file_and_the_file_before_the_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asked.toml");
        let text =
            "max-stall = \"1s\"\nmin-cpu = \"20%\"\naggression = 0.25\ngive-way = [\"max-time\"]\n";
        fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let read = parse(&["--requirements", file, "--max-stall", "2s"]).unwrap();
        assert_eq!(read.requirements.max_stall, Duration::from_secs(2));
        assert_eq!(read.requirements.min_cpu.get(), 0.2);
        assert_eq!(read.requirements.give_way, [Requirement::MaxTime]);
        assert_eq!(read.aggression.get(), 0.25);
    }

    #[test]
    fn a_file_that_asks_for_what_cannot_be_is_refused_with_its_name_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("asked.toml");
        for (text, remedy) in [
            ("max-stall = 300", "300ms"),
            ("max-pain = \"1s\"", "max-stall"),
            ("give-way = [\"all\"]", "max-stall"),
            ("max-stall =", "asked.toml"),
        ] {
            fs::write(&file, text).unwrap();
            let error = parse(&["--requirements", file.to_str().unwrap()]).unwrap_err();
            assert!(error.contains("asked.toml") && error.contains(remedy), "{error}");
        }
    }

    #[test]
    fn a_list_may_be_said_in_one_or_bit_by_bit() {
        for options in [
            &["--give-way", "max-stall,min-cpu"][..],
            &["--give-way", "max-stall", "--give-way", "min-cpu"],
        ] {
            let read = parse(options).unwrap();
            assert_eq!(read.requirements.give_way, [Requirement::MaxStall, Requirement::MinCpu]);
        }
    }
}
