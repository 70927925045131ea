//! Texts and links of the documents are those of the source code and of the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Files with one of these endings below `folder`.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(path.to_str().expect("a UTF-8 path"), endings));
        } else if path.extension().is_some_and(|ext| endings.iter().any(|ending| ext == *ending)) {
            found.push(path);
        }
    }
    found
}

/// Sources and templates as one text, with the lines of continued string literals joined.
fn sources() -> String {
    let mut all = String::new();
    for path in files("src", &["rs"]).into_iter().chain(files("templates", &["html"])) {
        let text = fs::read_to_string(path).expect("a source");
        let mut lines = text.split("\\\n");
        all += lines.next().unwrap_or_default();
        for line in lines {
            all += line.trim_start();
        }
    }
    all
}

#[test]
fn quoted_messages_exist_in_the_sources() {
    let page = fs::read_to_string("docs/messages.md").expect("docs/messages.md");
    let (ours, _) = page.split_once("## Texts of other programs").expect("the section on other programs");
    let sources = sources();
    let mut missing = Vec::new();
    let mut checked = 0;
    for line in ours.lines() {
        let Some(text) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) else { continue };
        for part in text.split('…').map(str::trim).filter(|part| part.len() > 3) {
            checked += 1;
            if !sources.contains(part) {
                missing.push(part);
            }
        }
    }
    assert!(checked > 30, "the test reads the page");
    assert!(missing.is_empty(), "docs/messages.md quotes what is in no source: {missing:#?}");
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> = files("docs", &["md"]);
    documents.extend(files("examples", &["md"]));
    documents.extend(files("deploy", &["md"]));
    documents.extend(["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"].map(PathBuf::from));
    let mut wrong = Vec::new();
    for document in &documents {
        let text = fs::read_to_string(document).expect("a document");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(char::is_whitespace) {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { document.clone() } else { folder_of(document).join(file) };
            if !target.exists() || !anchor.is_empty() && !anchors(&target).contains(anchor) {
                wrong.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn folder_of(document: &Path) -> &Path {
    document.parent().unwrap_or(Path::new(""))
}

/// Anchors of a document's headings, as GitHub makes them.
fn anchors(document: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(document).expect("a document");
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = |c: &char| c.is_alphanumeric() || " -_".contains(*c);
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title.chars().filter(kept).collect::<String>().replace(' ', "-")
        })
        .collect()
}
