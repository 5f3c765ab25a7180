//! `docs/cli.md`: the help of every command, as the program prints it.

use std::fmt::Write;
use std::process::Stdio;

use super::{COMMAND, compare_or_write};
use crate::landfall_process::landfall;

/// The program's long help for these arguments, at a fixed width and without colours.
fn help(arguments: &[&str]) -> String {
    let mut command = landfall();
    // Only where none of the three is a terminal does the variable set the width.
    command.stdin(Stdio::null()).env("COLUMNS", "100").env("NO_COLOR", "1");
    command.env_remove("CLICOLOR_FORCE");
    let output = command.args(arguments).arg("--help").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains('\u{1b}'), "{arguments:?}: colours in {text:?}");
    let lines = text.trim_end().lines().map(str::trim_end);
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// The names below `Commands:` in the program's help, apart from clap's own `help`.
fn commands(help: &str) -> Vec<&str> {
    let (_, list) = help.split_once("\nCommands:\n").expect("the help lists the commands");
    let list = list.lines().take_while(|line| !line.is_empty());
    // The descriptions go on in lines that are indented further.
    let names = list.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    names.filter(|name| !name.is_empty() && *name != "help").collect()
}

fn reference_page() -> String {
    let mut page = format!(
        "# The command line\n\n\
         The help of landfall and of each command, as `--help` prints it. A test compares this page \
         with the program; to write it again:\n\n\
         ```\n{COMMAND}\n```\n"
    );
    let overview = help(&[]);
    let mut add = |title: &str, text: &str| {
        write!(page, "\n## {title}\n\n```text\n{text}```\n").unwrap();
    };
    add("landfall", &overview);
    let names = commands(&overview);
    assert!(names.contains(&"migrate") && names.contains(&"bench"), "{names:?}");
    for name in names {
        add(&format!("landfall {name}"), &help(&[name]));
    }
    page
}

#[test]
fn the_command_line_reference_is_what_the_program_prints() {
    compare_or_write("cli.md", &reference_page());
}
