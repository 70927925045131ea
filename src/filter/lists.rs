//! Lists of which only readable rows are kept.
//!
//! MLflow pages before we filter, so a page is refilled from the next ones until it is full. Our page tokens are sealed:
//! MLflow's own would tell how many rows were hidden. Work per call is bounded; what is left comes with the next token.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::push_down;
use crate::authz::{Identity, Permission, Permit, Policy, Requirement, Resource, ResourceKind, Visibility, holds, may};
use crate::crypto::Sealer;
use crate::http::{Body, Query, ReadError, read_bounded};
use crate::mlflow::{Filter, Json, scorer_key};
use crate::resolve::{self, Queue, RegisteredModel, Resolver};
use crate::upstream::{self, Outgoing, Upstream};

/// Why a list could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("The page token is not one of this list's. Start again without a page token.")]
    PageToken,
    #[error("Invalid value for parameter 'max_results' supplied: it must be a positive whole number.")]
    MaxResults,
    #[error(
        "A part of this list is larger than 64 MiB and cannot be shown. Leave it out with a filter, or make it smaller."
    )]
    RowTooLarge,
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
}

/// The canonical request for a list: the page parameters stand in the query or in the JSON body.
#[derive(Debug)]
pub struct ListRequest<'r, 'b> {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub query: &'r mut Query,
    pub body: Option<&'r mut Json<'b>>,
}

/// What to answer: MLflow's status (its own words when it refused) and body.
#[derive(Debug)]
pub struct ListAnswer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Answers filtered lists.
#[derive(Debug)]
pub struct Lists {
    upstream: Upstream,
    resolver: Arc<Resolver>,
    sealer: Sealer,
}

/// Where the next page starts: inside MLflow's page of that token, after so many rows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Position {
    token: Option<String>,
    skip: usize,
    /// Inside the list that MLflow narrowed for us, which has other tokens than the whole one.
    #[serde(default)]
    pushed: bool,
}

/// What one call may cost: rows looked at and requests to MLflow.
const MAX_ROWS: usize = 20_000;
const MAX_PAGES: usize = 30;
/// Rows asked for at once when refilling; MLflow's own limit for registered models.
const REFILL_ROWS: usize = 1000;
const PAGE_BYTES: usize = 64 * 1024 * 1024;

impl Lists {
    /// A filter that asks `upstream` and seals page tokens with `sealer`.
    #[must_use]
    pub fn new(upstream: Upstream, resolver: Arc<Resolver>, sealer: Sealer) -> Self {
        Self { upstream, resolver, sealer }
    }

    /// One page of what `who` may read.
    ///
    /// # Errors
    /// A page token that is not ours, or MLflow does not answer.
    pub async fn page(
        &self,
        who: &Identity,
        policy: Policy,
        permit: Permit,
        filter: Filter,
        visible: &[Visibility],
        mut request: ListRequest<'_, '_>,
    ) -> Result<ListAnswer, ListError> {
        let wanted = request.max_results()?;
        let rows_wanted = wanted.unwrap_or(filter.default_rows());
        let start = self.position(who, filter, &request)?;
        let began = start.is_some();
        let pushed = match &start {
            Some(position) if !position.pushed => false,
            Some(_) if !self.push_down(filter, visible, &mut request) => return Err(ListError::PageToken),
            Some(_) => true,
            None => self.push_down(filter, visible, &mut request),
        };
        let mut position = start.unwrap_or(Position { pushed, ..Position::default() });
        let mut rows: Vec<Box<RawValue>> = Vec::new();
        let mut looked_at = 0;
        let mut kinds = NameKinds::default();
        let mut permit = Some(permit);
        let mut at_most = REFILL_ROWS;
        for page in 0..MAX_PAGES {
            // The first request is as the client sized it, so that MLflow's own complaints reach the client.
            let size = if page == 0 && (!began || pushed && position.skip == 0) {
                wanted
            } else {
                Some(
                    (rows_wanted.saturating_add(position.skip) << page.min(8))
                        .clamp(1, REFILL_ROWS.max(position.skip + 1)),
                )
            };
            let size = if at_most < REFILL_ROWS { Some(at_most) } else { size };
            request.set_page(size, position.token.as_deref());
            let answer = match self.fetch(&mut permit, &request).await {
                // Rows with very long texts: fewer of them at a time.
                Err(ListError::Upstream(upstream::Error::Unreadable(ReadError::TooLarge { .. }))) => {
                    let asked = size.unwrap_or(rows_wanted).min(at_most);
                    at_most = (asked / 4).max(position.skip + 1);
                    if at_most < asked {
                        continue;
                    }
                    // It is one row. What comes before it is answered; whoever goes on hears of it.
                    if rows.is_empty() {
                        return Err(ListError::RowTooLarge);
                    }
                    return Ok(self.answer(who, filter, &rows, Some(&position)));
                }
                answer => answer?,
            };
            if answer.status != StatusCode::OK {
                return Ok(answer);
            }
            at_most = at_most.saturating_mul(2).min(REFILL_ROWS);
            let fetched = Page::parse(filter, &answer.body)?;
            let count = fetched.rows.len();
            for (index, row) in fetched.rows.into_iter().enumerate().skip(position.skip) {
                if !self.readable(who, policy, filter, row, &mut kinds).await? {
                    continue;
                }
                if rows.len() == rows_wanted {
                    // One more is readable, so there is a next page, and it starts here.
                    position.skip = index;
                    return Ok(self.answer(who, filter, &rows, Some(&position)));
                }
                rows.push(row.to_owned());
            }
            looked_at += count;
            match fetched.next {
                None => return Ok(self.answer(who, filter, &rows, None)),
                Some(next) => position = Position { token: Some(next), skip: 0, pushed },
            }
            // MLflow gives a token when there are more of them, and nothing of it is hidden.
            if looked_at >= MAX_ROWS || pushed && rows.len() >= rows_wanted {
                break;
            }
        }
        Ok(self.answer(who, filter, &rows, Some(&position)))
    }

    /// An answer without rows, for whoever may read nothing: MLflow need not be asked.
    #[must_use]
    pub fn nothing(&self, who: &Identity, filter: Filter) -> ListAnswer {
        self.answer(who, filter, &[], None)
    }

    /// Where a page token says to go on; `None` without one.
    fn position(
        &self,
        who: &Identity,
        filter: Filter,
        request: &ListRequest<'_, '_>,
    ) -> Result<Option<Position>, ListError> {
        let Some(sealed) = request.page_token().filter(|token| !token.is_empty()) else { return Ok(None) };
        let opened = self.sealer.open(filter.key(), who.user.0, &sealed).ok_or(ListError::PageToken)?;
        serde_json::from_slice(&opened).map(Some).map_err(|_| ListError::PageToken)
    }

    /// Narrows the request to what may be read, where this MLflow can; see [`push_down`].
    fn push_down(&self, filter: Filter, visible: &[Visibility], request: &mut ListRequest<'_, '_>) -> bool {
        let Some(condition) = push_down::condition(filter, self.upstream.version(), visible) else { return false };
        let Some(both) = push_down::conjunction(request.filter().as_deref(), &condition) else { return false };
        request.set_filter(&both);
        true
    }

    fn answer(&self, who: &Identity, filter: Filter, rows: &[Box<RawValue>], next: Option<&Position>) -> ListAnswer {
        let mut members: Vec<(&str, String)> = Vec::new();
        if !rows.is_empty() || !filter.is_protobuf() {
            let rows: Vec<&str> = rows.iter().map(|row| row.get()).collect();
            members.push((filter.key(), format!("[{}]", rows.join(","))));
        }
        if let Some(position) = next {
            let plain = serde_json::to_vec(position).unwrap_or_default();
            // URL-safe text needs no escapes.
            members.push(("next_page_token", format!("\"{}\"", self.sealer.seal(filter.key(), who.user.0, &plain))));
        } else if matches!(filter, Filter::McpServers | Filter::McpEndpoints) {
            members.push(("next_page_token", "null".to_owned()));
        }
        if filter == Filter::EndpointModels {
            // As OpenAI's API answers.
            members.push(("object", "\"list\"".to_owned()));
        }
        let members: Vec<String> = members.into_iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        ListAnswer { status: StatusCode::OK, body: Bytes::from(format!("{{{}}}", members.join(","))) }
    }

    async fn fetch(&self, permit: &mut Option<Permit>, request: &ListRequest<'_, '_>) -> Result<ListAnswer, ListError> {
        let outgoing = request.outgoing();
        let response = match permit.take() {
            Some(permit) => self.upstream.forward(permit, outgoing).await?,
            None => self.upstream.refill(outgoing).await?,
        };
        let status = response.status();
        let body = read_bounded(response.into_body(), PAGE_BYTES).await.map_err(upstream::Error::from)?;
        Ok(ListAnswer { status, body })
    }

    async fn readable(
        &self,
        who: &Identity,
        policy: Policy,
        filter: Filter,
        row: &RawValue,
        kinds: &mut NameKinds,
    ) -> Result<bool, ListError> {
        let read = |resource: &Resource| may(who, policy, Permission::Read, resource);
        match filter {
            Filter::Experiments => {
                let row: ExperimentRow = parse(row.get().as_bytes())?;
                let resource = Resource::new(ResourceKind::Experiment, row.experiment_id);
                Ok(read(&Resource { name: row.name.map(Into::into), ..resource }))
            }
            Filter::RegisteredModels => {
                let row: RegisteredModel = parse(row.get().as_bytes())?;
                Ok(read(&row.resource()))
            }
            Filter::ModelVersions => {
                let row: VersionRow = parse(row.get().as_bytes())?;
                let read = |resource| holds(who, policy, &Requirement::version(Permission::Read, resource)).is_ok();
                let as_model = read(Resource::new(ResourceKind::RegisteredModel, row.name.as_str()));
                let as_prompt = read(Resource::new(ResourceKind::Prompt, row.name.as_str()));
                if as_model == as_prompt {
                    return Ok(as_model);
                }
                // Only names that the caller holds a grant on come here: the cost follows what they may read.
                if let Some(known) = kinds.0.get(&row.name) {
                    return Ok(*known);
                }
                let readable = match self.resolver.model(&row.name).await {
                    Ok(resource) => read(resource),
                    // Deleted since MLflow listed it.
                    Err(resolve::Error::NoSuchName(_)) => false,
                    Err(error) => return Err(error.into()),
                };
                kinds.0.insert(row.name, readable);
                Ok(readable)
            }
            Filter::Scorers => {
                let row: ScorerRow = parse(row.get().as_bytes())?;
                let experiment = String::from(row.experiment_id);
                let key = scorer_key(&experiment, &row.scorer_name);
                let experiment = Resource::new(ResourceKind::Experiment, experiment);
                let in_experiment = read(&self.named(who, experiment).await?);
                Ok(in_experiment && read(&Resource::new(ResourceKind::Scorer, key)))
            }
            Filter::ReviewQueues => {
                let row: Queue = parse(row.get().as_bytes())?;
                let resource = self.named(who, row.experiment()).await?;
                let tier = Some(ResourceKind::ReviewQueue);
                let member = holds(who, policy, &Requirement::OneOf(row.users)).is_ok();
                let permission = if member { Permission::Read } else { Permission::Edit };
                let requirement = Requirement::Level { permission, resource, tier };
                Ok(holds(who, policy, &requirement).is_ok())
            }
            Filter::Secrets => {
                let row: SecretRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::GatewaySecret, row.secret_id)))
            }
            Filter::Endpoints => {
                let row: EndpointRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::GatewayEndpoint, row.endpoint_id)))
            }
            Filter::ModelDefinitions => {
                let row: DefinitionRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::GatewayModelDefinition, row.model_definition_id)))
            }
            Filter::EndpointModels => {
                let row: EndpointModelRow = parse(row.get().as_bytes())?;
                let Some(id) = self.resolver.recent_endpoint(&row.id).await? else { return Ok(false) };
                let endpoint = Resource::new(ResourceKind::GatewayEndpoint, &*id);
                Ok(may(who, policy, Permission::Use, &endpoint))
            }
            Filter::McpServers => {
                let row: VersionRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::McpServer, row.name)))
            }
            Filter::McpEndpoints => {
                let row: McpEndpointRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::McpServer, row.server_name)))
            }
            Filter::Jobs => {
                let row: JobRow = parse(row.get().as_bytes())?;
                Ok(read(&Resource::new(ResourceKind::Job, row.job_id)))
            }
        }
    }
}

impl Lists {
    /// The experiment under its name, for those whose globs ask for it.
    async fn named(&self, who: &Identity, mut experiment: Resource) -> Result<Resource, ListError> {
        if who.needs_names() {
            self.resolver.name(&mut experiment).await?;
        }
        Ok(experiment)
    }
}

/// Names already looked up for this page.
#[derive(Debug, Default)]
struct NameKinds(HashMap<String, bool>);

impl Filter {
    /// The kinds whose readability says beforehand how much of the list is readable; `None` when only the rows can tell.
    #[must_use]
    pub const fn kinds(self) -> Option<&'static [ResourceKind]> {
        match self {
            Self::Experiments => Some(&[ResourceKind::Experiment]),
            Self::RegisteredModels | Self::ModelVersions => {
                Some(&[ResourceKind::RegisteredModel, ResourceKind::Prompt])
            }
            Self::Secrets => Some(&[ResourceKind::GatewaySecret]),
            Self::Endpoints => Some(&[ResourceKind::GatewayEndpoint]),
            Self::ModelDefinitions => Some(&[ResourceKind::GatewayModelDefinition]),
            Self::McpServers | Self::McpEndpoints => Some(&[ResourceKind::McpServer]),
            Self::Scorers | Self::ReviewQueues | Self::EndpointModels | Self::Jobs => None,
        }
    }

    /// What the rows are below this kind, where they have a tier of their own.
    #[must_use]
    pub fn tier(self, kind: ResourceKind) -> Option<ResourceKind> {
        match (self, kind) {
            (Self::ModelVersions, ResourceKind::RegisteredModel) => Some(ResourceKind::RegisteredModelVersion),
            (Self::ModelVersions, ResourceKind::Prompt) => Some(ResourceKind::PromptVersion),
            (
                Self::Experiments
                | Self::RegisteredModels
                | Self::ModelVersions
                | Self::Scorers
                | Self::ReviewQueues
                | Self::Secrets
                | Self::Endpoints
                | Self::ModelDefinitions
                | Self::EndpointModels
                | Self::McpServers
                | Self::McpEndpoints
                | Self::Jobs,
                _,
            ) => None,
        }
    }

    /// The name of the list in MLflow's answer.
    const fn key(self) -> &'static str {
        match self {
            Self::Experiments => "experiments",
            Self::RegisteredModels => "registered_models",
            Self::ModelVersions => "model_versions",
            Self::Scorers => "scorers",
            Self::ReviewQueues => "review_queues",
            Self::Secrets => "secrets",
            Self::Endpoints => "endpoints",
            Self::ModelDefinitions => "model_definitions",
            Self::EndpointModels => "data",
            Self::McpServers => "mcp_servers",
            Self::McpEndpoints => "mcp_access_endpoints",
            Self::Jobs => "jobs",
        }
    }

    /// What MLflow 3.17 answers when `max_results` is not given; for versions a bound of ours below its 200,000.
    const fn default_rows(self) -> usize {
        match self {
            Self::Experiments => 1000,
            Self::RegisteredModels | Self::McpServers | Self::McpEndpoints | Self::ReviewQueues => 100,
            Self::ModelVersions => 10_000,
            // These come whole.
            Self::Scorers
            | Self::Secrets
            | Self::Endpoints
            | Self::ModelDefinitions
            | Self::EndpointModels
            | Self::Jobs => usize::MAX,
        }
    }

    /// The answer around the rows. protobuf's JSON leaves out what is empty, pydantic's does not.
    const fn is_protobuf(self) -> bool {
        match self {
            Self::Experiments
            | Self::RegisteredModels
            | Self::ModelVersions
            | Self::Scorers
            | Self::ReviewQueues
            | Self::Secrets
            | Self::Endpoints
            | Self::ModelDefinitions => true,
            Self::EndpointModels | Self::McpServers | Self::McpEndpoints | Self::Jobs => false,
        }
    }
}

impl ListRequest<'_, '_> {
    fn max_results(&self) -> Result<Option<usize>, ListError> {
        let text = match &self.body {
            None => self.query.only("max_results").map_err(|_| ListError::MaxResults)?.map(str::to_owned),
            Some(body) => match body.get("max_results").or_else(|| body.get("maxResults")) {
                None => None,
                Some(Json::Scalar(number)) => Some((*number).to_owned()),
                Some(Json::String(number)) => Some(number.clone().into_owned()),
                Some(Json::Array(_) | Json::Object(_)) => return Err(ListError::MaxResults),
            },
        };
        let Some(text) = text else { return Ok(None) };
        match text.parse::<usize>() {
            Ok(rows) if rows > 0 && rows <= 1_000_000 => Ok(Some(rows)),
            _ => Err(ListError::MaxResults),
        }
    }

    fn filter(&self) -> Option<String> {
        match &self.body {
            None => self.query.all("filter").next().map(str::to_owned),
            Some(body) => body.text("filter").map(str::to_owned),
        }
    }

    fn set_filter(&mut self, filter: &str) {
        match &mut self.body {
            None => self.query.set("filter", Some(filter)),
            Some(body) => body.set("filter", Json::String(filter.to_owned().into())),
        }
    }

    fn page_token(&self) -> Option<String> {
        match &self.body {
            None => self.query.all("page_token").next().map(str::to_owned),
            Some(body) => body.text("page_token").or_else(|| body.text("pageToken")).map(str::to_owned),
        }
    }

    fn set_page(&mut self, rows: Option<usize>, token: Option<&str>) {
        let rows = rows.map(|rows| rows.to_string());
        match &mut self.body {
            None => {
                self.query.set("max_results", rows.as_deref());
                self.query.set("page_token", token);
            }
            Some(Json::Object(members)) => {
                members.retain(|(key, _)| !matches!(&**key, "max_results" | "maxResults" | "page_token" | "pageToken"));
                let text = |text: String| Json::String(text.into());
                members.extend(rows.map(|rows| ("max_results".into(), text(rows))));
                members.extend(token.map(|token| ("page_token".into(), text(token.to_owned()))));
            }
            Some(_) => {}
        }
    }

    fn outgoing(&self) -> Outgoing {
        let mut headers = self.headers.clone();
        let mut target = self.path.clone();
        let body = match &self.body {
            None => {
                if !self.query.is_empty() {
                    target.push('?');
                    target.push_str(&self.query.encoded());
                }
                Body::Empty
            }
            Some(body) => {
                let bytes = Bytes::from(body.to_bytes());
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
                Body::from(bytes)
            }
        };
        // The answer is read here, so it must come as it is.
        headers.remove(header::ACCEPT_ENCODING);
        Outgoing { method: self.method.clone(), target, headers, body }
    }
}

struct Page<'a> {
    rows: Vec<&'a RawValue>,
    next: Option<String>,
}

impl<'a> Page<'a> {
    fn parse(filter: Filter, bytes: &'a [u8]) -> Result<Self, ListError> {
        let mut members: HashMap<&'a str, &'a RawValue> = parse(bytes)?;
        let rows = match members.remove(filter.key()) {
            Some(rows) => parse(rows.get().as_bytes())?,
            None => Vec::new(),
        };
        let next = match members.remove("next_page_token") {
            Some(token) => parse::<Option<String>>(token.get().as_bytes())?,
            None => None,
        };
        Ok(Self { rows, next: next.filter(|token| !token.is_empty()) })
    }
}

#[derive(Deserialize)]
struct ExperimentRow {
    experiment_id: String,
    name: Option<String>,
}

#[derive(Deserialize)]
struct VersionRow {
    name: String,
}

#[derive(Deserialize)]
struct ScorerRow {
    experiment_id: TextOrNumber,
    scorer_name: String,
}

/// MLflow writes the experiment of a scorer as a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum TextOrNumber {
    Text(String),
    Number(u64),
}

impl From<TextOrNumber> for String {
    fn from(value: TextOrNumber) -> Self {
        match value {
            TextOrNumber::Text(text) => text,
            TextOrNumber::Number(number) => number.to_string(),
        }
    }
}

#[derive(Deserialize)]
struct SecretRow {
    secret_id: String,
}

#[derive(Deserialize)]
struct EndpointRow {
    endpoint_id: String,
}

#[derive(Deserialize)]
struct DefinitionRow {
    model_definition_id: String,
}

#[derive(Deserialize)]
struct EndpointModelRow {
    id: String,
}

#[derive(Deserialize)]
struct McpEndpointRow {
    server_name: String,
}

#[derive(Deserialize)]
struct JobRow {
    job_id: String,
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ListError> {
    serde_json::from_slice(bytes).map_err(|_| ListError::Upstream(upstream::Error::NotUnderstood))
}

impl From<ReadError> for ListError {
    fn from(error: ReadError) -> Self {
        Self::Upstream(error.into())
    }
}
