//! Where a request names the things it is about.
//!
//! Every id named anywhere is found, one spelling each; what could be read in two ways is refused as MLflow words it.

use std::borrow::Cow;

use super::{ArtifactPath, Field, Json, Need, Operation, Source, Thing};
use crate::authz::Permission;
use crate::http::{PathError, Query};

/// The parts of a request in which fields stand. The body is there for operations that send JSON.
#[derive(Debug)]
pub struct Input<'i, 'b> {
    pub params: &'i [(&'i str, &'i str)],
    pub query: &'i mut Query,
    pub body: Option<&'i mut Json<'b>>,
}

/// One thing a request is about, and the level it takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    pub permission: Permission,
    pub thing: Thing,
    pub id: String,
}

/// Why a request's fields are not accepted; worded as MLflow does, because clients compare.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LocateError {
    #[error(
        "Missing value for required parameter '{0}'. See the API docs for more information about request parameters."
    )]
    Missing(String),
    #[error(
        "Invalid value {value} for parameter '{name}' supplied: it must be {expected}. \
         See the API docs for more information about request parameters."
    )]
    Invalid { name: String, value: String, expected: &'static str },
    #[error("The parameter '{0}' is given more than once; give it once.")]
    Repeated(String),
    #[error("The parameters '{0}' and '{1}' name different things; give one of them.")]
    Contradiction(String, String),
    #[error("The request names more than {MAX_THINGS} different things. Send it in parts.")]
    TooMany,
    #[error(transparent)]
    Path(#[from] PathError),
}

/// Each may take a look-up; MLflow's own bulk requests stop at 100 runs, its batches at 1000 metrics.
const MAX_THINGS: usize = 1000;

/// Finds everything an operation's table row asks for.
///
/// # Errors
/// A required field is missing, or a field is of the wrong type, ambiguous, or no id.
pub fn locate(operation: &Operation, input: &mut Input<'_, '_>) -> Result<Vec<Located>, LocateError> {
    agree_with_path(input)?;
    let mut located = Vec::new();
    for need in &operation.needs {
        let Need::Level { permission, thing, field } = need else { continue };
        let values = values(field, input)?;
        if values.is_empty() && !field.optional {
            return Err(LocateError::Missing(first_name(field)));
        }
        for value in values {
            let id = check_id(*thing, field, value)?;
            if *thing == Thing::Artifact && field.source == Source::Query {
                // What we read is what MLflow gets.
                input.query.set(&first_name(field), Some(&id));
            }
            let one = Located { permission: *permission, thing: *thing, id };
            if !located.contains(&one) {
                located.push(one);
            }
            if located.len() > MAX_THINGS {
                return Err(LocateError::TooMany);
            }
        }
    }
    Ok(located)
}

/// A text field of the body in its one spelling; `None` when absent or `null`.
///
/// # Errors
/// Not a string, or given in both spellings.
pub fn text_field(body: &mut Json<'_>, name: &str) -> Result<Option<String>, LocateError> {
    match take_spelling(body, name)? {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone().into_owned())),
        Some(other) => Err(invalid(name, other, "a string")),
    }
}

/// A field that stands in the path and again in the body must be the same: MLflow acts on one or the other.
fn agree_with_path(input: &mut Input<'_, '_>) -> Result<(), LocateError> {
    let Some(body) = input.body.as_deref_mut() else { return Ok(()) };
    for (name, value) in input.params {
        if let Some(in_body) = text_field(body, name)?
            && in_body != *value
        {
            return Err(LocateError::Contradiction(format!("{name} (path)"), format!("{name} (body)")));
        }
    }
    Ok(())
}

fn values(field: &Field, input: &mut Input<'_, '_>) -> Result<Vec<String>, LocateError> {
    match field.source {
        Source::Path => {
            let wanted =
                |(name, value): &(&str, &str)| field.names.iter().any(|n| n == name).then(|| (*value).to_owned());
            Ok(input.params.iter().filter_map(wanted).collect())
        }
        Source::Query if field.list => {
            let named = |name: &String| input.query.all(name).map(str::to_owned).collect::<Vec<_>>();
            Ok(field.names.iter().flat_map(named).collect())
        }
        Source::Query => {
            let mut found = Vec::new();
            for name in &field.names {
                let value = input.query.only(name).map_err(|_| LocateError::Repeated(name.clone()))?;
                found.extend(value.map(|value| (name.clone(), value.to_owned())));
            }
            one_of(found)
        }
        Source::Body => {
            let Some(body) = input.body.as_deref_mut() else { return Ok(Vec::new()) };
            match &field.within {
                None => of_object(field, body),
                Some(list) => match take_spelling(body, list)? {
                    None => Ok(Vec::new()),
                    Some(Json::Array(items)) => {
                        let mut all = Vec::new();
                        for item in items {
                            if !matches!(item, Json::Object(_)) {
                                return Err(invalid(list, item, "a list of objects"));
                            }
                            all.extend(of_object(field, item)?);
                        }
                        Ok(all)
                    }
                    Some(other) => Err(invalid(list, other, "a list")),
                },
            }
        }
    }
}

fn of_object(field: &Field, object: &mut Json<'_>) -> Result<Vec<String>, LocateError> {
    if field.list {
        return list_of(object, &first_name(field));
    }
    let mut found = Vec::new();
    for name in &field.names {
        found.extend(text_field(object, name)?.map(|value| (name.clone(), value)));
    }
    // protobuf's default for an absent string is the empty one, and MLflow treats them alike where it is optional.
    if field.optional {
        found.retain(|(_, value)| !value.is_empty());
    }
    one_of(found)
}

/// A list of texts in the body; empty when absent.
///
/// # Errors
/// Not a list of strings, or given in both spellings.
pub(super) fn list_of(object: &mut Json<'_>, name: &str) -> Result<Vec<String>, LocateError> {
    let text = |item: &Json<'_>| match item {
        Json::String(text) => Ok(text.clone().into_owned()),
        other => Err(invalid(name, other, "a list of strings")),
    };
    match take_spelling(object, name)? {
        None => Ok(Vec::new()),
        Some(Json::Array(items)) => items.iter().map(text).collect(),
        Some(other) => Err(invalid(name, other, "a list of strings")),
    }
}

/// Two names of one field may both be given when they say the same.
fn one_of(found: Vec<(String, String)>) -> Result<Vec<String>, LocateError> {
    let mut found = found.into_iter();
    let Some((first_name, first)) = found.next() else { return Ok(Vec::new()) };
    match found.find(|(_, value)| *value != first) {
        Some((other, _)) => Err(LocateError::Contradiction(first_name, other)),
        None => Ok(vec![first]),
    }
}

/// Finds a field under its name or protobuf's lowerCamelCase spelling of it, and leaves it under its name only.
pub(super) fn take_spelling<'j, 'b>(object: &'j mut Json<'b>, name: &str) -> Result<Option<&'j mut Json<'b>>, LocateError> {
    let Json::Object(members) = object else { return Ok(None) };
    let camel = lower_camel(name);
    if camel != name && members.iter().any(|(key, _)| *key == camel) {
        if members.iter().any(|(key, _)| key == name) {
            return Err(LocateError::Repeated(name.to_owned()));
        }
        for (key, _) in members.iter_mut().filter(|(key, _)| *key == camel) {
            *key = Cow::Owned(name.to_owned());
        }
    }
    Ok(members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value).filter(|value| !value.is_null()))
}

fn lower_camel(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            _ if std::mem::take(&mut upper) => out.push(letter.to_ascii_uppercase()),
            _ => out.push(letter),
        }
    }
    out
}

fn check_id(thing: Thing, field: &Field, value: String) -> Result<String, LocateError> {
    let expected = match thing {
        Thing::Artifact => return Ok(ArtifactPath::parse(&value)?.as_str().to_owned()),
        Thing::Experiment if !is_experiment_id(&value) => "a number without sign, spaces or leading zeros",
        Thing::Run | Thing::LoggedModel if !is_opaque_id(&value) => "an id of letters, digits, `-` and `_`",
        Thing::Model | Thing::ExperimentName if value.is_empty() || value.contains('\0') => "a name",
        Thing::Experiment | Thing::Run | Thing::LoggedModel | Thing::Model | Thing::ExperimentName => return Ok(value),
    };
    if value.is_empty() {
        return Err(LocateError::Missing(first_name(field)));
    }
    Err(LocateError::Invalid { name: first_name(field), value: shown(&format!("'{value}'")), expected })
}

/// MLflow reads experiment ids with Python's `int()`, which knows many spellings of one number; we know one.
pub(super) fn is_experiment_id(text: &str) -> bool {
    let digits = !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits && (text == "0" || !text.starts_with('0'))
}

/// 32 hex digits today; other stores and older servers had others.
pub(super) fn is_opaque_id(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    !text.is_empty() && text.len() <= 64 && text.bytes().all(plain)
}

fn first_name(field: &Field) -> String {
    field.names.first().cloned().unwrap_or_default()
}

pub(super) fn invalid(name: &str, value: &Json<'_>, expected: &'static str) -> LocateError {
    LocateError::Invalid { name: name.to_owned(), value: shown(&String::from_utf8_lossy(&value.to_bytes())), expected }
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Cuts the list of experiments a search names down to those that `keep` says may be read.
///
/// # Errors
/// Not a list of experiment ids.
pub fn narrow(field: &Field, body: &mut Json<'_>, mut keep: impl FnMut(&str) -> bool) -> Result<Narrowed, LocateError> {
    let name = first_name(field);
    let ids = list_of(body, &name)?;
    for id in &ids {
        check_id(Thing::Experiment, field, id.clone())?;
    }
    let kept: Vec<Json<'_>> = ids.into_iter().filter(|id| keep(id)).map(|id| Json::String(Cow::Owned(id))).collect();
    if kept.is_empty() {
        return Ok(Narrowed::Nothing);
    }
    body.set(&name, Json::Array(kept));
    Ok(Narrowed::Some)
}

/// What is left of a search after [`narrow`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Narrowed {
    Some,
    /// Nothing that may be searched: the answer is empty without asking MLflow.
    Nothing,
}
