//! The checks that the columns of the route table cannot say, one arm each.
//!
//! A rule reads the canonical request and answers with further demands; it decides nothing itself.

use std::borrow::Cow;
use std::collections::HashSet;

use super::json::{Keep, List, canonical};
use super::judge::{self, Judge};
use super::locate::{
    Located, MAX_THINGS, SKILL_NAME, each_text, invalid, is_opaque_id, list_of, member, shown, text_field, to_front,
};
use super::{ArtifactPath, Json, LocateError, Need, Operation, PROMPT_TAG, Rule, Then, Thing, fetched, provider};
use crate::authz::{Permission, ResourceKind, scorer_key, skill_key};

const PROMPT_SOURCES: [&str; 2] = ["dummy-source", "prompt-template"];

/// What a rule asks for beside the row's needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Demand {
    /// One more thing the request is about.
    Located(Located),
    /// Nobody took this name's permissions away from the caller.
    NameIsFree { kind: ResourceKind, name: String },
    /// EDIT on these skills; those that are not there may be made by the caller.
    NewSkills(Vec<String>),
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
    /// MLflow will connect to this URL for a model provider; `authz.provider_hosts` must allow it.
    Address(String),
    /// MLflow will connect to this URL, which an administrator chose; it must be public or allowed.
    PublicAddress(String),
    /// Every address that MLflow connects to for this endpoint of the AI gateway, by name, must be allowed.
    Endpoint(String),
    /// Every URL that a request to this endpoint of the AI gateway names must be allowed, if MLflow itself would fetch it.
    Fetched { endpoint: String, urls: Vec<String> },
    /// Every address that MLflow connects to for this secret of the AI gateway, by ID, must be allowed for this provider.
    Secret { id: String, provider: String },
    /// A secret of the AI gateway after a change must fit every model definition that uses it. Empty: that part stays.
    SecretChange { id: String, auth_config: Vec<(String, String)>, secret_keys: Vec<String> },
    /// A model definition of the AI gateway: its provider and its secret, after the change, must fit each other.
    Definition { definition: Option<String>, provider: Option<String>, secret: Option<String> },
    /// A scorer that MLflow will run. `version`: the latest when absent.
    StoredScorer { experiment: String, name: String, version: Option<String> },
    /// MLflow's jobs call the model that this version of a prompt names.
    PromptModel { name: String, at: PromptAt },
    /// A version of a prompt is to name this model, the value of [`PROMPT_MODEL_TAG`](super::PROMPT_MODEL_TAG). It must be allowed
    /// while MLflow's jobs may read it.
    PromptModelTag { name: String, written: String },
    /// No optimization of a prompt of this name was started within the last day, or the caller is an administrator.
    NotOptimized(String),
    /// USE on everything that a guardrail calls, by the guardrail's ID.
    Guardrail(String),
}

/// A version of a prompt.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PromptAt {
    Version(String),
    Alias(String),
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
                Json::Array(_) | Json::Object(_) | Json::Closed(_) => false,
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
            let (name, at) = prompt_version(&uri).ok_or_else(|| LocateError::Invalid {
                name: "source_prompt_uri".to_owned(),
                value: shown(&uri),
                expected: "prompts:/NAME/VERSION or prompts:/NAME@ALIAS",
            })?;
            // What comes of it is a further version of that prompt.
            let version = Located { permission: Permission::Edit, thing: Thing::VersionOf, id: name.clone() };
            let mut demands = vec![Demand::Located(version), Demand::PromptModel { name, at }];
            let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
            if let Some(config) = inner(body, &["config"])? {
                if let Some(written) = text_field(config, "optimizer_config_json")?.filter(|text| !text.is_empty()) {
                    let optimizer = judge::optimizer("optimizer_config_json", &written)?;
                    demands.extend(calls(&optimizer));
                    config.set("optimizer_config_json", Json::String(Cow::Owned(optimizer.written)));
                }
                // A name is a built-in scorer's or a registered one's; MLflow tries both.
                let names = list_of(config, "scorers")?.into_iter();
                demands.extend(names.map(|name| stored_scorer(&experiment, name, None)));
            }
            demands
        }
        Rule::Judge => judges(body)?,
        Rule::OnlineScorer => {
            let experiment = text_field(body, "experiment_id")?.unwrap_or_default();
            text_field(body, "name")?.map(|name| stored_scorer(&experiment, name, None)).into_iter().collect()
        }
        Rule::IssueDetection => issue_detection(body)?,
        Rule::ScheduleTag => {
            let key = text_field(body, "key")?.unwrap_or_default();
            let value = text_field(body, "value")?;
            schedule_tag(&key, value.as_deref())?
        }
        Rule::ProviderSecret => provider::of_secret(body)?,
        Rule::ProviderModel => provider::of_definition(body)?,
        Rule::Invocation => {
            if let Json::Object(members) = &*body
                && let Some((key, _)) = members.iter().find(|(key, _)| judge::steers(key))
            {
                let (name, value) = (shown(key), "***".to_owned());
                let expected = "left out: it is set where the endpoint is configured";
                return Err(LocateError::Invalid { name, value, expected });
            }
            let endpoints = located.iter().filter(|one| one.thing == Thing::EndpointName).map(|one| one.id.clone());
            let urls = fetched::urls(body);
            let mut demands = Vec::new();
            for endpoint in endpoints {
                demands.push(Demand::Endpoint(endpoint.clone()));
                if !urls.is_empty() {
                    demands.push(Demand::Fetched { endpoint, urls: urls.clone() });
                }
            }
            demands
        }
        Rule::GuardrailUse => text_field(body, "guardrail_id")?.map(Demand::Guardrail).into_iter().collect(),
        Rule::WebhookUrl => text_field(body, "url")?.map(Demand::PublicAddress).into_iter().collect(),
        Rule::TraceStays => {
            let mut demands = tags_of(body, &["trace", "trace_info"])?;
            if let Some(trace) = started_trace(body)? {
                assessments_stay(body, &trace)?;
                if !is_opaque_id(&trace) {
                    let expected = "an id of letters, digits, `-` and `_`";
                    return Err(LocateError::Invalid { name: "trace_id".to_owned(), value: shown(&trace), expected });
                }
                let stays =
                    |located: &Located| Demand::TraceIn { trace: trace.clone(), experiment: located.id.clone() };
                demands.extend(located.iter().filter(|located| located.thing == Thing::Experiment).map(stays));
            }
            if assessments_of(body)?.is_some_and(|assessments| !assessments.is_empty()) {
                let assess = |located: &Located| {
                    let (permission, id) = (Permission::Edit, located.id.clone());
                    Demand::Located(Located { permission, thing: Thing::AssessmentsOf, id })
                };
                demands.extend(located.iter().filter(|located| located.thing == Thing::Experiment).map(assess));
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
            let mut demands: Vec<Demand> = location.map(Demand::ArtifactLocation).into_iter().chain(name).collect();
            if let Some(Json::Array(tags)) = body.get("tags") {
                for tag in tags.iter() {
                    let tag = tag?;
                    demands.extend(schedule_tag(tag.text("key").unwrap_or_default(), tag.text("value"))?);
                }
            }
            demands
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
            let name = if kind == ResourceKind::Skill { skill(body, &name)? } else { name };
            if name == "*" {
                // In grants and lists, that is all of them. MLflow 3.18 refuses it, too.
                let (value, expected) =
                    (format!("'{name}'"), "another name than the one that stands for all in grants");
                return Err(LocateError::Invalid { name: field.to_owned(), value, expected });
            }
            let mut demands = vec![Demand::NameIsFree { kind, name: name.clone() }];
            if operation.then == Some(Then::RenameModel) {
                demands.extend(text_field(body, "name")?.map(Demand::NotOptimized));
                demands.push(Demand::NotOptimized(name));
            }
            demands
        }
        Rule::NewSkills => vec![Demand::NewSkills(new_skills(body)?)],
        Rule::SkillStatus => {
            let status = text_field(body, "status")?.unwrap_or_default();
            let whole = |one: &Located| Demand::Located(Located { permission: Permission::Manage, ..one.clone() });
            let deletes = status.trim().eq_ignore_ascii_case("deleted");
            if deletes { located.iter().map(whole).collect() } else { Vec::new() }
        }
        Rule::PromptTag => {
            let key = text_field(body, "key")?.ok_or_else(|| LocateError::Missing("key".to_owned()))?;
            // A prompt and a model carry different grants; this tag would move one among the other's.
            let moves = key.trim_end().eq_ignore_ascii_case(PROMPT_TAG);
            moves.then_some(Demand::Privileged("set or delete the tag `mlflow.prompt.is_prompt`")).into_iter().collect()
        }
        Rule::UsageExperiment => {
            to_front(body, "usage_tracking");
            let endpoint = text_field(body, "endpoint_id")?;
            let name = text_field(body, "name")?.filter(|name| !name.is_empty());
            let chosen = text_field(body, "experiment_id")?.is_some_and(|id| !id.is_empty());
            let tracks = match member(body, "usage_tracking")? {
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
            let name = text_field(body, "name")?.unwrap_or_default();
            let mut demands = Vec::new();
            if let Some(Json::Array(tags)) = body.get("tags") {
                for tag in tags.iter() {
                    let tag = tag?;
                    let (key, value) = (tag.text("key").unwrap_or_default(), tag.text("value").unwrap_or_default());
                    demands.extend(prompt_model_tag(&name, key, value));
                }
            }
            // What prompts have in place of a source (`mlflow.prompt.constants`); MLflow takes it for prompts only.
            if PROMPT_SOURCES.contains(&source.as_str()) {
                return Ok(demands);
            }
            let found = SourceUri::parse(&source)?;
            if let SourceUri::Run(id) | SourceUri::LoggedModel(id) = &found
                && !is_opaque_id(id)
            {
                return Err(unclear(&source));
            }
            demands.push(demand_on(found, source, run, model));
            demands
        }
        Rule::VersionTag => {
            let (name, key) =
                (text_field(body, "name")?.unwrap_or_default(), text_field(body, "key")?.unwrap_or_default());
            let value = text_field(body, "value")?.unwrap_or_default();
            prompt_model_tag(&name, &key, &value).into_iter().collect()
        }
    })
}

/// The key of the skill that a request is to make: `organization` stands in the body.
///
/// # Errors
/// No skill can be called so.
fn skill(body: &mut Json<'_>, name: &str) -> Result<String, LocateError> {
    let organization = text_field(body, "organization")?.unwrap_or_default();
    let key = skill_key(&organization, name);
    if ResourceKind::Skill.has_key(&key) && !name.starts_with('@') {
        return Ok(key);
    }
    Err(LocateError::Invalid { name: "name".to_owned(), value: shown(&format!("'{key}'")), expected: SKILL_NAME })
}

/// The skills of a request that registers versions of many.
///
/// # Errors
/// The body is not of the operation's types; a name that no skill can have; more than MLflow accepts at once.
pub fn new_skills(body: &mut Json<'_>) -> Result<Vec<String>, LocateError> {
    let organization = text_field(body, "organization")?.unwrap_or_default();
    let mut keys = Vec::new();
    match member(body, "skills")? {
        None => {}
        Some(Json::Array(skills)) => {
            for one in skills.iter() {
                let one = one?;
                let name = one.text("name").unwrap_or_default();
                let key = skill_key(&organization, name);
                if !ResourceKind::Skill.has_key(&key) || name.starts_with('@') {
                    let (name, value) = ("skills.name".to_owned(), shown(&format!("'{key}'")));
                    return Err(LocateError::Invalid { name, value, expected: SKILL_NAME });
                }
                keys.push(key);
                if keys.len() > MAX_SKILLS {
                    return Err(LocateError::TooMany(MAX_SKILLS));
                }
            }
        }
        Some(other) => return Err(invalid("skills", other, "a list of objects")),
    }
    if keys.is_empty() { Err(LocateError::Missing("skills".to_owned())) } else { Ok(keys) }
}

/// `mlflow.utils.validation._MAX_BULK_REGISTER_SKILLS`, 3.18.
const MAX_SKILLS: usize = 500;

fn prompt_model_tag(name: &str, key: &str, value: &str) -> Option<Demand> {
    let demand = || Demand::PromptModelTag { name: name.to_owned(), written: value.to_owned() };
    is_prompt_model_tag(key).then(demand)
}

/// Returns true if a tag of a prompt's version names its model. Some databases compare keys without case and without spaces at the
/// end.
#[must_use]
pub fn is_prompt_model_tag(key: &str) -> bool {
    key.trim_end().eq_ignore_ascii_case(provider::PROMPT_MODEL_TAG)
}

/// MLflow 3.9 to 3.16 puts an assessment on the trace that it names itself.
fn assessments_stay(body: &mut Json<'_>, trace: &str) -> Result<(), LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(()) };
    for one in assessments.iter() {
        if one?.text("trace_id").is_some_and(|named| !named.is_empty() && named != trace) {
            let (info, assessment) = ("trace_info.trace_id".to_owned(), "assessments.trace_id".to_owned());
            return Err(LocateError::Contradiction(info, assessment));
        }
    }
    Ok(())
}

/// Returns the ID of the trace that a request starts (`StartTraceV3`); `None` when MLflow chooses it.
///
/// # Errors
/// The body is not of the operation's types.
pub fn started_trace(body: &mut Json<'_>) -> Result<Option<String>, LocateError> {
    let Some(info) = inner(body, &["trace", "trace_info"])? else { return Ok(None) };
    Ok(text_field(info, "trace_id")?.filter(|trace| !trace.is_empty()))
}

/// The assessments in a request that starts a trace (`StartTraceV3`).
fn assessments_of<'j, 'b>(body: &'j mut Json<'b>) -> Result<Option<&'j mut List<'b>>, LocateError> {
    Ok(match inner(body, &["trace", "trace_info", "assessments"])? {
        Some(Json::Array(assessments)) => Some(assessments),
        Some(Json::Scalar(_) | Json::String(_) | Json::Object(_) | Json::Closed(_)) | None => None,
    })
}

/// Returns true if a request that starts a trace gives its assessments IDs.
///
/// # Errors
/// The body is not of the operation's types.
pub fn names_assessments(body: &mut Json<'_>) -> Result<bool, LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(false) };
    for one in assessments.iter() {
        if one?.text("assessment_id").is_some_and(|id| !id.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes the IDs of assessments, except of those in `stored`, from a request that starts a trace. MLflow then chooses new ones.
///
/// MLflow up to 3.17 merges the assessments of a started trace by ID alone: the ID of another trace's assessment moves that
/// assessment here and overwrites it.
///
/// # Errors
/// The body is not of the operation's types.
pub fn keep_assessment_ids(body: &mut Json<'_>, stored: &HashSet<String>) -> Result<(), LocateError> {
    let Some(assessments) = assessments_of(body)? else { return Ok(()) };
    assessments.rewrite::<LocateError>(
        |assessment| {
            if let Json::Object(members) = assessment {
                members.retain(|(key, value)| {
                    key != "assessment_id" || matches!(value, Json::String(id) if stored.contains(id.as_ref()))
                });
            }
            Ok(Keep::Yes)
        },
        &[],
    )
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
    let mut chooses = false;
    match member(object, "tags")? {
        Some(Json::Object(tags)) => chooses = tags.iter().any(|(key, _)| is_location_tag(key)),
        Some(Json::Array(tags)) => {
            for tag in tags.iter() {
                chooses |= tag?.text("key").is_some_and(is_location_tag);
            }
        }
        Some(Json::Scalar(_) | Json::String(_) | Json::Closed(_)) | None => {}
    }
    Ok(if chooses { vec![CHOOSES_ARTIFACTS] } else { Vec::new() })
}

/// The demands of calling an endpoint of the AI gateway, by name. MLflow calls it itself, with its own rights.
fn uses(endpoint: &str) -> [Demand; 2] {
    // The leading slashes of `gateway://NAME` are none of the name.
    let id = endpoint.trim_start_matches('/').to_owned();
    let located = Located { permission: Permission::Use, thing: Thing::EndpointName, id: id.clone() };
    [Demand::Located(located), Demand::Endpoint(id)]
}

/// The demands of what a scorer or an optimizer calls.
fn calls(judge: &Judge) -> Vec<Demand> {
    let endpoints = judge.endpoints.iter().flat_map(|endpoint| uses(endpoint));
    let addresses = judge.addresses.iter().cloned().map(Demand::Address);
    endpoints.chain(addresses).chain(judge.privilege.map(Demand::Privileged)).collect()
}

fn stored_scorer(experiment: &str, name: String, version: Option<String>) -> Demand {
    Demand::StoredScorer { experiment: experiment.to_owned(), name, version }
}

/// The scorers that a request brings or names; those that it brings are rebuilt from known members.
fn judges(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
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
                demands.push(stored_scorer(&experiment, name, Some(version.to_owned())));
            }
        }
    }
    if let Some(name) = text_field(body, "scorer_name")? {
        let version = match body.get("scorer_version") {
            Some(Json::Scalar(version)) => Some((*version).to_owned()),
            Some(Json::String(version)) => Some(version.clone().into_owned()),
            Some(Json::Array(_) | Json::Object(_) | Json::Closed(_)) | None => None,
        };
        demands.push(read(scorer_key(&experiment, &name)));
        demands.push(stored_scorer(&experiment, name, version));
    }
    Ok(demands)
}

/// Issue detection calls a model: an endpoint, or a provider with a secret or with the server's own key.
fn issue_detection(body: &mut Json<'_>) -> Result<Vec<Demand>, LocateError> {
    let mut text = |name| text_field(body, name).map(|text| text.filter(|text| !text.is_empty()));
    let choice = ModelChoice {
        provider: text("provider")?,
        model: text("model")?,
        secret: text("secret_id")?,
        endpoint: text("endpoint_name")?,
    };
    choice.demands()
}

/// A choice of model as issue detection has it (`mlflow/genai/discovery`, 3.13 to 3.18).
struct ModelChoice {
    provider: Option<String>,
    model: Option<String>,
    secret: Option<String>,
    endpoint: Option<String>,
}

impl ModelChoice {
    fn demands(self) -> Result<Vec<Demand>, LocateError> {
        let invalid = |name: &str, value: &str, expected| LocateError::Invalid {
            name: name.to_owned(),
            value: shown(&format!("'{value}'")),
            expected,
        };
        let mut demands = Vec::new();
        if let Some(endpoint) = &self.endpoint {
            demands.extend(uses(endpoint));
        }
        if let Some(provider) = self.provider.as_ref().filter(|provider| !provider::is_word(provider)) {
            return Err(invalid("provider", provider, "a provider's name"));
        }
        // MLflow calls `PROVIDER:/MODEL`.
        if let (Some(provider), Some(model)) = (&self.provider, &self.model)
            && provider.eq_ignore_ascii_case("gateway")
        {
            demands.extend(uses(model));
        }
        if let (Some(provider), None) = (&self.provider, &self.secret) {
            // `gateway` names an endpoint, whose use is demanded above.
            let own = if provider.eq_ignore_ascii_case("gateway") { None } else { provider::privilege_of(provider) };
            demands.extend(own.map(Demand::Privileged));
            let model = provider::Model { provider: provider.clone(), name: self.model.clone().unwrap_or_default() };
            demands.extend(provider::StoredSecret::default().addresses(&model).into_iter().map(Demand::Address));
        }
        if let Some(id) = self.secret {
            if !is_opaque_id(&id) {
                return Err(invalid("secret_id", &id, "the ID of a secret"));
            }
            demands.push(Demand::Located(Located {
                permission: Permission::Use,
                thing: Thing::Secret,
                id: id.clone(),
            }));
            demands.push(Demand::Secret { id, provider: self.provider.unwrap_or_default() });
        }
        Ok(demands)
    }
}

/// The tag by which an experiment's issues are detected on a schedule (`mlflow/genai/discovery/schedule.py`, 3.18), and the
/// tags in which MLflow keeps how far it is.
const SCHEDULE: &str = "mlflow.issueDetection.schedule";
const SCHEDULERS_OWN: [&str; 4] = [
    "mlflow.issueDetection.scheduleState",
    "mlflow.issueDetection.checkpoint",
    // Those of online scoring.
    "mlflow.latestOnlineScoring.trace.checkpoint",
    "mlflow.latestOnlineScoring.session.checkpoint",
];

/// The demands of setting a tag, or of deleting it without a value. MLflow's scheduler uses what the schedule names with its own
/// rights.
fn schedule_tag(key: &str, value: Option<&str>) -> Result<Vec<Demand>, LocateError> {
    // Some databases compare keys without case and without blanks at the end.
    let is = |tag: &str| key.trim_end().eq_ignore_ascii_case(tag);
    if SCHEDULERS_OWN.iter().any(|tag| is(tag)) {
        return Ok(vec![Demand::Privileged("set or delete the state of MLflow's schedulers")]);
    }
    let Some(value) = value.filter(|_| is(SCHEDULE)) else { return Ok(Vec::new()) };
    let malformed = |name: &str| LocateError::Invalid {
        name: name.to_owned(),
        value: shown(value),
        expected: "a schedule of issue detection, a JSON object as MLflow's pages write it",
    };
    let written = canonical(value.as_bytes()).map_err(|_| malformed(SCHEDULE))?;
    let mut schedule = Json::open(&written)?;
    let model = match member(&mut schedule, "model")? {
        None => return Ok(Vec::new()),
        Some(model @ Json::Object(_)) => model,
        Some(_) => return Err(malformed("model")),
    };
    let text = |name: &str| match model.get(name) {
        None => Ok(None),
        Some(Json::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Some(_) => Err(malformed(name)),
    };
    let choice = ModelChoice {
        provider: text("provider")?,
        model: text("model")?,
        secret: text("secretId")?,
        endpoint: text("endpointName")?,
    };
    choice.demands()
}

fn inner<'j, 'b>(body: &'j mut Json<'b>, path: &[&str]) -> Result<Option<&'j mut Json<'b>>, LocateError> {
    let mut object = body;
    for name in path {
        match member(object, name)? {
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

/// The name of a prompt, and which of its versions.
fn prompt_version(uri: &str) -> Option<(String, PromptAt)> {
    let path = one_slash(uri.strip_prefix("prompts:")?)?;
    if !is_plain(path) {
        return None;
    }
    match path.split('/').collect::<Vec<_>>()[..] {
        [name, version] => Some((name.to_owned(), PromptAt::Version(version.to_owned()))),
        [only] => only.rsplit_once('@').map(|(name, alias)| (name.to_owned(), PromptAt::Alias(alias.to_owned()))),
        _ => None,
    }
}

/// Returns the name and the version that a request to optimize a prompt names.
///
/// # Errors
/// The body is not of the operation's types.
pub fn optimized_prompt(body: &mut Json<'_>) -> Result<Option<(String, PromptAt)>, LocateError> {
    Ok(text_field(body, "source_prompt_uri")?.as_deref().and_then(prompt_version))
}

/// Replaces the alias in a request to optimize a prompt by the version that was checked: an alias may move before the job runs.
pub fn pin_prompt(body: &mut Json<'_>, name: &str, version: &str) {
    body.set("source_prompt_uri", Json::String(Cow::Owned(format!("prompts:/{name}/{version}"))));
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
            // `mlflow-artifacts://HOST/PATH`: clients connect to that host, and show it their credentials.
            "mlflow-artifacts" if rest.starts_with("//") && !rest.starts_with("///") => Ok(Self::Elsewhere),
            "mlflow-artifacts" => {
                let path = rest.trim_start_matches('/');
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
