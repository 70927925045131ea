//! Lists that are filtered to readable rows.
//!
//! MLflow pages before the proxy filters, so a page is refilled from the next ones until it is full. The proxy's page tokens
//! are sealed, because MLflow's own would reveal how many rows were hidden. The work per call is bounded; the next token
//! continues with the rest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::actions::with_actions;
use super::push_down;
use super::request::{Asked, ListRequest};
use crate::authz::{
    DefaultPermission, Identity, Permission, Permit, Requirement, Resource, ResourceKind, Visibility, holds, may,
};
use crate::budget::{ANSWER_COST, AnswerError, Full, read_answer};
use crate::crypto::Sealer;
use crate::http::ReadError;
use crate::mlflow::Filter;
use crate::mlflow::answers::{RegisteredModel, ReviewQueue};
use crate::mlflow::lists::{
    DefinitionRow, EndpointModelRow, EndpointRow, ExperimentRow, JobRow, ListDialect, McpEndpointRow, NamedRow,
    ScorerRow, SecretRow, SkillRow,
};
use crate::resolve::{self, Resolver};
use crate::upstream::{self, Upstream};

/// The reason why the proxy could not respond with a list.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("The page token is not one of this list's. Start again without a page token.")]
    PageToken,
    #[error("Invalid value for parameter 'max_results' supplied: it must be a positive whole number.")]
    MaxResults,
    #[error(
        "A part of this list is larger than {} MiB and cannot be shown. Leave it out with a filter, make it smaller, or raise \
         server.inspection_budget_bytes.",
        .0 / (1024 * 1024)
    )]
    RowTooLarge(usize),
    /// Other responses use the memory.
    #[error("too many large answers are being filtered or sent")]
    NoRoom(Full),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
}

/// The response: MLflow's status (with its own body if it refused the request) and body.
#[derive(Debug)]
pub struct ListAnswer {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Filters lists.
#[derive(Debug)]
pub struct Lists {
    upstream: Upstream,
    resolver: Arc<Resolver>,
    sealer: Sealer,
}

/// The start of the next page: MLflow's page of this token, after this number of rows.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Position {
    token: Option<String>,
    skip: usize,
    /// True if the token belongs to the list that MLflow itself filtered, whose tokens differ from those of the whole list.
    #[serde(default)]
    pushed: bool,
}

/// The progress of one call.
#[derive(Debug)]
struct Walk {
    position: Position,
    /// True if the next request has the client's page size, so that the client receives MLflow's own errors.
    as_asked: bool,
    /// The client's original request, until MLflow has accepted it together with the condition.
    fallback: Option<Asked>,
    at_most: usize,
}

impl Walk {
    /// Returns the number of rows to request.
    fn size(&self, page: usize, wanted: Option<usize>, rows_wanted: usize) -> Option<usize> {
        // A page was too large. Pages stay small until `gather` has raised the limit again.
        if self.at_most < REFILL_ROWS {
            return Some(self.at_most);
        }
        // The first request has the client's own size, which MLflow checks.
        if self.as_asked {
            return wanted;
        }
        // Doubles with each page, because a list that has filled few rows so far contains few readable ones. At least one row
        // more than `skip`: the rows before it were returned with the client's previous page.
        let skip = self.position.skip;
        Some((rows_wanted.saturating_add(skip) << page.min(8)).clamp(1, REFILL_ROWS.max(skip + 1)))
    }

    /// Continues without the condition if that may be the reason for a refusal: a gateway or a database has limits of its own.
    fn falls_back(&mut self, answer: &Result<ListAnswer, ListError>, request: &mut ListRequest<'_, '_>) -> bool {
        let Some(theirs) = self.fallback.take().filter(|_| refused(answer)) else { return false };
        request.ask(&theirs);
        self.position = Position::default();
        true
    }

    /// Reduces the number of rows for the next request. Returns false if it cannot be reduced further.
    fn asks_for_fewer(&mut self, asked: usize) -> bool {
        let asked = asked.min(self.at_most);
        self.at_most = (asked / 4).max(self.position.skip + 1);
        self.at_most < asked
    }
}

/// Maximum number of rows and of MLflow requests for one call.
const MAX_ROWS: usize = 20_000;
const MAX_PAGES: usize = 30;
/// Number of rows requested at once for a refill: MLflow's limit for registered models.
const REFILL_ROWS: usize = 1000;
/// Maximum size of MLflow's page, and of the kept rows of all pages; less if the budget is small.
const PAGE_BYTES: usize = 64 * 1024 * 1024;

impl Lists {
    /// Creates a filter that requests lists from `upstream` and seals page tokens with `sealer`.
    #[must_use]
    pub fn new(upstream: Upstream, resolver: Arc<Resolver>, sealer: Sealer) -> Self {
        Self { upstream, resolver, sealer }
    }

    /// Returns one page of the rows that `who` is allowed to read. Its body holds its share of the budget until it is sent.
    ///
    /// # Errors
    ///
    /// The page token is not valid, there is no memory, or MLflow does not respond.
    pub async fn page(
        &self,
        who: &Identity,
        default_permission: DefaultPermission,
        permit: Permit,
        filter: Filter,
        visible: &[Visibility],
        mut request: ListRequest<'_, '_>,
    ) -> Result<ListAnswer, ListError> {
        let ListAnswer { status, body } =
            self.gather(who, default_permission, permit, filter, visible, &mut request).await?;
        let body = request.share.keep(body).await.map_err(ListError::NoRoom)?;
        Ok(ListAnswer { status, body })
    }

    async fn gather(
        &self,
        who: &Identity,
        default_permission: DefaultPermission,
        permit: Permit,
        filter: Filter,
        visible: &[Visibility],
        request: &mut ListRequest<'_, '_>,
    ) -> Result<ListAnswer, ListError> {
        let wanted = request.max_results()?;
        let rows_wanted = wanted.unwrap_or(filter.shape().default_rows);
        let mut walk = self.begin(who, filter, visible, request)?;
        // Two pages fit into a share, so that a client that reads a list page by page does not wait for other requests.
        let limit = PAGE_BYTES.min(request.share.most() / ANSWER_COST / 2);
        let mut rows: Vec<Box<RawValue>> = Vec::new();
        let (mut kept, mut looked_at) = (0, 0);
        let mut kinds = NameKinds::default();
        let mut permit = Some(permit);
        for page in 0..MAX_PAGES {
            let size = walk.size(page, wanted, rows_wanted);
            request.set_page(size, walk.position.token.as_deref());
            let answer = self.fetch(&mut permit, request, limit, kept).await;
            if walk.falls_back(&answer, request) {
                continue;
            }
            let answer = match answer {
                // The rows contain very long texts, so fewer of them are requested at a time.
                Err(ListError::Upstream(upstream::Error::Unreadable(ReadError::TooLarge { .. }))) => {
                    if walk.asks_for_fewer(size.unwrap_or(rows_wanted)) {
                        continue;
                    }
                    // A single row is too large. The rows before it are returned; the request for the next page fails.
                    if rows.is_empty() {
                        return Err(ListError::RowTooLarge(limit));
                    }
                    return Ok(self.answer(who, filter, &rows, Some(&walk.position)));
                }
                answer => answer?,
            };
            if answer.status != StatusCode::OK {
                return Ok(answer);
            }
            // The page fitted, so the next one can be larger again.
            walk.as_asked = false;
            walk.at_most = walk.at_most.saturating_mul(2).min(REFILL_ROWS);
            let fetched = Page::parse(filter, &answer.body)?;
            looked_at += fetched.rows.len();
            let skip = walk.position.skip;
            self.prefetch(who, default_permission, filter, fetched.rows.iter().skip(skip), &mut kinds).await?;
            for (index, row) in fetched.rows.into_iter().enumerate().skip(skip) {
                if !self.readable(who, default_permission, filter, row, &mut kinds).await? {
                    continue;
                }
                if rows.len() == rows_wanted || kept + row.get().len() > limit && !rows.is_empty() {
                    // One more row is readable, so there is a next page, and it starts here.
                    walk.position.skip = index;
                    return Ok(self.answer(who, filter, &rows, Some(&walk.position)));
                }
                let row = shown(who, default_permission, filter, row)?;
                kept += row.get().len();
                rows.push(row);
            }
            let pushed = walk.position.pushed;
            match fetched.next {
                None => return Ok(self.answer(who, filter, &rows, None)),
                Some(next) => walk.position = Position { token: Some(next), skip: 0, pushed },
            }
            // In a list that MLflow itself filtered, its token shows whether there are more readable rows.
            if looked_at >= MAX_ROWS || pushed && rows.len() >= rows_wanted {
                break;
            }
        }
        Ok(self.answer(who, filter, &rows, Some(&walk.position)))
    }

    /// Returns the start position and the filter.
    fn begin(
        &self,
        who: &Identity,
        filter: Filter,
        visible: &[Visibility],
        request: &mut ListRequest<'_, '_>,
    ) -> Result<Walk, ListError> {
        let theirs = request.asked();
        let start = self.position(who, filter, request)?;
        // A page that starts in the middle of one of MLflow's needs more rows than the client wants: also those to
        // skip.
        let as_asked = start.as_ref().is_none_or(|position| position.pushed && position.skip == 0);
        let pushed = start.as_ref().is_none_or(|position| position.pushed);
        let pushed = pushed && self.push_down(filter, visible, request);
        let (position, fallback) = match start {
            // The token counts the rows of the restricted list and has no meaning in the whole one, for example when
            // the caller's grants have changed between two pages.
            Some(position) if position.pushed && !pushed => return Err(ListError::PageToken),
            Some(position) => (position, None),
            None => (Position { pushed, ..Position::default() }, pushed.then_some(theirs)),
        };
        Ok(Walk { position, as_asked, fallback, at_most: REFILL_ROWS })
    }

    /// Returns a response without rows, for callers who are not allowed to read any. MLflow is not called.
    #[must_use]
    pub fn nothing(&self, who: &Identity, filter: Filter) -> ListAnswer {
        self.answer(who, filter, &[], None)
    }

    /// Returns the position in a page token; `None` without one.
    fn position(
        &self,
        who: &Identity,
        filter: Filter,
        request: &ListRequest<'_, '_>,
    ) -> Result<Option<Position>, ListError> {
        let Some(sealed) = request.page_token().filter(|token| !token.is_empty()) else { return Ok(None) };
        let opened = self.sealer.open(filter.shape().key, who.user.0, &sealed).ok_or(ListError::PageToken)?;
        serde_json::from_slice(&opened).map(Some).map_err(|_| ListError::PageToken)
    }

    /// Adds a condition to the request for the rows that the caller is allowed to read, if this MLflow supports it; see
    /// [`push_down`].
    fn push_down(&self, filter: Filter, visible: &[Visibility], request: &mut ListRequest<'_, '_>) -> bool {
        let theirs = request.asked();
        if filter == Filter::Skills {
            let Some(only) = push_down::identities(&theirs.identities, visible) else { return false };
            request.set_identities(&only);
        } else {
            let Some(condition) = push_down::condition(filter, self.upstream.version(), visible) else { return false };
            let Some(both) = push_down::conjunction(theirs.filter.as_deref(), &condition) else { return false };
            request.set_filter(Some(&both));
        }
        // A query is part of the head, whose size MLflow's server limits. Its limits for bodies are much larger.
        let fits = request.body.is_some() || push_down::head_fits(&request.target(), &request.headers);
        if !fits {
            request.ask(&theirs);
        }
        fits
    }

    fn answer(&self, who: &Identity, filter: Filter, rows: &[Box<RawValue>], next: Option<&Position>) -> ListAnswer {
        let size: usize = rows.iter().map(|row| row.get().len() + 1).sum();
        let mut out = String::with_capacity(size + 1024);
        let mut separator = "{";
        let mut member = |out: &mut String, key: &str, value: &[&str]| {
            for text in [std::mem::replace(&mut separator, ","), "\"", key, "\":"].iter().chain(value) {
                out.push_str(text);
            }
        };
        // protobuf's JSON omits an empty list. The other APIs of MLflow return `[]`.
        if !rows.is_empty() || filter.shape().dialect != ListDialect::Protobuf {
            member(&mut out, filter.shape().key, &["["]);
            for (index, row) in rows.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(row.get());
            }
            out.push(']');
        }
        if let Some(position) = next {
            let plain = serde_json::to_vec(position).unwrap_or_default();
            // URL-safe text needs no escapes.
            member(
                &mut out,
                "next_page_token",
                &["\"", &self.sealer.seal(filter.shape().key, who.user.0, &plain), "\""],
            );
        } else if filter.shape().dialect == ListDialect::Paged {
            member(&mut out, "next_page_token", &["null"]);
        }
        if filter.shape().dialect == ListDialect::OpenAi {
            member(&mut out, "object", &["\"list\""]);
        }
        out.push_str(if separator == "{" { "{}" } else { "}" });
        ListAnswer { status: StatusCode::OK, body: Bytes::from(out) }
    }

    async fn fetch(
        &self,
        permit: &mut Option<Permit>,
        request: &mut ListRequest<'_, '_>,
        limit: usize,
        kept: usize,
    ) -> Result<ListAnswer, ListError> {
        let outgoing = request.outgoing();
        let response = match permit.take() {
            Some(permit) => self.upstream.forward(permit, outgoing).await?,
            None => self.upstream.refill(outgoing).await?,
        };
        let status = response.status();
        // The kept rows are copied once more into the response.
        let beside = kept.saturating_mul(2);
        let body = read_answer(response.into_body(), limit, beside, &mut request.share).await;
        let body = body.map_err(|error| match error {
            AnswerError::Read(error) => ListError::Upstream(error.into()),
            AnswerError::NoRoom(full) => ListError::NoRoom(full),
        })?;
        Ok(ListAnswer { status, body })
    }

    async fn readable(
        &self,
        who: &Identity,
        default_permission: DefaultPermission,
        filter: Filter,
        row: &RawValue,
        kinds: &mut NameKinds,
    ) -> Result<bool, ListError> {
        let read = |resource: &Resource| may(who, default_permission, Permission::Read, resource);
        match filter {
            Filter::Experiments => Ok(read(&parse_row::<ExperimentRow>(row)?.into())),
            Filter::RegisteredModels => Ok(read(&parse_row::<RegisteredModel>(row)?.resource())),
            Filter::ModelVersions => {
                let row: NamedRow = parse_row(row)?;
                if let Some(known) = versions_readable(who, default_permission, &row.name) {
                    return Ok(known);
                }
                // Only names on which the caller holds a grant occur here, so the cost depends on the number of readable rows.
                if let Some(known) = kinds.0.get(&row.name) {
                    return Ok(*known);
                }
                let readable = match self.resolver.model(&row.name).await {
                    Ok(resource) => {
                        holds(who, default_permission, &Requirement::version(Permission::Read, resource)).is_ok()
                    }
                    // Deleted since MLflow listed it.
                    Err(resolve::Error::NoSuchName(_)) => false,
                    Err(error) => return Err(error.into()),
                };
                kinds.0.insert(row.name, readable);
                Ok(readable)
            }
            Filter::Scorers => {
                let row: ScorerRow = parse_row(row)?;
                let experiment = Resource::new(ResourceKind::Experiment, row.experiment_id());
                let in_experiment = read(&self.named(who, experiment).await?);
                Ok(in_experiment && read(&row.resource()))
            }
            Filter::ReviewQueues => {
                let row: ReviewQueue = parse_row(row)?;
                let resource = self.named(who, row.experiment()).await?;
                let tier = Some(ResourceKind::ReviewQueue);
                let member = holds(who, default_permission, &Requirement::OneOf(row.users)).is_ok();
                // A member of a queue needs READ on the queues of the experiment, any other user EDIT.
                let permission = if member { Permission::Read } else { Permission::Edit };
                let requirement = Requirement::Level { permission, resource, tier };
                Ok(holds(who, default_permission, &requirement).is_ok())
            }
            Filter::Secrets => Ok(read(&parse_row::<SecretRow>(row)?.into())),
            Filter::Endpoints => Ok(read(&parse_row::<EndpointRow>(row)?.into())),
            Filter::ModelDefinitions => Ok(read(&parse_row::<DefinitionRow>(row)?.into())),
            Filter::EndpointModels => {
                let row: EndpointModelRow = parse_row(row)?;
                let Some(id) = self.resolver.recent_endpoint(&row.id).await? else { return Ok(false) };
                let endpoint = Resource::new(ResourceKind::GatewayEndpoint, &*id);
                Ok(may(who, default_permission, Permission::Use, &endpoint))
            }
            Filter::McpServers => Ok(read(&Resource::new(ResourceKind::McpServer, parse_row::<NamedRow>(row)?.name))),
            Filter::McpEndpoints => Ok(read(&parse_row::<McpEndpointRow>(row)?.into())),
            Filter::Skills => Ok(read(&parse_row::<SkillRow>(row)?.into())),
            Filter::Jobs => Ok(read(&parse_row::<JobRow>(row)?.into())),
        }
    }
}

impl Lists {
    /// Looks up at once what the rows of a page would require one by one.
    async fn prefetch<'a>(
        &self,
        who: &Identity,
        default_permission: DefaultPermission,
        filter: Filter,
        rows: impl Iterator<Item = &'a &'a RawValue>,
        kinds: &mut NameKinds,
    ) -> Result<(), ListError> {
        match filter {
            Filter::ModelVersions => {
                let mut names = BTreeSet::new();
                for row in rows {
                    let row: NamedRow = parse_row(row)?;
                    if !kinds.0.contains_key(&row.name)
                        && versions_readable(who, default_permission, &row.name).is_none()
                    {
                        names.insert(row.name);
                    }
                }
                for (name, resource) in Box::pin(self.resolver.models(&names)).await? {
                    let read =
                        holds(who, default_permission, &Requirement::version(Permission::Read, resource)).is_ok();
                    kinds.0.insert(name, read);
                }
            }
            Filter::Scorers if who.needs_names() => {
                let mut experiments = Vec::new();
                for row in rows {
                    experiments.push(parse_row::<ScorerRow>(row)?.experiment_id());
                }
                self.resolver.prefetch_names(experiments.iter().map(String::as_str)).await;
            }
            Filter::EndpointModels => {
                let mut names = Vec::new();
                for row in rows {
                    names.push(parse_row::<EndpointModelRow>(row)?.id);
                }
                self.resolver.prefetch_endpoints(names.iter().map(String::as_str)).await;
            }
            Filter::Experiments
            | Filter::RegisteredModels
            | Filter::Scorers
            | Filter::ReviewQueues
            | Filter::Secrets
            | Filter::Endpoints
            | Filter::ModelDefinitions
            | Filter::McpServers
            | Filter::McpEndpoints
            | Filter::Skills
            | Filter::Jobs => {}
        }
        Ok(())
    }

    /// Adds the name to an experiment, for callers whose globs require it.
    async fn named(&self, who: &Identity, mut experiment: Resource) -> Result<Resource, ListError> {
        if who.needs_names() {
            self.resolver.name(&mut experiment).await?;
        }
        Ok(experiment)
    }
}

/// Returns true if the versions of this name are readable, regardless of whether it is a model or a prompt; `None` if the kind
/// matters.
fn versions_readable(who: &Identity, default_permission: DefaultPermission, name: &str) -> Option<bool> {
    let read = |kind| {
        holds(who, default_permission, &Requirement::version(Permission::Read, Resource::new(kind, name))).is_ok()
    };
    let as_model = read(ResourceKind::RegisteredModel);
    (as_model == read(ResourceKind::Prompt)).then_some(as_model)
}

/// Returns the row in the form that `who` is allowed to read.
fn shown(
    who: &Identity,
    default_permission: DefaultPermission,
    filter: Filter,
    row: &RawValue,
) -> Result<Box<RawValue>, ListError> {
    let Some(kind) = filter.shape().actions else { return Ok(row.to_owned()) };
    let row = with_actions(who, default_permission, kind, row.get()).and_then(|row| RawValue::from_string(row).ok());
    row.ok_or(ListError::Upstream(upstream::Error::NotUnderstood))
}

/// Returns true if MLflow, or a server in front of it, refused the request.
fn refused(answer: &Result<ListAnswer, ListError>) -> bool {
    match answer {
        Ok(answer) => answer.status != StatusCode::OK,
        // A server that refuses the size of the head closes the connection.
        Err(ListError::Upstream(upstream::Error::Broken(_))) => true,
        Err(_) => false,
    }
}

/// The names that were already looked up for this page.
#[derive(Debug, Default)]
struct NameKinds(HashMap<String, bool>);

struct Page<'a> {
    rows: Vec<&'a RawValue>,
    next: Option<String>,
}

impl<'a> Page<'a> {
    fn parse(filter: Filter, bytes: &'a [u8]) -> Result<Self, ListError> {
        let mut members: HashMap<&'a str, &'a RawValue> = parse(bytes)?;
        let rows = match members.remove(filter.shape().key) {
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

fn parse_row<'a, T: Deserialize<'a>>(row: &'a RawValue) -> Result<T, ListError> {
    parse(row.get().as_bytes())
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ListError> {
    serde_json::from_slice(bytes).map_err(|_| ListError::Upstream(upstream::Error::NotUnderstood))
}

impl From<ReadError> for ListError {
    fn from(error: ReadError) -> Self {
        Self::Upstream(error.into())
    }
}
