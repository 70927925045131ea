//! The checks that the columns of the route table cannot say, one arm each.
//!
//! A rule reads the canonical request and answers with further demands; it decides nothing itself.

use std::borrow::Cow;

use super::locate::{Located, invalid, is_opaque_id, list_of, shown, take_spelling, text_field, to_front};
use super::{ArtifactPath, Json, LocateError, Need, Operation, PROMPT_TAG, Rule, Then, Thing};
use crate::authz::{Permission, ResourceKind, scorer_key};

const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// What a rule asks for beside the row's needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Demand {
    /// One more thing the request is about.
    Located(Located),
    /// Nobody took this name's permissions away from the caller.
    NameIsFree { kind: ResourceKind, name: String },
    /// Nobody took this name's permissions away from the caller; and where permissions follow names, renaming is sharing.
    ExperimentName { renamed: Option<String>, name: String },
    /// Only administrators may do this; the words complete "Only an administrator may …".
    Privileged(&'static str),
    /// Only administrators, or anybody below one of the configured prefixes.
    ArtifactLocation(String),
    /// The URI lies inside the artifacts of this run or logged model, which the request names too.
    Inside { uri: String, run: Option<String>, model: Option<String> },
    /// A trace of this id is in this experiment or not there yet.
    TraceIn { trace: String, experiment: String },
    /// No user is called so: everybody's personal review queue bears their name.
    NoUsersName(String),
    /// The experiment in which MLflow would keep what passes through an endpoint is the caller's to change, or not there
    /// yet. The endpoint's new name, and its id when it has one.
    UsageExperiment { name: Option<String>, endpoint: Option<String> },
    /// The caller's part in a review queue.
    Queue { queue: Located, part: QueuePart },
}

/// What somebody must be to a review queue (`mlflow.server.auth`, 3.17.2); whoever holds MANAGE on the experiment is all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueuePart {
    /// A member, or its owner with EDIT.
    Reader,
    /// A member.
    Member,
    /// Its owner.
    Owner,
    /// The owner of a queue that is not somebody's personal one.
    CustomOwner,
}

/// The further demands of an operation's rule. `located` is what the row's needs found.
///
/// # Errors
/// A field that the rule reads is of the wrong type or missing.
pub fn demands(
    operation: &Operation,
    located: &[Located],
    body: Option<&mut Json<'_>>,
) -> Result<Vec<Demand>, LocateError> {
    let Some(rule) = operation.rule else { return Ok(Vec::new()) };
    let mut none = Json::Object(Vec::new());
    let body = body.unwrap_or(&mut none);
    Ok(match rule {
        Rule::NamedOrAdmin if located.is_empty() => vec![Demand::Privileged("ask for all of them at once")],
        Rule::NamedOrAdmin => Vec::new(),
        Rule::OneNamed => {
            let names = operation.needs.iter().filter_map(|need| match need {
                Need::Level { field, .. } => Some(field.name()),
                _ => None,
            });
            match names.into_iter().next() {
                Some(name) if located.is_empty() => return Err(LocateError::Missing(name.to_owned())),
                Some(_) | None => Vec::new(),
            }
        }
        Rule::QueueReader => queue(located, QueuePart::Reader),
        Rule::QueueMember => queue(located, QueuePart::Member),
        Rule::QueueName => {
            let personal = text_field(body, "queue_type")?.is_some_and(|kind| kind == "USER");
            let name = text_field(body, "name")?.filter(|_| !personal);
            name.map(Demand::NoUsersName).into_iter().collect()
        }
        Rule::QueueOwner => queue(located, QueuePart::CustomOwner),
        Rule::QueueUpdate => {
            let mut demands = queue(located, QueuePart::Owner);
            if text_field(body, "new_owner")?.is_some() {
                let whole =
                    |located: &Located| Demand::Located(Located { permission: Permission::Manage, ..located.clone() });
                demands.extend(located.iter().map(whole));
            }
            demands.extend(text_field(body, "name")?.map(Demand::NoUsersName));
            demands
        }
        Rule::ScorerDelete => {
            // MLflow reads a version that is no whole number as none, and deletes them all.
            let whole_number = |version: &Json<'_>| match version {
                Json::Scalar(text) => is_whole_number(text),
                Json::String(text) => is_whole_number(text),
                Json::Array(_) | Json::Object(_) => false,
            };
            if let Some(version) = body.get("version").filter(|version| !whole_number(version)) {
                return Err(invalid("version", version, "a whole number"));
            }
            let whole = |located: &Located| {
                Demand::Located(Located {
                    permission: Permission::Manage,
                    thing: Thing::Scorer,
                    id: located.id.clone(),
                })
            };
            if names_a_version(body) { Vec::new() } else { located.iter().map(whole).collect() }
        }
        Rule::PromptSource => {
            let uri = text_field(body, "source_prompt_uri")?;
            let uri = uri.ok_or_else(|| LocateError::Missing("source_prompt_uri".to_owned()))?;
            let name = prompt_name(&uri).ok_or_else(|| LocateError::Invalid {
                name: "source_prompt_uri".to_owned(),
                value: shown(&uri),
                expected: "prompts:/NAME/VERSION or prompts:/NAME@ALIAS",
            })?;
            // What comes of it is a further version of that prompt.
            let mut demands =
                vec![Demand::Located(Located { permission: Permission::Edit, thing: Thing::VersionOf, id: name })];
            if let Some(config) = inner(body, &["config"])?
                && let Some(optimizer) = text_field(config, "optimizer_config_json")?.filter(|text| !text.is_empty())
            {
                demands.extend(endpoints_of("optimizer_config_json", &optimizer)?);
            }
            demands
        }
        Rule::Judge => {
            let mut judges = list_of(body, "serialized_scorers")?;
            judges.extend(text_field(body, "serialized_scorer")?);
            let mut demands = Vec::new();
            for judge in &judges {
                demands.extend(endpoints_of("serialized_scorer", judge)?);
            }
            if let Some(name) = text_field(body, "scorer_name")? {
                let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
                let id = scorer_key(&experiment, &name);
                demands.push(Demand::Located(Located {
                    permission: Permission::Read,
                    thing: Thing::ScorerVersion,
                    id,
                }));
            }
            demands
        }
        Rule::TraceStays => {
            let mut demands = tags_of(body, &["trace", "trace_info"])?;
            let trace = inner(body, &["trace", "trace_info"])?;
            let trace = trace.map(|info| text_field(info, "trace_id")).transpose()?.flatten();
            if let Some(trace) = trace.filter(|trace| !trace.is_empty()) {
                if !is_opaque_id(&trace) {
                    let expected = "an id of letters, digits, `-` and `_`";
                    return Err(LocateError::Invalid { name: "trace_id".to_owned(), value: shown(&trace), expected });
                }
                let stays =
                    |located: &Located| Demand::TraceIn { trace: trace.clone(), experiment: located.id.clone() };
                demands.extend(located.iter().filter(|located| located.thing == Thing::Experiment).map(stays));
            }
            demands
        }
        Rule::TraceTag => {
            let key = text_field(body, "key")?.unwrap_or_default();
            is_location_tag(&key).then_some(CHOOSES_ARTIFACTS).into_iter().collect()
        }
        Rule::TraceTags => tags_of(body, &[])?,
        Rule::ArtifactLocation => {
            let location = text_field(body, "artifact_location")?.filter(|location| !location.is_empty());
            let name = text_field(body, "name")?.map(|name| Demand::ExperimentName { renamed: None, name });
            location.map(Demand::ArtifactLocation).into_iter().chain(name).collect()
        }
        Rule::ExperimentName => {
            let renamed = located.first().map(|located| located.id.clone());
            let name = text_field(body, "new_name")?.filter(|name| !name.is_empty());
            name.map(|name| Demand::ExperimentName { renamed, name }).into_iter().collect()
        }
        Rule::NewName => {
            let field = if operation.then == Some(Then::RenameModel) { "new_name" } else { "name" };
            let name = text_field(body, field)?.ok_or_else(|| LocateError::Missing(field.to_owned()))?;
            let kind = if let Some(Then::Own(kind)) = operation.then { kind } else { ResourceKind::RegisteredModel };
            vec![Demand::NameIsFree { kind, name }]
        }
        Rule::PromptTag => {
            let key = text_field(body, "key")?.ok_or_else(|| LocateError::Missing("key".to_owned()))?;
            // A prompt and a model carry different grants; this tag would move one among the other's.
            let moves = key.eq_ignore_ascii_case(PROMPT_TAG);
            moves.then_some(Demand::Privileged("set or delete the tag `mlflow.prompt.is_prompt`")).into_iter().collect()
        }
        Rule::UsageExperiment => {
            to_front(body, "usage_tracking");
            let endpoint = text_field(body, "endpoint_id")?;
            let name = text_field(body, "name")?.filter(|name| !name.is_empty());
            let chosen = text_field(body, "experiment_id")?.is_some_and(|id| !id.is_empty());
            let tracks = match take_spelling(body, "usage_tracking")? {
                // What MLflow does with a new endpoint; an old one stays as it is.
                None => endpoint.is_none(),
                Some(Json::Scalar("true")) => true,
                Some(Json::Scalar("false")) => false,
                Some(other) => return Err(invalid("usage_tracking", other, "true or false")),
            };
            if !tracks || chosen { Vec::new() } else { vec![Demand::UsageExperiment { name, endpoint }] }
        }
        Rule::VersionSource => {
            let source = text_field(body, "source")?.ok_or_else(|| LocateError::Missing("source".to_owned()))?;
            let run = text_field(body, "run_id")?.filter(|run| !run.is_empty());
            let model = text_field(body, "model_id")?.filter(|model| !model.is_empty());
            // What prompts have in place of a source (`mlflow.prompt.constants`); MLflow takes it for prompts only.
            if PROMPT_SOURCES.contains(&source.as_str()) {
                return Ok(Vec::new());
            }
            let found = SourceUri::parse(&source)?;
            if let SourceUri::Run(id) | SourceUri::LoggedModel(id) = &found
                && !is_opaque_id(id)
            {
                return Err(unclear(&source));
            }
            vec![demand_on(found, source, run, model)]
        }
    })
}

/// The tags in which MLflow keeps where a trace's artifacts and its archived spans are (`mlflow.tracing.constant`): it
/// reads there, and deletes there along with the trace.
const LOCATION_TAGS: [&str; 2] = ["mlflow.artifactLocation", "mlflow.trace.archiveLocation"];
const CHOOSES_ARTIFACTS: Demand = Demand::Privileged("choose where a trace's artifacts are");

/// Some databases compare keys without case and without spaces at the end.
fn is_location_tag(key: &str) -> bool {
    LOCATION_TAGS.iter().any(|tag| key.trim_end().eq_ignore_ascii_case(tag))
}

/// Tags as a list of `key` and `value`, or as an object, in the object that the path leads to.
fn tags_of(body: &mut Json<'_>, path: &[&str]) -> Result<Vec<Demand>, LocateError> {
    let Some(object) = inner(body, path)? else { return Ok(Vec::new()) };
    let chooses = match object.get("tags") {
        Some(Json::Object(tags)) => tags.iter().any(|(key, _)| is_location_tag(key)),
        Some(Json::Array(tags)) => tags.iter().any(|tag| tag.text("key").is_some_and(is_location_tag)),
        Some(Json::Scalar(_) | Json::String(_)) | None => false,
    };
    Ok(if chooses { vec![CHOOSES_ARTIFACTS] } else { Vec::new() })
}

/// The endpoints of the AI gateway that written JSON names as models, `gateway:/NAME`. MLflow calls them itself, and then
/// nobody asks who wanted it.
fn endpoints_of(field: &str, written: &str) -> Result<Vec<Demand>, LocateError> {
    let unreadable = || invalid(field, &Json::String(Cow::Borrowed(written)), "a string that holds a JSON object");
    let parsed = Json::parse_object(written.as_bytes()).map_err(|_| unreadable())?;
    let mut names = Vec::new();
    endpoint_names(&parsed, &mut names);
    let used = |id| Demand::Located(Located { permission: Permission::Use, thing: Thing::EndpointName, id });
    Ok(names.into_iter().map(used).collect())
}

fn endpoint_names(json: &Json<'_>, names: &mut Vec<String>) {
    match json {
        Json::Scalar(_) => {}
        Json::String(text) => {
            let name = text.trim().split_once(":/").filter(|(provider, _)| provider.eq_ignore_ascii_case("gateway"));
            names.extend(name.map(|(_, name)| name.trim_start_matches('/').to_owned()));
        }
        Json::Array(items) => items.iter().for_each(|item| endpoint_names(item, names)),
        Json::Object(members) => members.iter().for_each(|(_, value)| endpoint_names(value, names)),
    }
}

fn inner<'j, 'b>(body: &'j mut Json<'b>, path: &[&str]) -> Result<Option<&'j mut Json<'b>>, LocateError> {
    let mut object = body;
    for name in path {
        match take_spelling(object, name)? {
            Some(found) => object = found,
            None => return Ok(None),
        }
    }
    Ok(Some(object))
}

fn queue(located: &[Located], part: QueuePart) -> Vec<Demand> {
    let queues = located.iter().filter(|one| matches!(one.thing, Thing::ReviewQueue | Thing::ReviewQueueName));
    queues.map(|queue| Demand::Queue { queue: queue.clone(), part }).collect()
}

fn is_whole_number(text: &str) -> bool {
    !text.is_empty() && text.len() <= 9 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a request to delete a scorer means one version of it.
#[must_use]
pub fn names_a_version(body: &Json<'_>) -> bool {
    body.get("version").is_some()
}

fn prompt_name(uri: &str) -> Option<String> {
    let path = one_slash(uri.strip_prefix("prompts:")?)?;
    if !is_plain(path) {
        return None;
    }
    match path.split('/').collect::<Vec<_>>()[..] {
        [name, _version] => Some(name.to_owned()),
        [only] => only.rsplit_once('@').map(|(name, _alias)| name.to_owned()),
        _ => None,
    }
}

fn demand_on(source: SourceUri, uri: String, run: Option<String>, model: Option<String>) -> Demand {
    let read = |thing, id| Demand::Located(Located { permission: Permission::Read, thing, id });
    match source {
        SourceUri::Model(name) => read(Thing::Model, name),
        SourceUri::LoggedModel(id) => read(Thing::LoggedModel, id),
        SourceUri::Run(id) => read(Thing::Run, id),
        SourceUri::Artifact(path) => read(Thing::Artifact, path.as_str().to_owned()),
        SourceUri::Elsewhere => Demand::Inside { uri, run, model },
    }
}

/// What the `source` of a model version points to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SourceUri {
    /// `models:/NAME/VERSION` or `models:/NAME@ALIAS`
    Model(String),
    /// `models:/m-…`
    LoggedModel(String),
    /// `runs:/RUN/…`
    Run(String),
    /// `mlflow-artifacts:/…`
    Artifact(ArtifactPath),
    /// A bucket, a file: MLflow reads it with its own credentials.
    Elsewhere,
}

impl SourceUri {
    /// Reads a source as `mlflow.store.artifact.utils.models._parse_model_uri` and its siblings do.
    ///
    /// # Errors
    /// An artifact path that could be read in two ways.
    pub fn parse(source: &str) -> Result<Self, LocateError> {
        // Python's urlparse lower-cases schemes.
        let (scheme, rest) = source.split_once(':').unwrap_or(("", source));
        let scheme = scheme.to_ascii_lowercase();
        if matches!(scheme.as_str(), "models" | "runs" | "mlflow-artifacts") && !is_plain(rest) {
            return Err(unclear(source));
        }
        match scheme.as_str() {
            "models" => {
                let path = one_slash(rest).ok_or_else(|| unclear(source))?;
                let parts: Vec<&str> = path.split('/').collect();
                match parts[..] {
                    [name, _suffix] => Ok(Self::Model(name.to_owned())),
                    [only] => Ok(match only.rsplit_once('@') {
                        Some((name, _alias)) => Self::Model(name.to_owned()),
                        None => Self::LoggedModel(only.to_owned()),
                    }),
                    _ => Err(unclear(source)),
                }
            }
            "runs" => {
                let path = one_slash(rest).ok_or_else(|| unclear(source))?;
                Ok(Self::Run(path.split('/').next().unwrap_or_default().to_owned()))
            }
            "mlflow-artifacts" => {
                // `mlflow-artifacts:/PATH` or `mlflow-artifacts://HOST/PATH`: the host is where clients find MLflow.
                let path = match rest.strip_prefix("//") {
                    Some(with_host) => with_host.split_once('/').map_or("", |(_, path)| path),
                    None => rest.trim_start_matches('/'),
                };
                let path = path.strip_prefix("api/2.0/mlflow-artifacts/artifacts/").unwrap_or(path);
                Ok(Self::Artifact(ArtifactPath::parse(path)?))
            }
            _ => Ok(Self::Elsewhere),
        }
    }
}

/// After the scheme: `/PATH`. With two slashes a host would stand there, which MLflow skips.
fn one_slash(rest: &str) -> Option<&str> {
    rest.strip_prefix('/').filter(|path| !path.starts_with('/') && !path.is_empty())
}

/// Python's urlparse drops tabs and line ends, trims, and cuts at `?`: what it would change is not accepted.
fn is_plain(rest: &str) -> bool {
    let changed = rest.contains(char::is_control) || rest.contains(['?', '#', '\\', '%', ';']);
    !changed && rest.split(['/', '@']).all(|part| part.trim() == part)
}

fn unclear(source: &str) -> LocateError {
    LocateError::Invalid {
        name: "source".to_owned(),
        value: shown(source),
        expected: "models:/NAME/VERSION, models:/NAME@ALIAS, models:/MODEL_ID, runs:/RUN_ID/PATH or an artifact's URI",
    }
}
