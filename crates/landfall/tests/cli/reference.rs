//! `docs/cli.md`: the help of every command, as the program prints it.

use std::fmt::Write;
use std::path::Path;
use std::process::Stdio;

use crate::landfall_process::landfall;

/// Set to write the page instead of comparing it.
const WRITE: &str = "LANDFALL_WRITE_DOCS";

/// What makes the page.
const COMMAND: &str =
    "LANDFALL_WRITE_DOCS=1 cargo test --package landfall --test cli the_command_line_reference";

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
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let page = reference_page();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &page).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = page.lines().zip(kept.lines()).position(|(new, old)| new != old);
    let line = differs.unwrap_or(page.lines().count().min(kept.lines().count()));
    assert!(
        page == kept,
        "docs/cli.md differs from the program's help from line {} on:\n  page: {}\n  help: {}\n\
         Read the help, and write the page again:\n  {COMMAND}",
        line + 1,
        kept.lines().nth(line).unwrap_or("(the end)"),
        page.lines().nth(line).unwrap_or("(the end)"),
    );
}
