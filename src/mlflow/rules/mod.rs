//! The checks that the columns of the route table cannot say, one arm each.
//!
//! A rule reads the canonical request and answers with further demands; it decides nothing itself.

mod gateway;
mod issues;
mod names;
mod prompts;
mod queues;
mod scorers;
mod sources;
mod traces;

use super::locate::{Located, member, text_field};
use super::{Json, LocateError, Need, Operation, Rule, provider};
use crate::authz::{ResourceKind, scorer_key};

pub use names::new_skills;
pub use prompts::{is_prompt_model_tag, optimized_prompt, pin_prompt};
pub use scorers::names_a_version;
pub use sources::SourceUri;
pub use traces::{keep_assessment_ids, names_assessments, started_trace};

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

impl Demand {
    /// Returns the key of the scorer that this is about, if it is about one by name.
    #[must_use]
    pub fn scorer(&self) -> Option<String> {
        if let Self::Located(located) = self {
            return located.is_scorer().then(|| located.id.clone());
        }
        if let Self::StoredScorer { experiment, name, .. } = self {
            return Some(scorer_key(experiment, name));
        }
        let Self::NameIsFree { kind: ResourceKind::Scorer, name } = self else { return None };
        Some(name.clone())
    }
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

/// Returns the further demands of an operation's rule. `located` is what the row's needs found.
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
    match rule {
        Rule::NamedOrAdmin if located.is_empty() => Ok(vec![Demand::Privileged("ask for all of them at once")]),
        Rule::NamedOrAdmin => Ok(Vec::new()),
        Rule::OneNamed => one_named(operation, located),
        Rule::QueueReader => Ok(queues::part(located, QueuePart::Reader)),
        Rule::QueueMember => Ok(queues::part(located, QueuePart::Member)),
        Rule::QueueOwner => Ok(queues::part(located, QueuePart::CustomOwner)),
        Rule::QueueName => queues::name(body),
        Rule::QueueUpdate => queues::update(located, body),
        Rule::ScorerDelete => scorers::delete(located, body),
        Rule::OnlineScorer => scorers::online(body),
        Rule::Judge => scorers::judges(body),
        Rule::PromptSource => prompts::optimization(body),
        Rule::PromptTag => prompts::tag(body),
        Rule::VersionTag => prompts::version_tag(body),
        Rule::VersionSource => sources::version(body),
        Rule::IssueDetection => issues::detection(body),
        Rule::ScheduleTag => issues::tag(body),
        Rule::ProviderSecret => provider::of_secret(body),
        Rule::ProviderModel => provider::of_definition(body),
        Rule::Invocation => gateway::invocation(located, body),
        Rule::UsageExperiment => gateway::usage(body),
        Rule::GuardrailUse => Ok(text_field(body, "guardrail_id")?.map(Demand::Guardrail).into_iter().collect()),
        Rule::WebhookUrl => Ok(text_field(body, "url")?.map(Demand::PublicAddress).into_iter().collect()),
        Rule::TraceStays => traces::start(located, body),
        Rule::TraceTag => traces::tag(body),
        Rule::TraceTags => traces::tags_of(body, &[]),
        Rule::ArtifactLocation => names::experiment(body),
        Rule::ExperimentName => names::renamed_experiment(located, body),
        Rule::NewName => names::new_name(operation, body),
        Rule::NewSkills => Ok(vec![Demand::NewSkills(new_skills(body)?)]),
        Rule::SkillStatus => names::skill_status(located, body),
    }
}

/// Refuses a request that names nothing; its row says what it could name.
fn one_named(operation: &Operation, located: &[Located]) -> Result<Vec<Demand>, LocateError> {
    let mut names = operation.needs.iter().filter_map(|need| match need {
        Need::Level { field, .. } => Some(field.name()),
        Need::Public
        | Need::SignedIn
        | Need::Admin
        | Need::Blocked(_)
        | Need::Create(_)
        | Need::NotDenied(_)
        | Need::Tier(..) => None,
    });
    match names.next() {
        Some(name) if located.is_empty() => Err(LocateError::Missing(name.to_owned())),
        Some(_) | None => Ok(Vec::new()),
    }
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
