//! Parses subject and object of a rule. The syntax is the same in the policy file and in the proxy's REST API.

use std::collections::BTreeMap;

use percent_encoding::percent_decode_str;

use super::{Pattern, USER, Whom};
use crate::authz::{Resource, ResourceKind, Selector, check_group, scorer_key};

/// Parses `{ user = … }`, `{ group = … }` or `{ role = … }`.
///
/// # Errors
/// A description of the problem.
pub fn read_whom(to: &BTreeMap<String, String>) -> Result<Whom, String> {
    let (key, name) = only(to, "`to` must have exactly one of `user`, `group` and `role`")?;
    if name.is_empty() {
        return Err(format!("`{key}` must not be empty"));
    }
    match key {
        "user" if name == "*" => Ok(Whom::Everybody),
        "user" => Ok(Whom::User(name.to_owned())),
        "group" => check_group(name).map(|()| Whom::Group(name.to_owned())).map_err(|error| error.to_string()),
        "role" => Ok(Whom::Role(name.to_owned())),
        other => Err(format!("`{other}` is not a key of `to`; use `user`, `group` or `role`")),
    }
}

/// Parses `{ experiment = "fraud-*" }`, `{ experiment_id = "12" }`, `{ registered_model = … }` and so on.
///
/// # Errors
/// A description of the problem.
pub fn read_target(on: &BTreeMap<String, String>) -> Result<(ResourceKind, Selector), String> {
    match read_pattern(on)? {
        (kind, Pattern::Fixed(selector)) => Ok((kind, selector)),
        (_, Pattern::Personal(_)) => Err(format!("`{USER}` is for the policy file")),
    }
}

/// Returns the key and text that [`read_target`] parses.
#[must_use]
pub fn write_target(kind: ResourceKind, selector: &Selector) -> (String, String) {
    match selector {
        Selector::Exact(id) if kind == ResourceKind::Experiment => (EXPERIMENT_ID.to_owned(), id.clone()),
        Selector::Exact(key) if kind == ResourceKind::Scorer => {
            (kind.to_string(), percent_decode_str(key).decode_utf8_lossy().into_owned())
        }
        Selector::All => (kind.to_string(), "*".to_owned()),
        Selector::Exact(text) | Selector::Glob(text) => (kind.to_string(), text.clone()),
    }
}

/// Parses an object like [`read_target`], with `{user}` accepted in names.
pub(super) fn read_pattern(on: &BTreeMap<String, String>) -> Result<(ResourceKind, Pattern), String> {
    let (key, text) = only(on, "`on` must have exactly one key, such as `experiment` or `registered_model`")?;
    if key == EXPERIMENT_ID {
        return Ok((ResourceKind::Experiment, Pattern::Fixed(id(text)?)));
    }
    let kind = kind(key)?;
    let personal = text.contains(USER);
    if personal && !kind.takes_globs() {
        return Err(format!("`{USER}` can stand in names only, and {}s are granted by id or `*`", kind.noun()));
    }
    // Checked with a user's name in place of the placeholder.
    let selector = selector(kind, &text.replace(USER, "u"))?;
    let pattern = if personal { Pattern::Personal(text.to_owned()) } else { Pattern::Fixed(selector) };
    Ok((kind, pattern))
}

/// Parses the resource of a test. An experiment can have its ID, its name or both.
pub(super) fn read_resource(on: &BTreeMap<String, String>) -> Result<Resource, String> {
    let mut rest = on.clone();
    let experiment_id = rest.remove(EXPERIMENT_ID);
    let name = rest.get(ResourceKind::Experiment.as_str()).cloned();
    match (experiment_id, name) {
        (Some(number), name) if rest.len() == usize::from(name.is_some()) => {
            id(&number)?;
            Ok(match name {
                Some(name) => Resource::experiment(number, &name),
                None => Resource::new(ResourceKind::Experiment, number),
            })
        }
        (Some(_), _) => Err("a test must name one resource".to_owned()),
        (None, Some(name)) if rest.len() == 1 => Ok(Resource::experiment(name.as_str(), &name)),
        (None, _) => match read_target(&rest)? {
            (kind, Selector::Exact(key)) => Ok(Resource::new(kind, key)),
            (kind, Selector::All | Selector::Glob(_)) => {
                Err(format!("a test is about one {}; write its id or name", kind.noun()))
            }
        },
    }
}

/// Returns the selector for a name in the file. A name with `*` or `?` becomes a glob.
pub(super) fn selector_by_name(kind: ResourceKind, text: &str) -> Selector {
    if text == "*" {
        Selector::All
    } else if kind == ResourceKind::Experiment || text.contains(['*', '?']) {
        // An experiment's key is its ID, so even a name without wildcards must be a glob, which is matched against
        // names.
        Selector::Glob(text.to_owned())
    } else {
        Selector::Exact(text.to_owned())
    }
}

fn selector(kind: ResourceKind, text: &str) -> Result<Selector, String> {
    if kind == ResourceKind::Scorer && text != "*" {
        let (experiment, name) = text.split_once('/').ok_or("a scorer is written `EXPERIMENT_ID/NAME`, or `*`")?;
        id(experiment)?;
        return Ok(Selector::Exact(scorer_key(experiment, name)));
    }
    let by_name = kind.takes_globs().then(|| selector_by_name(kind, text).to_string());
    let text = by_name.as_deref().unwrap_or(text);
    // Applies the limits that all selectors have.
    match Selector::parse(kind, text).map_err(|error| error.to_string())? {
        Selector::Exact(key) if !kind.takes_globs() && key.contains(['*', '?']) => {
            Err(format!("{}s are granted by id or `*`, not by a glob", kind.noun()))
        }
        Selector::All | Selector::Exact(_) | Selector::Glob(_) => {
            Selector::parse_new(kind, text).map_err(|error| error.to_string())
        }
    }
}

/// Parses a kind that rules can grant.
pub(super) fn kind(word: &str) -> Result<ResourceKind, String> {
    match word.parse() {
        Ok(ResourceKind::Job) => Err("a job is its creator's and cannot be granted".to_owned()),
        Ok(ResourceKind::Workspace) => Err("a workspace is granted to roles only".to_owned()),
        Ok(kind) => Ok(kind),
        Err(_) => Err(format!(
            "`{word}` is not a resource type; use `experiment`, `{EXPERIMENT_ID}`, `registered_model`, `prompt` or another \
             type of docs/permissions.md"
        )),
    }
}

fn id(text: &str) -> Result<Selector, String> {
    let number = text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    if number {
        Ok(Selector::Exact(text.to_owned()))
    } else {
        Err(format!("`{text}` is not the id of an experiment, which is a number"))
    }
}

fn only<'m>(map: &'m BTreeMap<String, String>, otherwise: &str) -> Result<(&'m str, &'m str), String> {
    let mut entries = map.iter();
    match (entries.next(), entries.next()) {
        (Some((key, value)), None) => Ok((key, value)),
        _ => Err(otherwise.to_owned()),
    }
}

const EXPERIMENT_ID: &str = "experiment_id";
