//! Scorers and the models, endpoints and addresses that they call.

use std::borrow::Cow;

use super::super::json::List;
use super::super::judge::Judge;
use super::super::locate::{Located, MAX_THINGS, each_text, invalid, is_opaque_id, text_field};
use super::super::{Json, LocateError, Thing};
use super::{Connection, Demand};
use crate::authz::{Permission, ResourceKind, scorer_key};

/// Returns the demands of a deletion. Deleting one version of a scorer requires less than deleting all of them.
pub(super) fn delete(located: &[Located], body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    // MLflow treats a version that is not a whole number as absent, and deletes all versions.
    let whole_number = |version: &Json<'_>| match version {
        Json::Scalar(text) => is_whole_number(text),
        Json::String(text) => is_whole_number(text),
        Json::Array(_) | Json::Object(_) | Json::Closed(_) => false,
    };
    if let Some(version) = body.get("version").filter(|version| !whole_number(version)) {
        return Err(invalid("version", version, "a whole number"));
    }
    let whole = |located: &Located| {
        Demand::Located(Located { permission: Permission::Manage, thing: Thing::Scorer, id: located.id.clone() })
    };
    Ok(if names_a_version(body) { Vec::new() } else { located.iter().map(whole).collect() })
}

/// Returns the demands of a configuration of online scoring.
pub(super) fn online(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
    Ok(text_field(body, "name")?.map(|name| stored(&experiment, name, None)).into_iter().collect())
}

/// Returns the demands of calls to an AI gateway endpoint, by name. MLflow calls it with its own privileges.
pub(super) fn uses(endpoint: &str) -> [Demand; 2] {
    // The leading slashes of `gateway://NAME` are not part of the name.
    let id = endpoint.trim_start_matches('/').to_owned();
    let located = Located { permission: Permission::Use, thing: Thing::EndpointName, id: id.clone() };
    [Demand::Located(located), Connection::Endpoint(id).into()]
}

/// Returns the demands of all calls of a scorer or an optimizer.
pub(super) fn calls(judge: &Judge) -> Vec<Demand> {
    let endpoints = judge.endpoints.iter().flat_map(|endpoint| uses(endpoint));
    let addresses = judge.addresses.iter().cloned().map(Connection::Address).map(Demand::from);
    endpoints.chain(addresses).chain(judge.privilege.map(Demand::Privileged)).collect()
}

pub(super) fn stored(experiment: &str, name: String, version: Option<String>) -> Demand {
    Connection::StoredScorer { experiment: experiment.to_owned(), name, version }.into()
}

/// Returns the demands of the scorers that a request contains or refers to. Contained scorers are reduced to known members.
pub(super) fn judges(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
    let read = |id| Demand::Located(Located { permission: Permission::Read, thing: Thing::ScorerVersion, id });
    let mut demands = Vec::new();
    let mut rebuilt = Vec::new();
    let mut names = Vec::new();
    let mut rebuild = |field, written: &str| {
        let judge = Judge::read(field, written)?;
        demands.extend(calls(&judge));
        let examples = |id| Demand::Located(Located { permission: Permission::Read, thing: Thing::Trace, id });
        if let Some(odd) = judge.traces.iter().find(|id| !is_opaque_id(id)) {
            return Err(invalid("episodic_trace_ids", &Json::String(Cow::Borrowed(odd)), "a list of trace IDs"));
        }
        demands.extend(judge.traces.into_iter().map(examples));
        names.push(judge.name);
        if demands.len() > MAX_THINGS { Err(LocateError::TooMany(MAX_THINGS)) } else { Ok(judge.written) }
    };
    each_text(body, "serialized_scorers", |written| {
        rebuilt.push(rebuild("serialized_scorers", written)?);
        if rebuilt.len() > MAX_THINGS { Err(LocateError::TooMany(MAX_THINGS)) } else { Ok(()) }
    })?;
    let single = text_field(body, "serialized_scorer")?;
    let single = single.map(|written| rebuild("serialized_scorer", &written)).transpose()?;
    if !rebuilt.is_empty() {
        let list = List::of_strings(rebuilt.iter().map(String::as_str));
        drop(rebuilt);
        body.set("serialized_scorers", Json::Array(list));
    }
    if let Some(single) = single {
        body.set("serialized_scorer", Json::String(Cow::Owned(single)));
    }
    // With a version, MLflow runs the registered scorer of that name instead.
    if let Some(Json::Array(versions)) = body.get("scorer_versions") {
        for (version, name) in versions.iter().zip(names) {
            if let (Json::Scalar(version), Some(name)) = (version?, name)
                && version != "null"
            {
                demands.push(read(scorer_key(&experiment, &name)));
                demands.push(stored(&experiment, name, Some(version.to_owned())));
            }
        }
    }
    // Registering; MLflow's scheduler and jobs run the newest version.
    if let Some(name) = text_field(body, "name")? {
        demands.push(Demand::NameIsFree { kind: ResourceKind::Scorer, name: scorer_key(&experiment, &name) });
    }
    if let Some(name) = text_field(body, "scorer_name")? {
        let version = match body.get("scorer_version") {
            Some(Json::Scalar(version)) => Some((*version).to_owned()),
            Some(Json::String(version)) => Some(version.clone().into_owned()),
            Some(Json::Array(_) | Json::Object(_) | Json::Closed(_)) | None => None,
        };
        demands.push(read(scorer_key(&experiment, &name)));
        demands.push(stored(&experiment, name, version));
    }
    Ok(demands)
}

fn is_whole_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns true if a request to delete a scorer refers to one version of it.
#[must_use]
pub fn names_a_version(body: &Json<'_>) -> bool {
    body.get("version").is_some()
}
