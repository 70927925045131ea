//! Every crate we depend on is justified in docs/dependencies.md, and nothing is justified that we do not use.

use std::collections::BTreeSet;
use std::fs;

#[test]
fn every_dependency_has_its_line() {
    let manifest: toml::Table = fs::read_to_string("Cargo.toml").expect("Cargo.toml").parse().expect("TOML");
    let text = fs::read_to_string("docs/dependencies.md").expect("docs/dependencies.md");
    let (_, lists) = text.split_once("## What the program is made of").expect("the first list");
    let (program, tests) = lists.split_once("## What only tests and benchmarks need").expect("the second list");
    for (section, list) in [("dependencies", program), ("dev-dependencies", tests)] {
        let used: BTreeSet<&str> = manifest[section].as_table().expect("a table").keys().map(String::as_str).collect();
        assert_eq!(justified(list), used, "[{section}] of Cargo.toml and its list in docs/dependencies.md differ");
    }
}

/// The names in lines like "- `name`: reason".
fn justified(list: &str) -> BTreeSet<&str> {
    let lines = list.lines().filter_map(|line| line.strip_prefix("- `"));
    lines
        .map(|line| {
            let (name, reason) = line.split_once("`: ").expect("a name and a reason");
            assert!(reason.split(' ').count() > 1 || reason.len() > 2, "`{name}` has no reason");
            name
        })
        .collect()
}
