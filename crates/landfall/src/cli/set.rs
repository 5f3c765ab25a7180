//! The options of `landfall set`.

use clap::Args;
use landfall_core::requirements::SETTINGS;

use super::setting_args::ChangedSettingArgs;

/// Shows or changes the settings of a migration that a landfall on this host is steering. A change is in
/// force at the next sample, within a tenth of a second, and the recording has it.
///
/// The report judges by the settings in force at the end; what was measured before a requirement was
/// tightened does not count against it. A requirement that cannot be kept does no harm: where none may
/// be broken, the migration is cancelled and the guest continues at the source.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Set {
    /// The guest: the SOURCE that landfall migrate was given, its QEMU's -name, or that process's id
    pub guest: String,

    #[command(flatten)]
    pub settings: ChangedSettingArgs,

    /// Cancel the migration; the guest continues at the source
    #[arg(long, conflicts_with_all = SETTINGS.each_ref().map(|spec| spec.name))]
    pub cancel: bool,

    /// Print one JSON object on standard output, and nothing else
    #[arg(long)]
    pub json: bool,
}

const EXAMPLES: &str = "\
Examples:
  Show the settings in force and the progress:

    landfall set unix:/run/vm.qmp

  It takes too long: allow a longer stall, and let the time be broken first, then the stall:

    landfall set unix:/run/vm.qmp --max-stall 1s --give-way max-time,max-stall

  Leave more of the link to others and more of its CPU to the guest:

    landfall set web1 --max-bandwidth 200Mbit/s --min-cpu 50%

Exit status:
  0  the change is in force, or the settings were shown
  1  refused, and nothing was changed; or no landfall steers that guest, or it does not answer
  2  wrong arguments";

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};

    #[test]
    fn each_setting_is_passed_on_by_its_name_and_nonsense_is_refused_with_the_remedy() {
        let all = "--max-bandwidth 9MB/s --min-cpu 20% --max-stall 1s --max-time none \
                   --give-way max-time,max-stall --aggression 1";
        let parse = |options: &str| {
            let line = ["landfall", "set", "web1"].into_iter().chain(options.split_whitespace());
            Cli::try_parse_from(line)
        };
        let Command::Set(options) = parse(all).unwrap().command else { panic!() };
        assert_eq!(options.settings.given().len(), 6);
        let text: Vec<String> = options.settings.given().iter().map(ToString::to_string).collect();
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
