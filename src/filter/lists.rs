//! Lists of which only readable rows are kept.
//!
//! MLflow pages before we filter, so a page is refilled from the next ones until it is full. Our page tokens are sealed:
//! MLflow's own would tell how many rows were hidden. Work per call is bounded; what is left comes with the next token.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::actions::with_actions;
use super::push_down;
use super::request::{Asked, ListRequest};
use crate::authz::{Identity, Permission, Permit, Policy, Requirement, Resource, ResourceKind, Visibility, holds, may};
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

/// Why a list could not be answered.
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
    /// Other answers take the memory.
    #[error("too many large answers are being filtered or sent")]
    NoRoom(Full),
    #[error(transparent)]
    Upstream(#[from] upstream::Error),
    #[error(transparent)]
    Resolve(#[from] resolve::Error),
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

/// How far a call has come, and how it goes on.
#[derive(Debug)]
struct Walk {
    position: Position,
    /// The next request is as the client sized it, so that MLflow's own complaints reach the client.
    as_asked: bool,
    /// What the client asked for, until MLflow has accepted it together with the condition.
    fallback: Option<Asked>,
    at_most: usize,
}

impl Walk {
    /// How many rows to ask for.
    fn size(&self, page: usize, wanted: Option<usize>, rows_wanted: usize) -> Option<usize> {
        if self.at_most < REFILL_ROWS {
            return Some(self.at_most);
        }
        if self.as_asked {
            return wanted;
        }
        let skip = self.position.skip;
        Some((rows_wanted.saturating_add(skip) << page.min(8)).clamp(1, REFILL_ROWS.max(skip + 1)))
    }

    /// Goes on without the condition when it may be what was refused: a gateway or a database has limits of its own.
    fn falls_back(&mut self, answer: &Result<ListAnswer, ListError>, request: &mut ListRequest<'_, '_>) -> bool {
        let Some(theirs) = self.fallback.take().filter(|_| refused(answer)) else { return false };
        request.ask(&theirs);
        self.position = Position::default();
        true
    }

    /// Returns true if fewer rows than these can be asked for, which is what comes next.
    fn asks_for_fewer(&mut self, asked: usize) -> bool {
        let asked = asked.min(self.at_most);
        self.at_most = (asked / 4).max(self.position.skip + 1);
        self.at_most < asked
    }
}

/// What one call may cost: rows looked at and requests to MLflow.
const MAX_ROWS: usize = 20_000;
const MAX_PAGES: usize = 30;
/// Rows asked for at once when refilling; MLflow's own limit for registered models.
const REFILL_ROWS: usize = 1000;
/// MLflow's page, and what is kept of all pages; less where the budget is small.
const PAGE_BYTES: usize = 64 * 1024 * 1024;

impl Lists {
    /// A filter that asks `upstream` and seals page tokens with `sealer`.
    #[must_use]
    pub fn new(upstream: Upstream, resolver: Arc<Resolver>, sealer: Sealer) -> Self {
        Self { upstream, resolver, sealer }
    }

    /// One page of what `who` may read. Its body holds its share of the budget until it is sent.
    ///
    /// # Errors
    /// A page token that is not ours, no memory, or MLflow does not answer.
    pub async fn page(
        &self,
        who: &Identity,
        policy: Policy,
        permit: Permit,
        filter: Filter,
        visible: &[Visibility],
        mut request: ListRequest<'_, '_>,
    ) -> Result<ListAnswer, ListError> {
        let ListAnswer { status, body } = self.gather(who, policy, permit, filter, visible, &mut request).await?;
        let body = request.share.keep(body).await.map_err(ListError::NoRoom)?;
        Ok(ListAnswer { status, body })
    }

    async fn gather(
        &self,
        who: &Identity,
        policy: Policy,
        permit: Permit,
        filter: Filter,
        visible: &[Visibility],
        request: &mut ListRequest<'_, '_>,
    ) -> Result<ListAnswer, ListError> {
        let wanted = request.max_results()?;
        let rows_wanted = wanted.unwrap_or(filter.shape().default_rows);
        let mut walk = self.begin(who, filter, visible, request)?;
        // Two of them fit into a share, so that a list that is read page by page does not wait for other requests.
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
                // Rows with very long texts: fewer of them at a time.
                Err(ListError::Upstream(upstream::Error::Unreadable(ReadError::TooLarge { .. }))) => {
                    if walk.asks_for_fewer(size.unwrap_or(rows_wanted)) {
                        continue;
                    }
                    // It is one row. What comes before it is answered; whoever goes on hears of it.
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
            walk.as_asked = false;
            walk.at_most = walk.at_most.saturating_mul(2).min(REFILL_ROWS);
            let fetched = Page::parse(filter, &answer.body)?;
            looked_at += fetched.rows.len();
            let skip = walk.position.skip;
            self.prefetch(who, policy, filter, fetched.rows.iter().skip(skip), &mut kinds).await?;
            for (index, row) in fetched.rows.into_iter().enumerate().skip(skip) {
                if !self.readable(who, policy, filter, row, &mut kinds).await? {
                    continue;
                }
                if rows.len() == rows_wanted || kept + row.get().len() > limit && !rows.is_empty() {
                    // One more is readable, so there is a next page, and it starts here.
                    walk.position.skip = index;
                    return Ok(self.answer(who, filter, &rows, Some(&walk.position)));
                }
                let row = shown(who, policy, filter, row)?;
                kept += row.get().len();
                rows.push(row);
            }
            let pushed = walk.position.pushed;
            match fetched.next {
                None => return Ok(self.answer(who, filter, &rows, None)),
                Some(next) => walk.position = Position { token: Some(next), skip: 0, pushed },
            }
            // MLflow gives a token when there are more of them, and nothing of it is hidden.
            if looked_at >= MAX_ROWS || pushed && rows.len() >= rows_wanted {
                break;
            }
        }
        Ok(self.answer(who, filter, &rows, Some(&walk.position)))
    }

    /// Where to start, and with which filter.
    fn begin(
        &self,
        who: &Identity,
        filter: Filter,
        visible: &[Visibility],
        request: &mut ListRequest<'_, '_>,
    ) -> Result<Walk, ListError> {
        let theirs = request.asked();
        let start = self.position(who, filter, request)?;
        let as_asked = start.as_ref().is_none_or(|position| position.pushed && position.skip == 0);
        let pushed = start.as_ref().is_none_or(|position| position.pushed);
        let pushed = pushed && self.push_down(filter, visible, request);
        let (position, fallback) = match start {
            Some(position) if position.pushed && !pushed => return Err(ListError::PageToken),
            Some(position) => (position, None),
            None => (Position { pushed, ..Position::default() }, pushed.then_some(theirs)),
        };
        Ok(Walk { position, as_asked, fallback, at_most: REFILL_ROWS })
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
        let opened = self.sealer.open(filter.shape().key, who.user.0, &sealed).ok_or(ListError::PageToken)?;
        serde_json::from_slice(&opened).map(Some).map_err(|_| ListError::PageToken)
    }

    /// Narrows the request to what may be read, where this MLflow can; see [`push_down`].
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
        // A query is a part of the head; MLflow's limits of a body are far away.
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
        // What is kept stands in the answer once more.
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
        policy: Policy,
        filter: Filter,
        row: &RawValue,
        kinds: &mut NameKinds,
    ) -> Result<bool, ListError> {
        let read = |resource: &Resource| may(who, policy, Permission::Read, resource);
        match filter {
            Filter::Experiments => Ok(read(&parse_row::<ExperimentRow>(row)?.into())),
            Filter::RegisteredModels => Ok(read(&parse_row::<RegisteredModel>(row)?.resource())),
            Filter::ModelVersions => {
                let row: NamedRow = parse_row(row)?;
                if let Some(known) = versions_readable(who, policy, &row.name) {
                    return Ok(known);
                }
                // Only names that the caller holds a grant on come here: the cost follows what they may read.
                if let Some(known) = kinds.0.get(&row.name) {
                    return Ok(*known);
                }
                let readable = match self.resolver.model(&row.name).await {
                    Ok(resource) => holds(who, policy, &Requirement::version(Permission::Read, resource)).is_ok(),
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
                let member = holds(who, policy, &Requirement::OneOf(row.users)).is_ok();
                let permission = if member { Permission::Read } else { Permission::Edit };
                let requirement = Requirement::Level { permission, resource, tier };
                Ok(holds(who, policy, &requirement).is_ok())
            }
            Filter::Secrets => Ok(read(&parse_row::<SecretRow>(row)?.into())),
            Filter::Endpoints => Ok(read(&parse_row::<EndpointRow>(row)?.into())),
            Filter::ModelDefinitions => Ok(read(&parse_row::<DefinitionRow>(row)?.into())),
            Filter::EndpointModels => {
                let row: EndpointModelRow = parse_row(row)?;
                let Some(id) = self.resolver.recent_endpoint(&row.id).await? else { return Ok(false) };
                let endpoint = Resource::new(ResourceKind::GatewayEndpoint, &*id);
                Ok(may(who, policy, Permission::Use, &endpoint))
            }
            Filter::McpServers => Ok(read(&Resource::new(ResourceKind::McpServer, parse_row::<NamedRow>(row)?.name))),
            Filter::McpEndpoints => Ok(read(&parse_row::<McpEndpointRow>(row)?.into())),
            Filter::Skills => Ok(read(&parse_row::<SkillRow>(row)?.into())),
            Filter::Jobs => Ok(read(&parse_row::<JobRow>(row)?.into())),
        }
    }
}

impl Lists {
    /// Looks up together what the rows of a page would be looked up for one by one.
    async fn prefetch<'a>(
        &self,
        who: &Identity,
        policy: Policy,
        filter: Filter,
        rows: impl Iterator<Item = &'a &'a RawValue>,
        kinds: &mut NameKinds,
    ) -> Result<(), ListError> {
        match filter {
            Filter::ModelVersions => {
                let mut names = BTreeSet::new();
                for row in rows {
                    let row: NamedRow = parse_row(row)?;
                    if !kinds.0.contains_key(&row.name) && versions_readable(who, policy, &row.name).is_none() {
                        names.insert(row.name);
                    }
                }
                for (name, resource) in Box::pin(self.resolver.models(&names)).await? {
                    let read = holds(who, policy, &Requirement::version(Permission::Read, resource)).is_ok();
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

    /// The experiment under its name, for those whose globs ask for it.
    async fn named(&self, who: &Identity, mut experiment: Resource) -> Result<Resource, ListError> {
        if who.needs_names() {
            self.resolver.name(&mut experiment).await?;
        }
        Ok(experiment)
    }
}

/// Returns true if the versions of this name are readable, whether it is a model or a prompt; `None` when that matters.
fn versions_readable(who: &Identity, policy: Policy, name: &str) -> Option<bool> {
    let read = |kind| holds(who, policy, &Requirement::version(Permission::Read, Resource::new(kind, name))).is_ok();
    let as_model = read(ResourceKind::RegisteredModel);
    (as_model == read(ResourceKind::Prompt)).then_some(as_model)
}

/// The row as `who` sees it.
fn shown(who: &Identity, policy: Policy, filter: Filter, row: &RawValue) -> Result<Box<RawValue>, ListError> {
    let Some(kind) = filter.shape().actions else { return Ok(row.to_owned()) };
    let row = with_actions(who, policy, kind, row.get()).and_then(|row| RawValue::from_string(row).ok());
    row.ok_or(ListError::Upstream(upstream::Error::NotUnderstood))
}

/// Returns true if MLflow did not answer a request with rows.
fn refused(answer: &Result<ListAnswer, ListError>) -> bool {
    match answer {
        Ok(answer) => answer.status != StatusCode::OK,
        // A server that finds the head too long closes the connection.
        Err(ListError::Upstream(upstream::Error::Broken(_))) => true,
        Err(_) => false,
    }
}

/// Names already looked up for this page.
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
