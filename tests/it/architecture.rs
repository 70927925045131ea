//! The table of modules in ARCHITECTURE.md is exact: each module uses what the table gives it, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("a folder of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
    found
}

/// The table "module | may use"; `None` means everything.
fn allowed() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string("ARCHITECTURE.md").expect("ARCHITECTURE.md");
    let table = text.split("| module | may use |").nth(1).expect("the table of arrows");
    let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').splitn(2, '|');
            let module = words(cells.next().expect("a module")).pop_first().expect("a module");
            let uses = cells.next().expect("a cell");
            (module, (!uses.contains("everything")).then(|| words(uses)))
        })
        .collect()
}

fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix("src").expect("below src");
    let first = inside.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

/// Every `crate::x` in code, also inside `crate::{x, y}`.
fn uses(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let end = list.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth < 0
                });
                let list = &list[..end.expect("a closed list")];
                let mut depth = 0;
                list.split(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    c == ',' && depth == 0
                })
                .collect()
            }
            None => vec![rest],
        };
        for name in names {
            let name: String = name.trim().chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if !name.is_empty() {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn the_arrows_of_the_architecture_hold() {
    let allowed = allowed();
    let modules: BTreeSet<&String> = allowed.keys().collect();
    let mut wrong = Vec::new();
    let mut used_by = BTreeMap::<String, BTreeSet<String>>::new();
    for path in sources(Path::new("src")) {
        let module = module_of(&path);
        if module == "lib" || module == "main" || path.ends_with("tests.rs") {
            continue;
        }
        let Some(may_use) = allowed.get(&module) else {
            wrong.push(format!("{}: `{module}` is not in ARCHITECTURE.md", path.display()));
            continue;
        };
        let Some(may_use) = may_use else { continue };
        let text = fs::read_to_string(&path).expect("a source");
        for used in uses(&text) {
            if used == module || !modules.contains(&used) {
                continue;
            }
            if !may_use.contains(&used) {
                wrong.push(format!("{}: `{module}` may not use `{used}`", path.display()));
            }
            used_by.entry(module.clone()).or_default().insert(used);
        }
    }
    for (module, may_use) in allowed.iter().filter_map(|(module, uses)| Some((module, uses.as_ref()?))) {
        let used = used_by.get(module).cloned().unwrap_or_default();
        wrong.extend(may_use.difference(&used).map(|unused| format!("`{module}` does not use `{unused}`")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_pure_modules_do_no_io() {
    let io = ["tokio::net", "tokio::fs", "std::fs", "std::net::Tcp", "sqlx::"];
    let pure = ["tokio::", "async fn", "hyper::"];
    // `http` reads bodies that others give it.
    for (module, words) in
        [("mlflow", [&io[..], &pure].concat()), ("authz", [&io[..], &pure].concat()), ("http", io.into())]
    {
        for path in sources(&Path::new("src").join(module)) {
            let text = fs::read_to_string(&path).expect("a source");
            for word in &words {
                assert!(!text.contains(word), "{} uses `{word}`", path.display());
            }
        }
    }
}

#[test]
fn secrets_are_exposed_only_where_they_must_be() {
    for path in sources(Path::new("src")) {
        let module = module_of(&path);
        let text = fs::read_to_string(&path).expect("a source");
        if text.contains("expose_secret()") {
            assert!(["crypto", "authn", "oidc"].contains(&module.as_str()), "{} exposes a secret", path.display());
        }
    }
}
