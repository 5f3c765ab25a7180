//! SPECIFICATION.md: each promise names the tests that hold it, and each of them is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::root;

#[test]
fn every_test_that_the_specification_names_exists_and_every_promise_names_one() {
    let text = fs::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let promises = text.split("## What is not promised").next().unwrap();
    let known = test_names();
    let mut numbered = 0;
    for item in items(promises) {
        numbered += 1;
        let named: Vec<&str> = item
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|word| word.len() > 16 && word.contains('_') && is_name(word))
            .collect();
        assert!(!named.is_empty(), "no test holds: {item}");
        for name in named {
            assert!(
                known.contains(name),
                "SPECIFICATION.md names {name}, and there is no such test"
            );
        }
    }
    assert!(numbered > 10, "{numbered} promises");
}

/// The numbered items of a text, each with the lines that belong to it.
fn items(text: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in text.lines() {
        let begins = line.split_once(". ").is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        match items.last_mut() {
            _ if begins => items.push(line.to_owned()),
            Some(item) if line.starts_with("  ") => *item += line,
            _ => {}
        }
    }
    items
}

fn is_name(word: &str) -> bool {
    word.chars()
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

/// Names of all functions that are marked as tests.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    collect(&root().join("crates"), &mut names);
    names
}

fn collect(directory: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let mut marked = false;
            for line in text.lines().map(str::trim) {
                marked |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let Some(name) = name {
                    let in_proptest = text.contains("proptest! {");
                    if marked || in_proptest {
                        names.extend(name.split('(').next().map(str::to_owned));
                    }
                    marked = false;
                }
            }
        }
    }
}
