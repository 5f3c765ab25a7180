//! The invariants of `ARCHITECTURE.md` that can be seen in the source.
//!
//! What the compiler would not notice is looked for in the text of the source: comments, strings
//! and tests are taken out first, so that what is left is what runs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Everything of the standard library that the core may name. None of it can read a clock, a file,
/// a socket, the environment or a random number. (`HashMap` is not here for the last reason: its
/// order differs from run to run.)
const ALLOWED: &[&str] = &[
    "std::borrow::Cow",
    "std::cmp",
    "std::collections::BTreeMap",
    "std::collections::BTreeSet",
    "std::collections::VecDeque",
    "std::error::Error",
    "std::fmt",
    "std::iter",
    "std::marker::PhantomData",
    "std::mem::replace",
    "std::mem::take",
    "std::num",
    "std::ops",
    // A policy that panics ends its migration, not the program.
    "std::panic::AssertUnwindSafe",
    "std::panic::catch_unwind",
    "std::str",
    "std::sync::Arc",
    "std::sync::OnceLock",
    "std::time::Duration",
];

/// Words that would get round the list above, or that have no business in a pure function.
const FORBIDDEN: &[&str] = &[
    "HashMap",
    "HashSet",
    "Instant",
    "SystemTime",
    "async",
    "await",
    "dbg",
    "eprintln",
    "extern",
    "print",
    "println",
    "rand",
    "thread_local",
    "unsafe",
];

/// Where things of the world are changed: for each call, the places that may make it.
///
/// "A policy decides; only the steering loop acts; whatever it changed it can put back", and the
/// guardian puts it back where the loop cannot. This is about the crates of [`PRODUCT`] that can reach a
/// guest: the laboratory acts on guests as well, but only on those that it has booted itself and that end
/// with it.
const ACTS: &[(&[&str], &[&str])] = &[
    // QEMU: the functions of `QemuMonitor` that change something. (`end_runner` ends migrations, for the loop,
    // the guardian and `landfall release` alike.)
    (
        &[
            ".stop()",
            ".migrate(",
            ".set_migration_parameters(",
            ".cont()",
            ".migrate_start_postcopy()",
            ".start_command(",
            ".start_yank_migration()",
        ],
        &["qemu/src/driver/", "qemu/src/end_runner.rs", "qemu/src/rollback/"],
    ),
    // Control groups: the lever, the reader of its counters, and the rollback. Every hold passes
    // through the hands, which give the guardian the rollback first.
    (&["CpuLever"], &["qemu/src/driver/actuator.rs", "qemu/src/vcpus.rs", "qemu/src/cgroup/"]),
    (&["find_cpu_lever("], &["qemu/src/driver/preflight/", "qemu/src/cgroup/"]),
    (&["lever.release_all("], &["qemu/src/driver/actuator.rs"]),
    (&["step.apply("], &["qemu/src/rollback/", "qemu/src/release.rs", "qemu/src/cgroup/"]),
    // Files: groups and limits in one place, the lock and the socket in another, the recording in a
    // third, pictures in a fourth; what was started from the management page, its socket and its token.
    (
        &[
            "fs::write",
            "OpenOptions",
            "create_dir",
            "DirBuilder",
            "set_permissions",
            "remove_dir",
            "remove_file",
            "File::create",
        ],
        &[
            "qemu/src/cgroup/",
            "qemu/src/guardian.rs",
            "qemu/src/lock.rs",
            "qemu/src/rollback/record.rs",
            "qemu/src/control/mod.rs",
            "qemu/src/runtime_dir.rs",
            "qemu/src/control/server.rs",
            "migration/src/recording/write.rs",
            "migration/src/charts/mod.rs",
            "landfall/src/web/migrations.rs",
            "landfall/src/web/listen.rs",
            "landfall/src/web/token.rs",
        ],
    ),
];

/// The crates that a host runs. `landfall-lab` and `landfall-testguest` are not among them.
const PRODUCT: [&str; 6] = ["core", "sim", "script", "qemu", "migration", "landfall"];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The Rust files below a directory, without those that are tests by their name.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let below = |path: PathBuf| match path.is_dir() {
        true => sources(&path),
        false if path.extension().is_none_or(|extension| extension != "rs") => Vec::new(),
        false if path.ends_with("tests.rs") => Vec::new(),
        false => vec![path],
    };
    entries.flat_map(below).collect()
}

/// What of a file runs outside tests: no comments, no contents of strings, no `#[cfg(test)]` items.
fn program(path: &Path) -> String {
    let text = bare(&fs::read_to_string(path).unwrap());
    let mut kept = String::new();
    let mut rest = text.as_str();
    while let Some((before, test)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        rest = match (test.find(';'), test.find('{')) {
            (Some(end), brace) if brace.is_none_or(|brace| end < brace) => &test[end + 1..],
            // As rustfmt writes it, an item at the top ends with the first brace in column one.
            _ => test.split_once("\n}").map_or("", |(_, after)| after),
        };
    }
    kept + rest
}

/// The text without comments and without what is inside string literals.
fn bare(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('/', Some('/')) => while chars.next_if(|c| *c != '\n').is_some() {},
            // A quotation mark as a character literal begins no string.
            ('\'', Some('"')) => _ = chars.next(),
            ('"', _) => {
                out.push_str("\"\"");
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => _ = chars.next(),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            _ => out.push(c),
        }
    }
    out
}

/// The parts of the standard library that a program names beyond those allowed, and the words that
/// are forbidden.
fn trespasses(program: &str) -> Vec<String> {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let is_allowed = |path: &str| {
        let mut below = ALLOWED.iter().filter_map(|allowed| path.strip_prefix(allowed));
        below.any(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    let mut found = Vec::new();
    for (at, _) in program.match_indices("std::") {
        let path = &program[at..];
        let end = path.find(|c| !(in_word(c) || c == ':')).unwrap_or(path.len());
        let path = path[..end].trim_end_matches(':');
        if !is_allowed(path) {
            found.push(path.to_owned());
        }
    }
    let words = program.split(|c| !in_word(c)).filter(|word| FORBIDDEN.contains(word));
    found.extend(words.map(str::to_owned));
    found
}

#[test]
fn core_simulator_and_scripts_name_nothing_that_can_read_a_clock_a_file_or_a_socket() {
    for (name, least) in [("core", 10), ("sim", 10), ("script", 5)] {
        let files = sources(&crates().join(name).join("src"));
        assert!(files.len() > least, "{files:?}");
        for file in files {
            let mut found = trespasses(&program(&file));
            // A script that panics in its engine is one that fails, and may end no migration.
            found.retain(|path| name != "script" || !path.starts_with("std::panic"));
            assert!(found.is_empty(), "{} names {found:?}", file.display());
        }
    }
}

#[test]
fn the_search_for_trespasses_finds_them() {
    for (text, expected) in [
        ("use std::time::{Duration, Instant};", "std::time"),
        ("use std::time::Instant;", "std::time::Instant"),
        ("let home = std::env::var(name);", "std::env::var"),
        ("use std::collections::HashMap;", "std::collections::HashMap"),
        ("use std::*;", "std"),
        ("async fn wait() {}", "async"),
    ] {
        assert!(trespasses(text).contains(&expected.to_owned()), "{text}");
    }
    let harmless =
        "use std::time::Duration; // Instant\n let c = '\"'; let s = \"rand\\\" async\";";
    assert_eq!(trespasses(&bare(harmless)), Vec::<String>::new());
}

/// What a crate depends on, its tests apart. Optional dependencies are among them.
fn dependencies(name: &str) -> Vec<String> {
    dependency_lines(name).into_iter().map(|(name, _)| name).collect()
}

/// The name and the rest of the line of each dependency of a crate, its tests apart.
fn dependency_lines(name: &str) -> Vec<(String, String)> {
    let manifest = fs::read_to_string(crates().join(name).join("Cargo.toml")).unwrap();
    let mut section = "";
    let mut dependencies = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
            assert!(!line.contains("dependencies."), "{line}: write dependencies one a line");
        } else if section.ends_with("dependencies]")
            && section != "[dev-dependencies]"
            && let Some((name, rest)) = line.split_once('=')
        {
            let name = name.trim().trim_end_matches(".workspace").to_owned();
            dependencies.push((name, rest.trim().to_owned()));
        }
    }
    dependencies
}

#[test]
fn core_depends_on_serde_and_thiserror_alone() {
    assert_eq!(dependencies("core"), ["serde", "thiserror"]);
}

#[test]
fn the_simulator_depends_on_the_core_and_on_what_reads_its_scenarios() {
    assert_eq!(dependencies("sim"), ["landfall-core", "serde", "thiserror", "toml"]);
}

#[test]
fn scripts_depend_on_the_core_and_on_their_engine() {
    assert_eq!(dependencies("script"), ["landfall-core", "rhai", "thiserror"]);
}

#[test]
fn the_build_for_hosts_has_neither_laboratory_nor_guest() {
    for name in PRODUCT {
        for (dependency, rest) in dependency_lines(name) {
            let is_lab = ["landfall-lab", "landfall-testguest"].contains(&dependency.as_str());
            let is_optional = name == "landfall" && rest.contains("optional = true");
            assert!(!is_lab || is_optional, "{name} depends on {dependency}");
        }
    }
    // Nothing but the feature `lab` brings the laboratory in, and that one can be left out.
    let manifest = fs::read_to_string(crates().join("landfall/Cargo.toml")).unwrap();
    let brings: Vec<&str> =
        manifest.lines().filter(|line| line.contains("dep:landfall-lab")).collect();
    assert_eq!(brings, ["lab = [\"dep:landfall-lab\"]"]);
    assert!(manifest.contains("default = [\"lab\"]"), "demo and bench are on by default");
    let source = crates().join("landfall/src");
    for file in sources(&source) {
        let named = program(&file).lines().filter(|line| line.contains("landfall_lab")).count();
        let features = fs::read_to_string(&file).unwrap().matches("feature = \"lab\"").count();
        assert!(named <= features, "{} needs the laboratory", file.display());
    }
}

#[test]
fn the_migration_library_knows_no_command_line() {
    let dependencies = dependencies("migration");
    assert!(!dependencies.iter().any(|name| name.starts_with("clap")), "{dependencies:?}");
}

#[test]
fn only_the_steering_loop_and_the_guardian_act_on_a_guest() {
    let crates = crates();
    // What the simulator and scripts do is virtual; that they reach nothing else is tested above.
    let acting = PRODUCT.into_iter().filter(|name| !["sim", "script"].contains(name));
    let files: Vec<PathBuf> =
        acting.flat_map(|name| sources(&crates.join(name).join("src"))).collect();
    let mut calls_seen = 0;
    for file in files {
        let name = file.strip_prefix(&crates).unwrap().to_str().unwrap();
        let program = program(&file);
        for (calls, places) in ACTS {
            let calls = calls.iter().filter(|call| program.contains(**call));
            if places.iter().any(|place| name.starts_with(place)) {
                calls_seen += calls.count();
                continue;
            }
            let calls: Vec<_> = calls.collect();
            assert!(calls.is_empty(), "{name} has {calls:?}: only {places:?} may");
        }
    }
    assert!(calls_seen > 15, "the calls have other names by now: {calls_seen} seen");
}

#[test]
fn every_crate_says_what_belongs_in_it_and_what_does_not() {
    let mut seen = 0;
    for entry in fs::read_dir(crates()).unwrap() {
        let source = entry.unwrap().path().join("src");
        for root in ["lib.rs", "main.rs"].map(|name| source.join(name)) {
            let Ok(text) = fs::read_to_string(&root) else { continue };
            let head: Vec<&str> =
                text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
            let head = head.join(" ");
            // Either it says what does not belong there, or it names the crate where the rest is.
            let elsewhere = head.contains("does not") || head.contains("landfall-");
            assert!(head.contains("belong") && elsewhere, "{} does not say so", root.display());
            seen += 1;
        }
    }
    assert!(seen >= 8, "only {seen} crates found");
}

/// The types that a source file defines for others to use, `pub` or `pub(crate)`.
fn public_types(program: &str) -> Vec<&str> {
    let kinds = ["struct", "enum", "union", "trait", "type"];
    let mut found = Vec::new();
    for line in program.lines() {
        let is_public = line.trim_start().starts_with("pub");
        let mut words = line.split_whitespace().skip_while(|word| !kinds.contains(word)).skip(1);
        // What comes before the kind is `pub`, `pub(...)` or `unsafe`; otherwise it is another thing.
        let before = line.split_whitespace().take_while(|word| !kinds.contains(word));
        let mut before = before.filter(|word| !word.starts_with("pub") && *word != "unsafe");
        if is_public && before.next().is_none() {
            let name = words.next().map(|word| {
                let end = word.find(|c: char| !(c.is_alphanumeric() || c == '_'));
                &word[..end.unwrap_or(word.len())]
            });
            found.extend(name);
        }
    }
    found
}

#[test]
fn no_type_name_is_defined_twice() {
    let mut defined: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let crates = crates();
    for entry in fs::read_dir(&crates).unwrap() {
        let source = entry.unwrap().path().join("src");
        for file in sources(&source).into_iter().filter(|file| !file.ends_with("tests.rs")) {
            let name = file.strip_prefix(&crates).unwrap().display().to_string();
            for found in public_types(&program(&file)) {
                defined.entry(found.to_owned()).or_default().push(name.clone());
            }
        }
    }
    assert!(defined.len() > 300, "only {} types found", defined.len());
    let twice: Vec<_> = defined.iter().filter(|(_, places)| places.len() > 1).collect();
    assert!(twice.is_empty(), "a reader cannot tell these apart by their names: {twice:#?}");
}

#[test]
fn the_search_for_types_finds_them() {
    for (line, expected) in [
        ("pub struct Settings {", &["Settings"][..]),
        ("    pub(crate) enum Stage {", &["Stage"]),
        ("pub(super) struct Value<T> {", &["Value"]),
        ("pub type Tell = Arc<dyn Fn(&str)>;", &["Tell"]),
        ("pub fn structure(enum_: u8) {}", &[]),
        ("struct Private;", &[]),
    ] {
        assert_eq!(public_types(line), expected, "{line}");
    }
}
