//! The options of the settings, made from the table [`SETTINGS`].

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use landfall_core::requirements::{SETTINGS, Setting, SettingSpec};

/// The settings on the command line. `STARTS` is whether they are those of a start, whose help names
/// the defaults, or changes on the way, whose help names what removes a limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SettingArgs<const STARTS: bool>(Vec<Setting>);

/// The options of `landfall migrate` and `landfall plan`.
pub type StartSettingArgs = SettingArgs<true>;

/// The options of `landfall set`.
pub type ChangedSettingArgs = SettingArgs<false>;

impl<const STARTS: bool> SettingArgs<STARTS> {
    /// Returns the settings that were given, in the order of the table.
    pub fn given(&self) -> &[Setting] {
        &self.0
    }
}

impl<const STARTS: bool> Args for SettingArgs<STARTS> {
    fn augment_args(command: Command) -> Command {
        SETTINGS.iter().fold(command, |command, spec| command.arg(option(spec, STARTS)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<const STARTS: bool> FromArgMatches for SettingArgs<STARTS> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut args = Self::default();
        args.update_from_arg_matches(matches)?;
        Ok(args)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for spec in &SETTINGS {
            let values = matches.get_many::<Setting>(spec.name).into_iter().flatten().cloned();
            self.0.extend(values.reduce(join_lists));
        }
        Ok(())
    }
}

/// An option that was given twice: lists are joined, of other values the last one counts.
fn join_lists(first: Setting, second: Setting) -> Setting {
    match (first, second) {
        (Setting::GiveWay(mut list), Setting::GiveWay(more)) => {
            let new: Vec<_> = more.into_iter().filter(|name| !list.contains(name)).collect();
            list.extend(new);
            Setting::GiveWay(list)
        }
        (_, second) => second,
    }
}

fn option(spec: &'static SettingSpec, starts: bool) -> Arg {
    let mut help = spec.help.to_owned();
    let removes = (!starts && spec.removable).then_some("none");
    let texts = [Some(spec.examples).filter(|text| !text.is_empty()), removes];
    let texts: Vec<&str> = texts.into_iter().flatten().collect();
    if !texts.is_empty() {
        help += &format!(" (for example {})", texts.join(", or "));
    }
    if starts {
        help += &format!(" [default: {}]", spec.default);
    }
    let is_list = matches!(spec.parse("none"), Ok(Setting::GiveWay(_)));
    Arg::new(spec.name)
        .long(spec.name)
        .value_name(spec.value_name)
        .help(help)
        .allow_negative_numbers(true)
        .action(if is_list { ArgAction::Append } else { ArgAction::Set })
        .value_parser(move |text: &str| spec.parse(text))
}
