//! Checks that the columns of the route table cannot express, one match arm each.
//!
//! A rule reads the canonical request and returns further demands. It makes no decisions.

mod gateway;
mod issues;
mod names;
mod prompts;
mod queues;
mod scorers;
mod sources;
mod traces;

use super::locate::{Located, member, text_field};
use super::{Json, LocateError, Operation, Rule, provider};
use crate::authz::{ResourceKind, scorer_key};

pub use names::new_skills;
pub use prompts::{is_prompt_model_tag, optimized_prompt, pin_prompt};
pub use scorers::names_a_version;
pub use sources::SourceUri;
pub use traces::{keep_assessment_ids, names_assessments, started_trace};

/// A demand of a rule, in addition to the needs of the row.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Demand {
    /// A further object that the request refers to.
    Located(Located),
    /// No permission on this name was revoked from the caller.
    NameIsFree { kind: ResourceKind, name: String },
    /// EDIT on these skills; the caller is allowed to create those that do not exist.
    NewSkills(Vec<String>),
    /// No permission on this name was revoked from the caller. Where permissions follow names, renaming also requires the right
    /// to share.
    ExperimentName { renamed: Option<String>, name: String },
    /// An administrator. The text completes "Only an administrator may …".
    Privileged(&'static str),
    /// An administrator, or any user for a location below one of the configured prefixes.
    ArtifactLocation(String),
    /// The URI is inside the artifacts of this run or logged model, which the request also contains.
    Inside { uri: String, run: Option<String>, model: Option<String> },
    /// A trace with this ID is in this experiment or does not exist yet.
    TraceIn { trace: String, experiment: String },
    /// No user has this name. The personal review queue of a user has the user's name.
    NoUsersName(String),
    /// EDIT on the experiment in which MLflow would record the traffic of an endpoint, unless it does not exist yet. `name`:
    /// the new name of the endpoint; `endpoint`: its ID, if it has one.
    UsageExperiment { name: Option<String>, endpoint: Option<String> },
    /// The caller's part in a review queue.
    Queue { queue: Located, part: QueuePart },
    /// A demand on MLflow's own connections and calls.
    Connection(Connection),
    /// No optimization of a prompt with this name was started within the last day, or the caller is an administrator.
    NotOptimized(String),
}

/// A demand on the addresses that MLflow connects to, and on the models, endpoints and scorers that it calls. It applies to every
/// caller, administrators included.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Connection {
    /// `authz.provider_hosts` allows this URL, to which MLflow will connect for a model provider.
    Address(String),
    /// This URL, to which MLflow will connect and which an administrator chose, is public or allowed.
    PublicAddress(String),
    /// Every address that MLflow connects to for this AI gateway endpoint, given by name, is allowed.
    Endpoint(String),
    /// Every URL in a request to this AI gateway endpoint is allowed, if MLflow itself would fetch it.
    Fetched { endpoint: String, urls: Vec<String> },
    /// Every address that MLflow connects to for this AI gateway secret, given by ID, is allowed for this provider.
    Secret { id: String, provider: String },
    /// An AI gateway secret is valid, after the change, for every model definition that uses it. An empty part stays unchanged.
    SecretChange { id: String, auth_config: Vec<(String, String)>, secret_keys: Vec<String> },
    /// The provider and the secret of an AI gateway model definition are valid together after the change.
    Definition { definition: Option<String>, provider: Option<String>, secret: Option<String> },
    /// The requirements of a registered scorer that MLflow will run. `version`: the latest if absent.
    StoredScorer { experiment: String, name: String, version: Option<String> },
    /// The requirements of the model that this prompt version specifies, which MLflow's jobs call.
    PromptModel { name: String, at: PromptAt },
    /// A prompt version is about to specify this model, the value of [`PROMPT_MODEL_TAG`](super::PROMPT_MODEL_TAG). It must be
    /// allowed while MLflow's jobs may read it.
    PromptModelTag { name: String, written: String },
    /// USE on everything that a guardrail calls, by the guardrail's ID.
    Guardrail(String),
}

impl From<Connection> for Demand {
    fn from(connection: Connection) -> Self {
        Self::Connection(connection)
    }
}

impl Demand {
    /// Returns the key of the scorer that this demand names, if it names one.
    #[must_use]
    pub fn scorer(&self) -> Option<String> {
        if let Self::Located(located) = self {
            return located.is_scorer().then(|| located.id.clone());
        }
        if let Self::Connection(Connection::StoredScorer { experiment, name, .. }) = self {
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

/// The role that a review queue requires of the caller (`mlflow.server.auth`, 3.17.2). MANAGE on the experiment includes all of
/// them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum QueuePart {
    /// A member, or the owner with EDIT.
    Reader,
    /// A member.
    Member,
    /// Its owner.
    Owner,
    /// The owner of a queue that is not a user's personal queue.
    CustomOwner,
}

/// Returns the further demands of an operation's rule. `located`: the objects that the needs of the row found.
///
/// # Errors
///
/// A field that the rule reads has the wrong type or is missing.
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
        Rule::GuardrailUse => {
            Ok(text_field(body, "guardrail_id")?.map(Connection::Guardrail).map(Demand::from).into_iter().collect())
        }
        Rule::WebhookUrl => {
            Ok(text_field(body, "url")?.map(Connection::PublicAddress).map(Demand::from).into_iter().collect())
        }
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

/// Refuses a request that contains none of the objects in its row.
fn one_named(operation: &Operation, located: &[Located]) -> Result<Vec<Demand>, LocateError> {
    match operation.named().next() {
        Some((_, _, field)) if located.is_empty() => Err(LocateError::Missing(field.name().to_owned())),
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
