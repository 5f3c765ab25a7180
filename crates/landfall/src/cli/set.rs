//! `landfall set`, its part of the table.

use clap::Args;
use landfall_core::requirements::settings::Demand;

/// Shows what is demanded of a migration that a landfall on this host is steering just now, or changes
/// it: the plan follows at the next look, within a tenth of a second, and the record has it.
///
/// What is demanded last is what the report judges by; what was before a requirement was tightened is
/// not held against it. A change that the guest then cannot keep does no harm: where nothing may give
/// way, the migration is cancelled and the guest runs on at the source.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Set {
    /// The guest: the SOURCE that landfall migrate was given, its QEMU's -name, or that process's id
    pub guest: String,

    /// Most that may go over the link before the switch-over; none for what QEMU was set to
    #[arg(long, value_name = "RATE", value_parser = named("max-bandwidth"))]
    pub max_bandwidth: Option<String>,

    /// Least CPU that each vCPU keeps while the guest runs
    #[arg(long, value_name = "PERCENT", value_parser = named("min-cpu"))]
    pub min_cpu: Option<String>,

    /// Longest time the guest may stand still at a stretch, final downtime included
    #[arg(long, value_name = "DURATION", value_parser = named("max-stall"))]
    pub max_stall: Option<String>,

    /// Longest time for the whole migration, from its start; or none
    #[arg(long, value_name = "DURATION", value_parser = named("max-time"))]
    pub max_time: Option<String>,

    /// The gentlest way that keeps the requirements at 0.0, the fastest end at 1.0
    #[arg(long, value_name = "0.0..1.0", allow_negative_numbers = true,
          value_parser = named("aggression"))]
    pub aggression: Option<String>,

    /// Requirements that may be broken where all cannot be kept, the first one first; or none
    #[arg(long, value_name = "LIST", value_parser = named("give-way"))]
    pub give_way: Option<String>,

    /// Give the migration up; the guest runs on at the source
    #[arg(long, conflicts_with_all = ["max_bandwidth", "min_cpu", "max_stall", "max_time",
                                      "aggression", "give_way"])]
    pub cancel: bool,

    /// Print one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

impl Set {
    /// What shall be another, by name; empty where it is only to be shown.
    pub fn demands(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let values = [
            ("max-bandwidth", &self.max_bandwidth),
            ("min-cpu", &self.min_cpu),
            ("max-stall", &self.max_stall),
            ("max-time", &self.max_time),
            ("aggression", &self.aggression),
            ("give-way", &self.give_way),
        ];
        values.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)))
    }
}

/// Lets through what the running landfall reads the same way.
fn named(name: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| Demand::read(name, text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

const EXAMPLES: &str = "\
Examples:
  What is demanded of the guest just now, and how far it is:

    landfall set unix:/run/vm.qmp

  It takes too long: let it stand still for longer, and if that does not do, break the time first:

    landfall set unix:/run/vm.qmp --max-stall 1s --give-way max-time,max-stall

  Others need the link and the guest its CPU:

    landfall set web1 --max-bandwidth 200Mbit/s --min-cpu 50%

Exit status:
  0  it is in force, or was shown
  1  refused, and nothing was changed; or nobody is steering that guest, or does not answer
  2  wrong arguments";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};

    #[test]
    fn each_demand_is_passed_on_by_its_name_and_nonsense_is_refused_with_the_remedy() {
        let all = "--max-bandwidth 9MB/s --min-cpu 20% --max-stall 1s --max-time none --aggression 1 \
                   --give-way max-time,max-stall";
        let parse = |options: &str| {
            let line = ["landfall", "set", "web1"].into_iter().chain(options.split_whitespace());
            Cli::try_parse_from(line)
        };
        let Command::Set(options) = parse(all).unwrap().command else { panic!() };
        assert_eq!(options.demands().count(), 6);
        let text: Vec<String> =
            options.demands().map(|(name, v)| format!("--{name} {v}")).collect();
        assert_eq!(text.join(" "), all);
        for (options, remedy) in [
            ("--max-stall 300", "300ms"),
            ("--aggression -1", "0.0"),
            ("--give-way all", "max-stall"),
            ("--cancel --max-stall 1s", "cannot be used with"),
        ] {
            let error = parse(options).unwrap_err().to_string();
            assert!(error.contains(remedy), "{error}");
        }
    }
}
