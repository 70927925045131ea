//! The route table: parses `routes.toml`, and maps method and path to an operation.
//!
//! Parsed once at start. An entry that cannot be parsed prevents the start; it never grants access.

mod words;

use std::str::FromStr;

use http::Method;
use serde::Deserialize;

use super::{Author, LocateError, RequestFields, Schema, SchemaError, Unknown};
use crate::authz::{Permission, ResourceKind};
use crate::http::Query;

/// The part of a request that contains a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    Query,
    Body,
    Path,
    Header,
}

/// The location of one field, e.g. `body.metrics[].model_id?` or `query.experiment_id+name`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field {
    pub source: Source,
    /// The path to the field; one step, except in the body.
    pub steps: Vec<Step>,
    /// A second field beside the last step: both together are the key.
    pub with: Option<String>,
    pub optional: bool,
}

/// One step on the path to a field.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// Its names. MLflow renamed `run_uuid` to `run_id` and accepts both.
    pub names: Vec<String>,
    /// True if the step is a list, all entries of which count.
    pub each: bool,
}

impl Step {
    /// Returns true if this is one of its names.
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.names.iter().any(|known| known == name)
    }
}

impl Field {
    /// Returns the name of the field for error messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.last().names.first().map_or("", String::as_str)
    }

    /// Returns the step of the field itself.
    #[must_use]
    pub fn last(&self) -> &Step {
        static NOWHERE: Step = Step { names: Vec::new(), each: false };
        self.steps.last().unwrap_or(&NOWHERE)
    }
}

/// A list in the request that is reduced to what the caller is allowed to read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Narrow {
    /// The kind of its entries: experiments or traces.
    pub thing: Thing,
    pub field: Field,
}

impl FromStr for Narrow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (thing, field) = text.split_once(' ').ok_or_else(|| format!("`{text}` is not a resource and a field"))?;
        let named: Thing = thing.parse()?;
        if matches!(named, Thing::Experiment | Thing::Trace) {
            Ok(Self { thing: named, field: field.parse()? })
        } else {
            Err(format!("lists of `{thing}` cannot be narrowed"))
        }
    }
}

/// The kind of object that a field identifies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Thing {
    Experiment,
    ExperimentName,
    /// The traces of the experiment with the ID in the field.
    TracesOf,
    /// The assessments of the experiment with the ID in the field.
    AssessmentsOf,
    Run,
    LoggedModel,
    Trace,
    /// The assessments of the trace with the ID in the field.
    AssessmentOf,
    Dataset,
    Issue,
    LabelSchema,
    ReviewQueue,
    /// A review queue, by experiment and name.
    ReviewQueueName,
    PromptJob,
    /// A configuration of online scoring, by the scorer's ID.
    OnlineScorer,
    /// A registered model or a prompt, by name.
    Model,
    /// The versions of the model or prompt with that name.
    VersionOf,
    Scorer,
    ScorerVersion,
    Secret,
    Endpoint,
    EndpointName,
    ModelDefinition,
    /// A guardrail, which displays and runs its scorer.
    Guardrail,
    McpServer,
    McpServerVersion,
    /// A version to be created. Its server may have to be created, too.
    NewMcpServerVersion,
    /// A skill, by name and, if it has one, organization.
    Skill,
    /// A version to be created. Its skill may have to be created, too.
    NewSkill,
    Job,
    /// A path of the artifact proxy, which belongs to the experiment whose location contains it.
    Artifact,
}

/// One condition of an operation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Need {
    Public,
    SignedIn,
    Admin,
    /// No caller, unless the configuration enables this feature for administrators.
    Blocked(Feature),
    Create(ResourceKind),
    /// No grant denies this tier.
    NotDenied(ResourceKind),
    /// This level on a tier, where a grant concerns the tier.
    Tier(Permission, ResourceKind),
    Level {
        permission: Permission,
        thing: Thing,
        field: Field,
    },
}

impl Need {
    /// Returns the required level, the object and its field, if this need names one in the request.
    fn named(&self) -> Option<(Permission, Thing, &Field)> {
        if let Self::Level { permission, thing, field } = self { Some((*permission, *thing, field)) } else { None }
    }
}

/// An action that MLflow performs with the privileges of its own process. Blocked unless the configuration enables it for
/// administrators.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Feature {
    Assistant,
    JobSubmission,
    Demo,
    GatewayProxy,
    UpstreamMetrics,
}

impl Feature {
    /// Returns its name in the table and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Assistant => "assistant",
            Self::JobSubmission => "job-submission",
            Self::Demo => "demo",
            Self::GatewayProxy => "gateway-proxy",
            Self::UpstreamMetrics => "upstream-metrics",
        }
    }
}

/// The treatment of the request's body.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum BodyMode {
    Query,
    Json,
    Stream,
    Otlp,
    Graphql,
}

/// A list in the response that is filtered to readable rows.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    Experiments,
    RegisteredModels,
    ModelVersions,
    Scorers,
    ReviewQueues,
    Secrets,
    Endpoints,
    ModelDefinitions,
    EndpointModels,
    McpServers,
    McpEndpoints,
    Skills,
    Jobs,
}

/// The action that follows when MLflow has carried out a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Then {
    Own(ResourceKind),
    Drop(ResourceKind),
    RenameModel,
    LearnRun,
    LearnTrace,
    /// An experiment has a new name.
    RenameExperiment,
    /// Traces were deleted, so their cached experiments are invalid.
    ForgetTraces,
    OwnQueue,
    /// The caller becomes the owner of the MCP server or the skills that first versions created.
    OwnNew(ResourceKind),
}

/// A check that the columns of the table cannot express; see [`super::rules`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    ArtifactLocation,
    ExperimentName,
    GuardrailUse,
    Invocation,
    IssueDetection,
    Judge,
    NamedOrAdmin,
    NewName,
    NewSkills,
    OneNamed,
    OnlineScorer,
    PromptSource,
    PromptTag,
    VersionTag,
    ProviderModel,
    ProviderSecret,
    QueueMember,
    QueueName,
    QueueOwner,
    QueueReader,
    QueueUpdate,
    ScheduleTag,
    ScorerDelete,
    SkillStatus,
    TraceStays,
    TraceTag,
    TraceTags,
    UsageExperiment,
    VersionSource,
    WebhookUrl,
}

/// One row: the action of an MLflow endpoint and its requirements.
#[derive(Debug)]
pub struct Operation {
    /// A bounded set of names, so usable as a metric label. `'static` because the table lives as long as the process.
    pub name: &'static str,
    pub needs: Vec<Need>,
    pub send: BodyMode,
    /// Its known fields. All others are removed from a request.
    pub fields: RequestFields,
    /// True if its JSON can be as large as the configuration allows. That of other operations is small.
    pub large: bool,
    /// True if `Authorization` can contain the caller's own key for a provider. The credentials for the proxy are then in
    /// another header.
    pub provider_key: bool,
    /// The location of the author in its body.
    pub author: Option<Author>,
    pub narrow: Option<Narrow>,
    pub filter: Option<Filter>,
    /// Its response is a resource of this kind and contains the actions that the caller is allowed.
    pub actions: Option<ResourceKind>,
    /// A field of the response that only administrators receive.
    pub hide: Option<String>,
    /// The response while its feature is blocked, for requests that MLflow's pages make on their own.
    pub closed: Option<&'static str>,
    /// True if the response is an empty result when the request specifies nothing to search.
    pub empty: bool,
    pub then: Option<Then>,
    pub rule: Option<Rule>,
}

impl Operation {
    /// Returns the needs that name an object in the request: the required level, the object, and its field.
    pub fn named(&self) -> impl Iterator<Item = (Permission, Thing, &Field)> {
        self.needs.iter().filter_map(Need::named)
    }

    /// Returns the paths to the fields of its body that identify what is authorised.
    fn fronts(&self) -> Vec<&[Step]> {
        let needed = self.named().map(|(_, _, field)| field);
        let fields =
            needed.chain(self.narrow.as_ref().map(|narrow| &narrow.field)).filter(|field| field.source == Source::Body);
        fields.map(|field| field.steps.as_slice()).collect()
    }

    /// Returns true if it requires no sign-in.
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.needs == [Need::Public]
    }

    /// Returns true if the proxy can change known fields of its body, as it does for authors.
    #[must_use]
    pub const fn rewrites_body(&self) -> bool {
        self.author.is_some() || self.rule.is_some() || self.narrow.is_some()
    }

    /// Returns true if it can create, delete or rename versions of models.
    #[must_use]
    pub fn changes_versions(&self) -> bool {
        self.named().any(|(permission, thing, _)| {
            matches!(thing, Thing::Model | Thing::VersionOf) && permission > Permission::Read
        })
    }
}

/// The reason why the table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    #[error("routes.toml: {0}")]
    Toml(#[from] toml::de::Error),
    #[error("routes.toml: `{operation}`: {what}")]
    Row { operation: String, what: String },
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

/// The result of a look-up.
#[derive(Debug)]
pub enum Found<'t, 'p> {
    Operation {
        operation: &'t Operation,
        params: Vec<(&'t str, &'p str)>,
    },
    /// The path is known, but the method is not: 405 with these methods.
    OtherMethods(Vec<Method>),
    /// Not in the table: refused to all users, or for administrators with `authz.unlisted_routes_for_admins`.
    Unlisted,
}

/// All rows, indexed for look-up.
#[derive(Debug)]
pub struct Table {
    operations: Vec<Operation>,
    schema: Schema,
    router: matchit::Router<Vec<(Method, usize)>>,
}

impl Table {
    /// Returns the table that is built into the program.
    ///
    /// # Errors
    ///
    /// A row cannot be parsed. A unit test parses the table, too, so no release has this error.
    pub fn built_in() -> Result<Self, TableError> {
        Self::parse(include_str!("routes.toml"), include_str!("requests.toml"))
    }

    /// Parses a table from the texts of `routes.toml` and `requests.toml`.
    ///
    /// # Errors
    ///
    /// Anything that is not fully recognised, or a row whose request has no known fields or requires an unknown one.
    pub fn parse(routes: &str, requests: &str) -> Result<Self, TableError> {
        let schema = Schema::parse(requests)?;
        let rows: Rows = toml::from_str(routes)?;
        let mut operations = Vec::with_capacity(rows.operation.len());
        let mut paths: Vec<(String, Vec<(Method, usize)>)> = Vec::new();
        for row in rows.operation {
            let wrong = |what: String| TableError::Row { operation: row.name.clone(), what };
            let (methods, path) = parse_route(&row.route).map_err(wrong)?;
            let needs = row.needs.iter().map(|need| need.parse()).collect::<Result<Vec<Need>, _>>().map_err(wrong)?;
            if needs.is_empty() {
                return Err(wrong("`needs` is empty; write PUBLIC if that is intended".to_owned()));
            }
            let narrow = row.narrow.as_deref().map(Narrow::from_str).transpose().map_err(wrong)?;
            let reads = methods.iter().all(|method| *method == Method::GET);
            let send = row.send.unwrap_or(if reads { BodyMode::Query } else { BodyMode::Json });
            let fields = known_fields(&schema, &row.name, send, &needs, narrow.as_ref().map(|narrow| &narrow.field))
                .map_err(wrong)?;
            let author = row.author.map(Author::field);
            if author.is_some_and(|field| !schema.has(fields.body, [[field].into_iter()].into_iter(), None)) {
                return Err(wrong("its request has no field for the author".to_owned()));
            }
            for path in twins(&path) {
                let entries: Vec<_> = methods.iter().map(|method| (method.clone(), operations.len())).collect();
                match paths.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, known)) => known.extend(entries),
                    None => paths.push((path, entries)),
                }
            }
            let then = row.then.as_deref().map(Then::from_str).transpose().map_err(wrong)?;
            operations.push(Operation {
                name: Box::leak(row.name.into_boxed_str()),
                needs,
                send,
                fields,
                large: row.large,
                provider_key: row.provider_key,
                author: row.author,
                narrow,
                filter: row.filter,
                actions: row.actions,
                hide: row.hide,
                closed: row.closed.map(|json| &*Box::leak(json.into_boxed_str())),
                empty: row.empty,
                then,
                rule: row.rule,
            });
        }
        let mut router = matchit::Router::new();
        for (path, mut entries) in paths {
            // As in Flask, a route that answers GET also answers HEAD.
            if let Some(&(_, index)) = entries.iter().find(|(method, _)| *method == Method::GET) {
                entries.push((Method::HEAD, index));
            }
            let what =
                |error: matchit::InsertError| TableError::Row { operation: path.clone(), what: error.to_string() };
            router.insert(&path, entries).map_err(what)?;
        }
        Ok(Self { operations, schema, router })
    }

    /// Returns the known fields of all requests.
    #[must_use]
    pub const fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Returns all rows.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Rebuilds a request from the known fields of its operation. Returns the canonical text of the body.
    ///
    /// # Errors
    /// See [`Schema::rebuild_body`] and [`Schema::rebuild_query`].
    pub fn rebuild(
        &self,
        operation: &Operation,
        query: &mut Query,
        body: Option<&[u8]>,
        unknown: &mut Unknown,
    ) -> Result<Option<String>, LocateError> {
        match operation.fields.query {
            // MLflow reads no parameter there, so the query is dropped.
            None => *query = Query::default(),
            message if !query.is_empty() => self.schema.rebuild_query(message, query, unknown)?,
            Some(_) => {}
        }
        let Some(body) = body else { return Ok(None) };
        let fronts = operation.fronts();
        self.schema.rebuild_body(operation.fields.body, body, &fronts, unknown).map(Some)
    }

    /// Returns the operation of a request. `path` is canonical: [`crate::http::CanonicalPath::decoded`].
    #[must_use]
    pub fn find<'t, 'p>(&'t self, method: &Method, path: &'p str) -> Found<'t, 'p> {
        let Ok(matched) = self.router.at(path) else { return Found::Unlisted };
        let entry = matched.value.iter().find(|(known, _)| known == method);
        match entry.and_then(|(_, index)| self.operations.get(*index)) {
            Some(operation) => Found::Operation { operation, params: matched.params.iter().collect() },
            None => Found::OtherMethods(matched.value.iter().map(|(method, _)| method.clone()).collect()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rows {
    operation: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    route: String,
    needs: Vec<String>,
    send: Option<BodyMode>,
    #[serde(default)]
    large: bool,
    #[serde(default)]
    provider_key: bool,
    author: Option<Author>,
    narrow: Option<String>,
    filter: Option<Filter>,
    actions: Option<ResourceKind>,
    hide: Option<String>,
    closed: Option<String>,
    #[serde(default)]
    empty: bool,
    then: Option<String>,
    rule: Option<Rule>,
}

/// Returns the known fields of a row's request. Each field in the row must be one of them.
fn known_fields(
    schema: &Schema,
    name: &str,
    send: BodyMode,
    needs: &[Need],
    narrow: Option<&Field>,
) -> Result<RequestFields, String> {
    // Both are rebuilt by separate parsers.
    if matches!(send, BodyMode::Otlp | BodyMode::Graphql) {
        return Ok(RequestFields::default());
    }
    let mut fields = schema.of(name).ok_or("requests.toml does not have its fields")?;
    // One message in both places is used by several rows: MLflow reads it from the query of a GET, else from the body.
    if send == BodyMode::Json && fields.query == fields.body {
        fields.query = None;
    }
    let needed = needs.iter().filter_map(Need::named).map(|(_, _, field)| field);
    for field in needed.chain(narrow) {
        let message = match field.source {
            Source::Query => fields.query,
            Source::Body => fields.body,
            Source::Path | Source::Header => continue,
        };
        let steps = field.steps.iter().map(|step| step.names.iter().map(String::as_str));
        if !schema.has(message, steps, field.with.as_deref()) {
            return Err(format!("requests.toml has no field `{}`", field.name()));
        }
    }
    Ok(fields)
}

fn parse_route(route: &str) -> Result<(Vec<Method>, String), String> {
    let (methods, path) = route.split_once(' ').ok_or("`route` is methods, a space, a path")?;
    let method = |name: &str| name.parse::<Method>().map_err(|_| format!("`{name}` is not a method"));
    Ok((methods.split(',').map(method).collect::<Result<_, _>>()?, path.to_owned()))
}

fn twins(path: &str) -> Vec<String> {
    let twin = path.strip_prefix("/api/").map(|rest| format!("/ajax-api/{rest}"));
    std::iter::once(path.to_owned()).chain(twin).collect()
}
