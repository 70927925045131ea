//! The known keys, the kind of value that each takes, and the name of its environment variable.
//!
//! Derived from the defaults in [`super::raw`], so that a new field needs no entry here.

use std::collections::BTreeMap;

use figment::value::Value;

use super::raw::Raw;

/// Prefix of the proxy's environment variables.
pub(super) const PREFIX: &str = "MLFLOW_AUTH_PROXY_";

/// Keys whose values are secret. Each also exists as `KEY_file`.
const SECRETS: [&str; 4] =
    ["bootstrap.admin_password", "oidc.providers.*.client_secret", "session.keys", "store.password"];

/// Sections whose entries are named by the administrator. In the schema such a name is `*`.
const NAMED: [&str; 2] = ["oidc.providers.", "jwt.issuers."];

/// The keys that take a list of tables.
const TABLES: [&str; 1] = ["jwt.issuers.*.machines"];

/// Returns true if the key's value must not be shown.
pub(super) fn is_secret(key: &str) -> bool {
    SECRETS.contains(&pattern(key).as_str())
}

/// Returns the key with `*` in place of a name that the administrator chose.
pub(super) fn pattern(key: &str) -> String {
    let named = NAMED.iter().find_map(|section| Some((section, key.strip_prefix(section)?.split_once('.'))));
    match named {
        Some((section, Some((name, rest)))) if is_name(name) => format!("{section}*.{rest}"),
        Some((section, None)) if key.strip_prefix(section).is_some_and(is_name) => format!("{section}*"),
        Some(_) | None => key.to_owned(),
    }
}

/// Returns the pattern with the chosen name of `key` in place of `*`.
fn with_name(pattern: &str, key: &str) -> String {
    let name = NAMED.iter().find_map(|section| key.strip_prefix(section)?.split('.').next());
    pattern.replace('*', name.unwrap_or("NAME"))
}

/// Returns true if `name` is valid for a provider or issuer. It becomes part of a path.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    !name.is_empty() && name.len() <= 32 && name.bytes().all(plain)
}

/// Kind of value that a key takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Text,
    Number,
    Flag,
    List,
    Tables,
}

impl Kind {
    /// Returns the error text for a value of another kind. It does not quote the value, which can be a secret.
    pub(super) const fn expectation(self) -> &'static str {
        match self {
            Self::Text => "must be a string",
            Self::Number => "must be a non-negative integer",
            Self::Flag => "must be true or false",
            Self::List => "must be a list of strings",
            Self::Tables => {
                "must be a list of tables in TOML's syntax, such as [{ where = { azp = \"ci\" }, name = \"ci\" }]"
            }
        }
    }
}

/// All keys, by dotted name.
#[derive(Debug)]
pub(super) struct Schema {
    keys: BTreeMap<String, Kind>,
}

impl Schema {
    pub(super) fn new() -> Self {
        let kind = |key: &str, value: &Value| if TABLES.contains(&key) { Kind::Tables } else { kind(value) };
        let keys = leaves(&Raw::pattern()).into_iter().map(|(key, value)| {
            let kind = kind(&key, &value);
            (key, kind)
        });
        Self { keys: keys.collect() }
    }

    /// Returns the kind of value that the key takes, or `None` if there is no such key.
    pub(super) fn kind(&self, key: &str) -> Option<Kind> {
        self.keys.get(&pattern(key)).copied()
    }

    /// Returns true if `key` is a table of the file, such as `server.tls`.
    pub(super) fn is_section(&self, key: &str) -> bool {
        let key = &pattern(key);
        self.keys.keys().any(|known| known.strip_prefix(key.as_str()).is_some_and(|rest| rest.starts_with('.')))
    }

    /// Returns the known key that is most similar to an unknown one, if any is similar enough.
    pub(super) fn nearest(&self, unknown: &str) -> Option<String> {
        let nearest = closest(&pattern(unknown), self.keys.keys().map(String::as_str));
        nearest.map(|known| with_name(known, unknown))
    }

    /// Returns the most similar name among keys and sections.
    pub(super) fn nearest_in_file(&self, unknown: &str) -> Option<String> {
        let sections = self.keys.keys().filter_map(|key| Some(key.rsplit_once('.')?.0));
        let nearest = closest(&pattern(unknown), self.keys.keys().map(String::as_str).chain(sections));
        nearest.map(|known| with_name(known, unknown))
    }

    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }
}

/// Returns the name of a key's environment variable: `server.tls.cert` becomes `MLFLOW_AUTH_PROXY_SERVER__TLS__CERT`.
pub(super) fn environment_name(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

/// Returns every key of `raw` with its value.
pub(super) fn leaves(raw: &Raw) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    // Serializing plain structs into memory cannot fail. The test of the default file would detect it.
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

/// Returns the Levenshtein distance: the number of letters to add, remove or replace.
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
