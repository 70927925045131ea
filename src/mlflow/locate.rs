//! Finds the resources that a request refers to.
//!
//! Every ID in the request is found under one spelling. Requests that could be interpreted in two ways are refused with
//! MLflow's wording.

use std::collections::HashSet;

use http::HeaderMap;

use super::json::{Keep, value_of};
use super::{ArtifactPath, Field, Json, JsonError, Narrow, Operation, Source, Step, Thing};
use crate::authz::{Permission, ResourceKind, scorer_key, skill_key};
pub(super) use crate::authz::{is_experiment_id, is_opaque_id};
use crate::http::{PathError, Query};

/// The parts of a request that can contain fields. The body is present for operations that send JSON.
#[derive(Debug)]
pub struct Input<'i, 'b> {
    pub params: &'i [(&'i str, &'i str)],
    pub headers: &'i HeaderMap,
    pub query: &'i mut Query,
    pub body: Option<&'i mut Json<'b>>,
}

impl<'b> Input<'_, 'b> {
    /// Borrows the same input for another pass. Values that were found once are at their canonical position.
    pub fn again(&mut self) -> Input<'_, 'b> {
        let Self { params, headers, query, body } = self;
        Input { params, headers, query, body: body.as_deref_mut() }
    }
}

/// One object that a request refers to, and the permission that it requires.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Located {
    pub permission: Permission,
    pub thing: Thing,
    pub id: String,
}

impl Located {
    /// Returns true if the requirement is one on the experiment with this ID.
    #[must_use]
    pub const fn is_experiment(&self) -> bool {
        is_experiment(self.thing)
    }

    /// Returns true if the ID is the key of a scorer, by its experiment and name.
    #[must_use]
    pub const fn is_scorer(&self) -> bool {
        matches!(self.thing, Thing::Scorer | Thing::ScorerVersion)
    }
}

/// The reason why the fields of a request are refused. The texts match MLflow's, because clients compare them.
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
    #[error("The parameter '{0}' is given more than once. Give it once.")]
    Repeated(String),
    #[error("The parameters '{0}' and '{1}' name different resources. Use one of them.")]
    Contradiction(String, String),
    #[error("The parameters '{0}' and '{1}' exclude each other. Use one of them.")]
    Exclusive(String, String),
    #[error(
        "The parameter '{0}' cannot hold the key '{1}', which MLflow reads as a list of experiments. Use another key."
    )]
    ReservedKey(String, String),
    #[error("The key '{0}' contains a control character.")]
    ControlCharacter(String),
    #[error("The parameter '{0}' is not known. This proxy is configured to refuse unknown parameters.")]
    Unknown(String),
    #[error("The request names more than {0} different resources. Send it in parts.")]
    TooMany(usize),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Json(#[from] JsonError),
}

/// Maximum number of objects in a request, each of which can require a look-up. MLflow's own bulk requests are limited to 100
/// runs, its batches to 1000 metrics.
pub(super) const MAX_THINGS: usize = 1000;
/// Maximum number of experiments in a request. Experiment IDs require no look-up, and clients that search everything list all
/// experiments that they can read.
const MAX_EXPERIMENTS: usize = 20_000;

/// Finds all objects that the route table row of an operation refers to.
///
/// # Errors
///
/// A field has the wrong type, is ambiguous, or is not an ID.
pub fn locate(operation: &Operation, input: &mut Input<'_, '_>) -> Result<Found, LocateError> {
    agree_with_path(input)?;
    let (mut located, mut missing) = (Vec::<Located>::new(), None);
    let (mut experiments, mut others) = (0, 0);
    for (permission, thing, field) in operation.named() {
        let (count, limit) =
            if is_experiment(thing) { (&mut experiments, MAX_EXPERIMENTS) } else { (&mut others, MAX_THINGS) };
        // Objects of earlier needs, with which those of this need can coincide.
        let before = located.len();
        let values = match &field.with {
            None => values(field, input)?,
            Some(with) => pair(thing, field, with, input)?.into_iter().collect(),
        };
        if values.is_empty() && !field.optional {
            missing.get_or_insert_with(|| field.name().to_owned());
        }
        for value in each_once(values) {
            let id = check_id(thing, field, value)?;
            if thing == Thing::Artifact && field.source == Source::Query {
                // Writes back the value that was checked, so that MLflow receives the same one.
                input.query.set(field.name(), Some(&id));
            }
            let one = Located { permission, thing, id };
            // The values of one need are distinct already.
            if !located.iter().take(before).any(|other| *other == one) {
                located.push(one);
                *count += 1;
            }
            if *count > limit {
                return Err(LocateError::TooMany(limit));
            }
        }
    }
    Ok(Found { located, missing })
}

/// Returns true if the object's requirement is one on the experiment whose ID identifies it.
const fn is_experiment(thing: Thing) -> bool {
    matches!(thing, Thing::Experiment | Thing::TracesOf | Thing::AssessmentsOf)
}

/// Removes duplicates and keeps the order. A batch can contain the same ID a million times.
fn each_once(values: Vec<String>) -> Vec<String> {
    if values.len() < 2 {
        return values;
    }
    let mut seen = HashSet::new();
    values.into_iter().filter(|value| seen.insert(value.clone())).collect()
}

/// The result of [`locate`].
#[derive(Debug)]
pub struct Found {
    pub located: Vec<Located>,
    /// A required field that is missing. For administrators, MLflow decides how to respond to it.
    pub missing: Option<String>,
}

/// Returns a text field of the body; `None` if absent or `null`.
///
/// # Errors
///
/// The value is not a string.
pub fn text_field(body: &mut Json<'_>, name: &str) -> Result<Option<String>, LocateError> {
    match member(body, name)? {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.clone().into_owned())),
        Some(other) => Err(invalid(name, other, "a string")),
    }
}

/// Requires that a field which occurs in the path and again in the body or the query has the same value, because MLflow may use
/// either.
fn agree_with_path(input: &mut Input<'_, '_>) -> Result<(), LocateError> {
    for (name, value) in input.params {
        if input.query.all(name).any(|in_query| in_query != *value) {
            return Err(LocateError::Contradiction(format!("{name} (path)"), format!("{name} (query)")));
        }
        if let Some(body) = input.body.as_deref_mut()
            && let Some(in_body) = text_field(body, name)?
            && in_body != *value
        {
            return Err(LocateError::Contradiction(format!("{name} (path)"), format!("{name} (body)")));
        }
    }
    Ok(())
}

/// Reads two fields that form one key. Both or none must be present.
fn pair(thing: Thing, field: &Field, with: &str, input: &mut Input<'_, '_>) -> Result<Option<String>, LocateError> {
    let beside = |name: &str| {
        let mut steps = field.steps.clone();
        if let Some(last) = steps.last_mut() {
            last.names = vec![name.to_owned()];
        }
        Field { steps, with: None, ..field.clone() }
    };
    let first = values(field, input)?.pop();
    let second = values(&beside(with), input)?.pop();
    match (first, second) {
        (None, None) => Ok(None),
        (Some(first), Some(second)) if thing == Thing::Scorer || thing == Thing::ScorerVersion => {
            let experiment = check_id(Thing::Experiment, field, first)?;
            let name = check_id(Thing::Model, &beside(with), second)?;
            Ok(Some(scorer_key(&experiment, &name)))
        }
        (Some(organization), Some(name)) if matches!(thing, Thing::Skill | Thing::NewSkill) => {
            Ok(Some(skill_key(&organization, &name)))
        }
        (Some(first), Some(second)) if thing == Thing::ReviewQueueName => {
            let experiment = check_id(Thing::Experiment, field, first)?;
            Ok(Some(format!("{experiment}/{second}")))
        }
        (Some(first), Some(second)) => Ok(Some(format!("{first}/{second}"))),
        (Some(_), None) => Err(LocateError::Missing(with.to_owned())),
        (None, Some(_)) => Err(LocateError::Missing(field.name().to_owned())),
    }
}

fn values(field: &Field, input: &mut Input<'_, '_>) -> Result<Vec<String>, LocateError> {
    let names = &field.last().names;
    match field.source {
        Source::Path => {
            let wanted = |(name, value): &(&str, &str)| names.iter().any(|n| n == name).then(|| (*value).to_owned());
            Ok(input.params.iter().filter_map(wanted).collect())
        }
        Source::Header => {
            let mut found = Vec::new();
            for name in names {
                let mut values = input.headers.get_all(name).iter();
                let Some(value) = values.next() else { continue };
                if values.next().is_some() {
                    return Err(LocateError::Repeated(name.clone()));
                }
                let value = value.to_str().unwrap_or_default().to_owned();
                if !value.is_empty() || !field.optional {
                    found.push((name.clone(), value));
                }
            }
            one_of(found)
        }
        Source::Query if field.last().each => {
            let named = |name: &String| input.query.all(name).map(str::to_owned).collect::<Vec<_>>();
            Ok(names.iter().flat_map(named).collect())
        }
        Source::Query => {
            let mut found = Vec::new();
            for name in names {
                let value = input.query.only(name).map_err(|_| LocateError::Repeated(name.clone()))?;
                found.extend(value.map(|value| (name.clone(), value.to_owned())));
            }
            // MLflow treats an empty optional parameter as absent.
            if field.optional {
                found.retain(|(_, value)| !value.is_empty());
            }
            one_of(found)
        }
        Source::Body => {
            let Some(body) = input.body.as_deref() else { return Ok(Vec::new()) };
            let mut found = Distinct::default();
            in_body(field, &field.steps, body, &mut found)?;
            Ok(found.values)
        }
    }
}

/// Distinct values in their order. A batch can contain the same ID a million times.
#[derive(Default)]
struct Distinct {
    values: Vec<String>,
    seen: HashSet<String>,
}

impl Distinct {
    fn add(&mut self, value: &str) -> Result<(), LocateError> {
        if self.values.len() < FEW {
            if self.values.iter().any(|known| known == value) {
                return Ok(());
            }
        } else {
            if self.seen.is_empty() {
                self.seen.extend(self.values.iter().cloned());
            }
            if !self.seen.insert(value.to_owned()) {
                return Ok(());
            }
        }
        self.values.push(value.to_owned());
        if self.values.len() > MAX_EXPERIMENTS { Err(LocateError::TooMany(MAX_EXPERIMENTS)) } else { Ok(()) }
    }
}

/// Up to this number of values, pairwise comparison is cheaper than a set.
const FEW: usize = 8;

/// Follows the steps of a field into the body. Absent fields yield no values.
fn in_body(field: &Field, steps: &[Step], object: &Json<'_>, found: &mut Distinct) -> Result<(), LocateError> {
    let Some((step, rest)) = steps.split_first() else { return Ok(()) };
    let name = step.names.first().map_or("", String::as_str);
    if rest.is_empty() {
        return if step.each {
            each_text(object, name, |text| found.add(text))
        } else {
            of_object(field, |name| Ok(object.get(name).cloned()))?.iter().try_for_each(|text| found.add(text))
        };
    }
    match object.get(name) {
        None => Ok(()),
        Some(Json::Array(items)) if step.each => items.texts().try_for_each(|item| match rest {
            // The lists of a batch are long, so their items are not opened.
            [last] if !last.each && item.starts_with('{') => {
                of_object(field, |name| value_of(item, name).map(Json::open).transpose())?
                    .iter()
                    .try_for_each(|text| found.add(text))
            }
            _ => match Json::open(item)? {
                item @ Json::Object(_) => in_body(field, rest, &item, found),
                item @ (Json::Scalar(_) | Json::String(_) | Json::Array(_) | Json::Closed(_)) => {
                    Err(invalid(name, &item, "a list of objects"))
                }
            },
        }),
        Some(other) if step.each => Err(invalid(name, other, "a list")),
        Some(inner @ (Json::Object(_) | Json::Closed(_))) => {
            let mut inner = inner.clone();
            inner.open_closed()?;
            in_body(field, rest, &inner, found)
        }
        Some(other) => Err(invalid(name, other, "an object")),
    }
}

/// Calls `take` with each string of a list in an opened object.
pub(super) fn each_text(
    object: &Json<'_>,
    name: &str,
    mut take: impl FnMut(&str) -> Result<(), LocateError>,
) -> Result<(), LocateError> {
    match object.get(name) {
        None => Ok(()),
        Some(Json::Array(items)) => items.iter().try_for_each(|item| match item? {
            Json::String(text) => take(&text),
            other @ (Json::Scalar(_) | Json::Array(_) | Json::Object(_) | Json::Closed(_)) => {
                Err(invalid(name, &other, "a list of strings"))
            }
        }),
        Some(other) => Err(invalid(name, other, "a list of strings")),
    }
}

/// Moves a field to the front of an object. When MLflow cannot parse a field, it keeps the fields before it and ignores the
/// rest: a search whose experiments came later would search all experiments. The fields that are authorised therefore come
/// first.
pub(super) fn to_front(object: &mut Json<'_>, name: &str) {
    let Json::Object(members) = object else { return };
    let at = members.iter().position(|(key, _)| key == name);
    if let Some(before) = at.and_then(|at| members.get_mut(..=at)) {
        before.rotate_right(1);
    }
}

fn of_object<'j>(
    field: &Field,
    get: impl Fn(&str) -> Result<Option<Json<'j>>, JsonError>,
) -> Result<Vec<String>, LocateError> {
    let mut found = Vec::new();
    for name in &field.last().names {
        match get(name)? {
            None => {}
            Some(Json::String(text)) => found.push((name.clone(), text.into_owned())),
            Some(other) => return Err(invalid(name, &other, "a string")),
        }
    }
    // protobuf's default for an absent string is the empty string, and MLflow treats both alike in optional fields.
    if field.optional {
        found.retain(|(_, value)| !value.is_empty());
    }
    one_of(found)
}

/// Returns a list of strings in the body, at most [`MAX_THINGS`]; empty if absent.
///
/// # Errors
///
/// The value is not a list of strings.
pub(super) fn list_of(object: &Json<'_>, name: &str) -> Result<Vec<String>, LocateError> {
    let mut found = Vec::new();
    each_text(object, name, |text| {
        found.push(text.to_owned());
        if found.len() > MAX_THINGS { Err(LocateError::TooMany(MAX_THINGS)) } else { Ok(()) }
    })?;
    Ok(found)
}

/// Merges the values of two names of one field. Both are accepted if they are equal.
fn one_of(found: Vec<(String, String)>) -> Result<Vec<String>, LocateError> {
    let mut found = found.into_iter();
    let Some((first_name, first)) = found.next() else { return Ok(Vec::new()) };
    match found.find(|(_, value)| *value != first) {
        Some((other, _)) => Err(LocateError::Contradiction(first_name, other)),
        None => Ok(vec![first]),
    }
}

/// Returns the opened value of a field; `None` if absent or `null`. [`super::Schema`] has left one spelling of the field.
///
/// # Errors
///
/// The value has too many members.
pub(super) fn member<'j, 'b>(object: &'j mut Json<'b>, name: &str) -> Result<Option<&'j mut Json<'b>>, JsonError> {
    object.open_closed()?;
    let Json::Object(members) = object else { return Ok(None) };
    let found = members.iter_mut().find(|(key, _)| key == name).map(|(_, value)| value);
    let Some(value) = found.filter(|value| !value.is_null()) else { return Ok(None) };
    value.open_closed()?;
    Ok(Some(value))
}

fn check_id(thing: Thing, field: &Field, value: String) -> Result<String, LocateError> {
    let expected = match thing {
        Thing::Artifact => return Ok(ArtifactPath::parse(&value)?.as_str().to_owned()),
        // Composed of two parts that were checked.
        Thing::Scorer | Thing::ScorerVersion | Thing::ReviewQueueName => return Ok(value),
        Thing::Experiment | Thing::TracesOf | Thing::AssessmentsOf => {
            if is_experiment_id(&value) {
                return Ok(value);
            }
            "a number without sign, spaces or leading zeros"
        }
        Thing::Model | Thing::VersionOf | Thing::ExperimentName | Thing::EndpointName => {
            if !value.is_empty() && !value.contains('\0') {
                return Ok(value);
            }
            "a name"
        }
        Thing::McpServer | Thing::McpServerVersion | Thing::NewMcpServerVersion => {
            if ResourceKind::McpServer.has_key(&value) {
                return Ok(value);
            }
            "a name of the form `namespace/slug`"
        }
        Thing::Skill | Thing::NewSkill => {
            if ResourceKind::Skill.has_key(&value) {
                return Ok(value);
            }
            SKILL_NAME
        }
        Thing::Run
        | Thing::LoggedModel
        | Thing::Trace
        | Thing::AssessmentOf
        | Thing::Dataset
        | Thing::Issue
        | Thing::LabelSchema
        | Thing::ReviewQueue
        | Thing::PromptJob
        | Thing::OnlineScorer
        | Thing::Secret
        | Thing::Endpoint
        | Thing::ModelDefinition
        | Thing::Guardrail
        | Thing::Job => {
            if is_opaque_id(&value) {
                return Ok(value);
            }
            "an id of letters, digits, `-` and `_`"
        }
    };
    if value.is_empty() {
        return Err(LocateError::Missing(field.name().to_owned()));
    }
    Err(LocateError::Invalid { name: field.name().to_owned(), value: shown(&format!("'{value}'")), expected })
}

pub(super) const SKILL_NAME: &str =
    "of lower-case letters, digits and single hyphens between them, with an organization or without one";

pub(super) fn invalid(name: &str, value: &Json<'_>, expected: &'static str) -> LocateError {
    match value {
        Json::Scalar(text) | Json::Closed(text) => refused(name, text, expected),
        Json::Array(list) => refused(name, list.text(), expected),
        Json::String(_) | Json::Object(_) => refused(name, &value.to_text(), expected),
    }
}

/// Returns the error for a value, which it quotes.
pub(super) fn refused(name: &str, value: &str, expected: &'static str) -> LocateError {
    let value = if is_secret(name) { "***".to_owned() } else { shown(value) };
    LocateError::Invalid { name: shown(name), value, expected }
}

/// Returns true if the value of a field can be a key or a password, which error messages must not quote.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["secret", "key", "token", "password", "credential", "auth", "header"].iter().any(|word| name.contains(word))
}

pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(64).collect()
}

/// Reduces a list of IDs in the query or in the body to those for which `keep` returns true. `keep` can be called twice for an
/// ID.
///
/// # Errors
///
/// The value is not a list of IDs, or `keep` returns an error.
pub fn narrow(
    list: &Narrow,
    query: &mut Query,
    body: Option<&mut Json<'_>>,
    mut keep: impl FnMut(&str) -> Result<Keep, LocateError>,
) -> Result<Narrowed, LocateError> {
    let (field, name) = (&list.field, list.field.name());
    let Some(body) = body.filter(|_| field.source == Source::Body) else {
        if field.source == Source::Query {
            query.try_retain(|key, id| {
                Ok::<_, LocateError>(key != name || keep(&check_id(list.thing, field, id.clone())?)? == Keep::Yes)
            })?;
        }
        let some = field.source == Source::Query && query.all(name).next().is_some();
        return Ok(if some { Narrowed::Some } else { Narrowed::Nothing });
    };
    to_front(body, name);
    let mut ids = match member(body, name)? {
        None => return Ok(Narrowed::Nothing),
        Some(Json::Array(ids)) => std::mem::take(ids),
        Some(other) => return Err(invalid(name, other, "a list of strings")),
    };
    ids.rewrite(
        |id| match id {
            Json::String(id) => keep(&check_id(list.thing, field, id.clone().into_owned())?),
            other @ (Json::Scalar(_) | Json::Array(_) | Json::Object(_) | Json::Closed(_)) => {
                Err(invalid(name, other, "a list of strings"))
            }
        },
        &[],
    )?;
    let narrowed = if ids.is_empty() { Narrowed::Nothing } else { Narrowed::Some };
    body.set(name, Json::Array(ids));
    Ok(narrowed)
}

/// The result of [`narrow`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Narrowed {
    Some,
    /// No ID is left, so the response is empty and MLflow is not called.
    Nothing,
}
