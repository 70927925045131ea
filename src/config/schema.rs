//! Which keys exist, what kind of value each takes, and how its environment variable is called.
//!
//! Read from the defaults in [`super::raw`], so a new field is known everywhere at once.

use std::collections::BTreeMap;

use figment::value::Value;

use super::raw::Raw;

/// How every environment variable of ours starts.
pub(super) const PREFIX: &str = "MLFLOW_AUTH_PROXY_";

/// The keys whose value nobody may see. Each also exists as `KEY_file`.
pub(super) const SECRETS: [&str; 1] = ["bootstrap.admin_password"];

/// What a key takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
    List,
}

impl Kind {
    /// What to tell somebody who wrote something else. Never repeats what they wrote: it may be a secret.
    pub(super) const fn expectation(self) -> &'static str {
        match self {
            Self::Text => "must be a text",
            Self::Number => "must be a whole number, not negative",
            Self::Flag => "must be true or false",
            Self::List => "must be a list of texts",
        }
    }
}

/// Every key, by its dotted name.
#[derive(Debug)]
pub(super) struct Schema {
    keys: BTreeMap<String, Kind>,
}

impl Schema {
    pub(super) fn new() -> Self {
        let keys = leaves(&Raw::default()).into_iter().map(|(key, value)| (key, kind(&value))).collect();
        Self { keys }
    }

    /// What the key takes; `None` when there is no such key.
    pub(super) fn kind(&self, key: &str) -> Option<Kind> {
        self.keys.get(key).copied()
    }

    /// Whether `key` is a table of the file, such as `server.tls`.
    pub(super) fn is_section(&self, key: &str) -> bool {
        self.keys.keys().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
    }

    /// The known key that looks most like this unknown one, if any comes close.
    pub(super) fn nearest(&self, unknown: &str) -> Option<&str> {
        closest(unknown, self.keys.keys().map(String::as_str))
    }

    /// The same among keys and sections.
    pub(super) fn nearest_in_file(&self, unknown: &str) -> Option<&str> {
        let sections = self.keys.keys().filter_map(|key| Some(key.rsplit_once('.')?.0));
        closest(unknown, self.keys.keys().map(String::as_str).chain(sections))
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

/// `server.tls.cert` -> `MLFLOW_AUTH_PROXY_SERVER__TLS__CERT`.
pub(super) fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Every key of `raw` with its value, by name.
pub(super) fn leaves(raw: &Raw) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    // Serialising plain structs into memory cannot fail; the test of the default file would notice.
    if let Ok(root) = Value::serialize(raw) {
        collect("", root, &mut found);
    }
    found
}

fn collect(path: &str, value: Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Dict(_, fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name } else { format!("{path}.{name}") };
                collect(&path, value, found);
            }
        }
        leaf => found.push((path.to_owned(), leaf)),
    }
}

fn kind(default: &Value) -> Kind {
    match default {
        Value::Bool(..) => Kind::Flag,
        Value::Num(..) => Kind::Number,
        Value::Array(..) => Kind::List,
        Value::String(..) | Value::Char(..) | Value::Empty(..) | Value::Dict(..) => Kind::Text,
    }
}

fn closest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let unknown: Vec<char> = unknown.chars().take(100).collect();
    let measured = known.map(|known| (distance(&unknown, &known.chars().collect::<Vec<_>>()), known));
    let (best, nearest) = measured.min()?;
    (best <= unknown.len().div_ceil(3)).then_some(nearest)
}

/// How many letters must be added, dropped or exchanged to get from one word to the other (Levenshtein).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for ((b, above), diagonal) in to.iter().zip(row.iter().skip(1)).zip(&row) {
            left = (left + 1).min(above + 1).min(diagonal + usize::from(a != b));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}
