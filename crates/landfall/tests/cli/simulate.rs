//! `landfall simulate`: scenarios and the scripts that they name.

use std::fs;
use std::path::Path;

use crate::landfall_process::landfall;

#[test]
fn a_scenario_names_scripts_beside_it_and_says_once_that_one_fails() {
    let folder = tempfile::tempdir().unwrap();
    let scenarios = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scenarios");
    let middle = fs::read_to_string(scenarios.join("middle.toml")).unwrap();
    let named = "policies = ['plain', 'script:gentle.rhai', 'script:bad.rhai']\n";
    let unnamed: String = middle
        .lines()
        .filter(|line| !line.starts_with("policies"))
        .flat_map(|line| [line, "\n"])
        .collect();
    fs::write(folder.path().join("s.toml"), format!("{named}{unnamed}")).unwrap();
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    fs::copy(policies.join("gentle.rhai"), folder.path().join("gentle.rhai")).unwrap();
    let bad = "fn decide(view) { if view.intervals > 2 { loop { } } leave_alone(\"so far\") }";
    fs::write(folder.path().join("bad.rhai"), bad).unwrap();
    let simulate =
        || landfall().args(["simulate", "--draws", "2"]).arg(folder.path().join("s.toml")).output();
    let output = simulate().unwrap();
    let (table, said) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{said}{table}");
    for row in ["plain", "script:gentle.rhai", "script:bad.rhai"] {
        assert!(table.contains(row), "{row}: {table}");
    }
    assert_eq!(said.matches("script:bad.rhai failed at").count(), 1, "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    fs::remove_file(folder.path().join("bad.rhai")).unwrap();
    let refused = simulate().unwrap();
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("bad.rhai"), "{refused:?}");
}
