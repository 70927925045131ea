//! Reads the layers of the configuration: TOML file, environment, flags. Each provides values under known keys;
//! anything else is reported as a problem.
//!
//! Environment variables and flags are untyped text, so the key determines how a text is read.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use figment::value::Value;

use super::Flags;
use super::file;
use super::report::{Origin, Report};
use super::schema::{self, Kind, PREFIX, Schema};

/// One value from one layer.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// Environment variables, passed in so that tests can provide their own.
#[derive(Clone, Debug, Default)]
pub struct Environment(Vec<(String, OsString)>);

impl Environment {
    /// Reads the environment of this process.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value))).collect()
    }

    /// Returns these variables without the proxy's own.
    #[must_use]
    pub fn without_ours(self) -> Self {
        Self(self.0.into_iter().filter(|(name, _)| !name.starts_with(PREFIX)).collect())
    }

    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_os_str())
    }
}

impl<S: Into<String>, V: Into<OsString>> FromIterator<(S, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (S, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// Reads the values of all layers, weakest layer first.
pub(super) fn read(flags: &Flags, environment: &Environment, schema: &Schema, report: &mut Report) -> Vec<Given> {
    let named = environment.get(FILE_VARIABLE).map(PathBuf::from);
    let mut given = Vec::new();
    if let Some(path) = flags.config.clone().or(named) {
        given.extend(from_file(&path, schema, report));
    }
    given.extend(from_environment(environment, schema, report));
    given.extend(from_flags(flags, schema, report));
    given
}

fn from_file(path: &Path, schema: &Schema, report: &mut Report) -> Vec<Given> {
    let origin = Origin::File(path.to_owned());
    let text = match file::read_any(path, MAX_FILE_BYTES) {
        Ok(text) => text,
        Err(error) => {
            report.add_from("config", None, format!("{} cannot be read: {error}", path.display()));
            return Vec::new();
        }
    };
    match text.parse::<toml::Table>() {
        Ok(table) => {
            let mut given = Vec::new();
            walk("", table, &origin, schema, report, &mut given);
            given
        }
        Err(error) => {
            // Only the error's message: its full text quotes the line, which can contain a secret.
            let line =
                error.span().and_then(|span| text.get(..span.start)).map_or(1, |head| head.lines().count().max(1));
            report.add_from("config", Some(origin), format!("line {line} is not TOML: {}", error.message()));
            Vec::new()
        }
    }
}

fn walk(
    section: &str,
    table: toml::Table,
    origin: &Origin,
    schema: &Schema,
    report: &mut Report,
    given: &mut Vec<Given>,
) {
    for (name, value) in table {
        let key = if section.is_empty() { name } else { format!("{section}.{name}") };
        if schema.kind(&key).is_some() {
            match Value::serialize(&value) {
                Ok(value) => given.push(Given { key, value, origin: origin.clone() }),
                Err(_) => report.add_from(&key, Some(origin.clone()), "cannot be read"),
            }
        } else if !schema.is_section(&key) {
            let hint =
                schema.nearest_in_file(&key).map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            report.add_from(&key, Some(origin.clone()), format!("there is no such key{hint}"));
        } else if let toml::Value::Table(table) = value {
            walk(&key, table, origin, schema, report, given);
        } else {
            report.add_from(&key, Some(origin.clone()), format!("is a section: write [{key}] and its keys below"));
        }
    }
}

fn from_environment(environment: &Environment, schema: &Schema, report: &mut Report) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in &environment.0 {
        let Some(rest) = name.strip_prefix(PREFIX) else { continue };
        if name == FILE_VARIABLE || is_service_link(rest, value) {
            continue;
        }
        let key = rest.replace("__", ".").to_lowercase();
        let origin = Origin::Environment(name.clone());
        match schema.kind(&key) {
            // `to_lowercase` also accepts `..._Server__Listen`. Two spellings of one key would make the choice between
            // them silent.
            Some(kind) if *name == schema::environment_name(&key) => {
                given.extend(read_text(&key, kind, value, origin, report));
            }
            Some(_) | None => {
                let nearest = schema.nearest(&key).map(|known| schema::environment_name(&known));
                let hint = nearest.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
                report.add_from(&key, Some(origin), format!("there is no variable {name}{hint}"));
            }
        }
    }
    given
}

/// Returns true for a variable that Kubernetes injects. Every container receives the addresses of services under names
/// derived from the service's name; those of a service called `mlflow-auth-proxy` must not stop the proxy.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(rest: &str, value: &OsStr) -> bool {
    // The variable of every key contains `__`, because every key is in a section.
    if rest.contains("__") {
        return false;
    }
    let is_address = value.to_str().is_some_and(|value| value.contains("://"));
    let words: Vec<&str> = rest.split('_').collect();
    let has = |pair: [&str; 2]| words.windows(2).any(|window| window == pair);
    let numbered = words.windows(2).any(|window| matches!(window, ["PORT", n] if n.parse::<u16>().is_ok()));
    has(["SERVICE", "HOST"]) || has(["SERVICE", "PORT"]) || numbered || (words.last() == Some(&"PORT") && is_address)
}

fn from_flags(flags: &Flags, schema: &Schema, report: &mut Report) -> Vec<Given> {
    let mut given = Vec::new();
    for (key, text) in &flags.set {
        let origin = Origin::Flag(key.clone());
        let Some(kind) = schema.kind(key) else {
            let hint = schema.nearest(key).map(|known| format!("; did you mean `{known}`?")).unwrap_or_default();
            report.add_from(key, Some(origin), format!("there is no such key{hint}"));
            continue;
        };
        if schema::is_secret(key) {
            let message = format!(
                "a secret on the command line is visible to all users of this machine; use {key}_file or {}",
                schema::environment_name(key)
            );
            report.add_from(key, Some(origin), message);
            continue;
        }
        given.extend(read_text(key, kind, OsStr::new(text), origin, report));
    }
    given
}

/// Parses a text as the kind of value that the key takes.
fn read_text(key: &str, kind: Kind, text: &OsStr, origin: Origin, report: &mut Report) -> Option<Given> {
    let Some(text) = text.to_str() else {
        report.add_from(key, Some(origin), "must be valid UTF-8");
        return None;
    };
    if text.is_empty() && !matches!(kind, Kind::List) {
        report.add_from(key, Some(origin), "is empty; give it a value or remove it");
        return None;
    }
    let value = match kind {
        Kind::Text => Some(Value::from(text)),
        Kind::Number => text.trim().parse::<u64>().ok().map(Value::from),
        Kind::Flag => text.trim().to_lowercase().parse::<bool>().ok().map(Value::from),
        Kind::List | Kind::Tables if text.trim_start().starts_with('[') => in_toml(text),
        Kind::Tables => None,
        Kind::List => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Some(Value::from(items.map(Value::from).collect::<Vec<_>>()))
        }
    };
    let Some(value) = value else {
        report.add_from(key, Some(origin), kind.expectation());
        return None;
    };
    Some(Given { key: key.to_owned(), value, origin })
}

/// Parses a value in TOML syntax.
fn in_toml(text: &str) -> Option<Value> {
    let table = format!("value = {text}").parse::<toml::Table>().ok()?;
    // Exactly one value: a line break in `text` must not introduce further keys.
    let [("value", value)] = table.iter().map(|(key, value)| (key.as_str(), value)).collect::<Vec<_>>()[..] else {
        return None;
    };
    Value::serialize(value).ok()
}

/// Environment variable with the path of the file. It is not a key of the configuration.
const FILE_VARIABLE: &str = "MLFLOW_AUTH_PROXY_CONFIG";
const MAX_FILE_BYTES: u64 = 1024 * 1024;
