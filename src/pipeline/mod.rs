//! The life of a request, one readable function.
//!
//! Start at [`Proxy::handle`]. Every step can say no; only the last two speak to MLflow.

mod assessments;
mod bodies;
mod cors;
mod error;
mod gateway;
mod graphql;
mod narrow;
mod own;
mod record;
mod shadow;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use url::Url;

pub use bodies::Bodies;
use cors::Foreign;
pub use error::Error;
pub use record::Record;

use bodies::{BodyError, Held};

use crate::authn::{Authn, SESSION_COOKIE, Shown};
use crate::authz::{
    Denied, Identity, Permission, Permit, Policy, Requirement, Resource, ResourceKind, Scheme, Visibility, authorize,
    holds, may_any, open_to_all,
};
use crate::budget::{self, ANSWER_COST, AnswerError, Budget, Owner, Share};
use crate::config::{self, INSPECTION_COST, UnknownFields};
use crate::filter::{Done, Effects, Happening, ListRequest, Lists, with_actions, with_all_actions};
use crate::http::{Body, CanonicalPath, Query, Request, Response, from_upstream, keep_private, to_upstream};
use crate::mlflow::{
    Demand, Filter, Found, Input, Json, LocateError, Located, Narrowed, Need, Operation, QueuePart, Rule, Send, Table,
    Then, Thing, Unknown, canonical, demands, locate, names_a_version, new_skills, read_spans, scorer_key, sign,
    skill_key, text_field, unpacked_size,
};
use crate::pages::Pages;
use crate::resolve::Resolver;
use crate::server::{EdgeRefusal, Peer};
use crate::telemetry::Telemetry;
use crate::upstream::{Outgoing, Upstream};

/// Everything a request may touch. Built once in `app`, then only borrowed.
#[derive(Debug)]
pub struct Proxy {
    pub server: config::Server,
    pub policy: Policy,
    pub authz: config::Authz,
    /// Below which MLflow, and we in front of it, answer.
    pub static_prefix: String,
    pub table: Arc<Table>,
    pub authn: Arc<Authn>,
    pub resolver: Arc<Resolver>,
    pub upstream: Upstream,
    pub lists: Lists,
    pub effects: Effects,
    pub pages: Pages,
    pub telemetry: Arc<Telemetry>,
    /// Reads the bodies that are inspected.
    pub bodies: Bodies,
    /// The memory of MLflow's answers that are read whole.
    pub answers: Arc<Budget>,
    /// Tasks that nobody waits for.
    pub background: TaskTracker,
}

/// A request that passed the strict edge: one spelling, one host, one client address.
struct Checked<'b> {
    head: http::request::Parts,
    /// Still there when nobody needed it.
    body: &'b mut Option<Incoming>,
    path: CanonicalPath,
    query: Query,
    address: IpAddr,
    /// The caller's own key for a model provider, which the AI gateway passes on.
    provider_key: Option<HeaderValue>,
    /// `traceparent`, where the AI gateway may add spans to the trace that it names.
    parent_trace: Option<HeaderValue>,
}

impl Checked<'_> {
    fn has_body(&self) -> bool {
        self.body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body))
    }
}

impl Proxy {
    /// The life of one request. Start reading here.
    pub async fn handle(&self, request: Request, peer: Peer, edge: Option<EdgeRefusal>) -> Response {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let path = path.strip_prefix(self.static_prefix.as_str()).unwrap_or(path);
        let mut record = Record::start(Arc::clone(&self.telemetry), &head, path, peer);
        let foreign = Foreign::of(&self.server.cors, &head.headers, path);
        let mut body = Some(body);
        let mut answer = match self.run(head, &mut body, peer, edge, foreign.as_ref(), &mut record).await {
            Ok(response) => response,
            Err(error) => {
                if error.is_worth_reading_on() {
                    self.discard(body);
                }
                let page = error.page().filter(|_| record.is_navigation());
                let response = error.into_response(&self.pages.account_page(), &mut record);
                match page {
                    Some((heading, words)) => self.pages.show_refusal(response, heading, &words, record.is_signed_in()),
                    None => response,
                }
            }
        };
        if !record.is_public() {
            keep_private(answer.status(), answer.headers_mut());
        }
        if let Some(foreign) = foreign {
            foreign.allow(answer.headers_mut());
        }
        if !self.server.cors.origins.is_empty() {
            answer.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let answer = if record.is_head() { without_body(answer) } else { answer };
        record.finish(answer)
    }

    /// Many clients send their whole body before they read the answer: read on for a while, so that they get to see it.
    fn discard(&self, body: Option<Incoming>) {
        let Some(body) = body.filter(|body| !http_body::Body::is_end_stream(body)) else { return };
        let limit = self.server.head_timeout;
        self.background.spawn(tokio::time::timeout(limit, crate::http::discard(body, DISCARDED_BYTES)));
    }

    async fn run(
        &self,
        head: http::request::Parts,
        body: &mut Option<Incoming>,
        peer: Peer,
        edge: Option<EdgeRefusal>,
        foreign: Option<&Foreign>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut checked = self.check(head, body, peer, edge, foreign, record)?;
        if foreign.is_some() && cors::is_preflight(&checked.head) {
            return Ok(cors::preflight(&checked.head.headers));
        }
        let path = checked.path.clone();
        let found = self.table.find(&checked.head.method, path.decoded());
        if let Found::Operation { operation, .. } = &found
            && operation.is_public()
        {
            record.operation(operation);
            return self.forward_public(checked, operation, record).await;
        }
        if let Found::Operation { operation, .. } = &found
            && operation.provider_key
        {
            take_provider_key(&mut checked);
        }
        if Pages::is_public(path.decoded()) {
            return Box::pin(self.answer_visitor(checked, record)).await;
        }
        let mut shown = shown(&checked.head.headers);
        if foreign.is_some_and(|foreign| !foreign.credentials) {
            shown.session = None;
        }
        let identity = match self.authn.recent(shown) {
            Some(identity) => {
                self.telemetry.metrics.identities.hits.inc();
                identity
            }
            None => {
                self.telemetry.metrics.identities.misses.inc();
                let authenticated = Box::pin(self.authn.authenticate(shown, checked.address)).await;
                authenticated.map_err(|error| self.perhaps_sign_in(&checked, error, record))?
            }
        };
        record.identity(&identity);
        if matches!(identity.scheme, Scheme::Session(_)) {
            self.check_site(&checked.head, foreign)?;
        }
        if Pages::owns(path.decoded()) {
            return Box::pin(self.answer_ourselves(checked, identity, record)).await;
        }
        match found {
            Found::Operation { operation, params } => {
                record.operation(operation);
                if let Some(json) = operation.closed.filter(|_| self.is_closed(operation)) {
                    return Ok(own::json(Bytes::from_static(json.as_bytes())));
                }
                match operation.send {
                    Send::Query => self.forward_query(checked, &identity, operation, &params, record).await,
                    Send::Json => Box::pin(self.forward_json(checked, &identity, operation, &params, record)).await,
                    Send::Stream => Box::pin(self.forward_stream(checked, &identity, operation, &params, record)).await,
                    Send::Otlp => Box::pin(self.forward_spans(checked, &identity, operation, &params, record)).await,
                    Send::Graphql => Box::pin(self.forward_graphql(checked, &identity, record)).await,
                }
            }
            Found::OtherMethods(methods) => Err(Error::MethodNotAllowed(methods)),
            Found::Unlisted => {
                record.unlisted();
                Box::pin(self.forward_unlisted(checked, &identity, record)).await
            }
        }
    }

    /// Steps 1 to 3: whatever two parsers could read differently ends here.
    fn check<'b>(
        &self,
        mut head: http::request::Parts,
        body: &'b mut Option<Incoming>,
        peer: Peer,
        edge: Option<EdgeRefusal>,
        foreign: Option<&Foreign>,
        record: &mut Record,
    ) -> Result<Checked<'b>, Error> {
        if let Some(refusal) = edge {
            return Err(Error::Edge(refusal));
        }
        let has_body = body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body));
        crate::http::check(&mut head, has_body)?;
        if !self.answers_to(&head)? {
            return Err(Error::UnknownHost);
        }
        let address = crate::http::client_address(&head.headers, peer.address.ip(), &self.server.trusted_proxies);
        record.address(address);
        Self::one_workspace(&mut head)?;
        let target = head.uri.path_and_query().ok_or(crate::http::HeadError::Target)?;
        let path = if has_encoded_names(target.path(), &self.static_prefix) {
            CanonicalPath::parse_names(target)?
        } else if has_artifact(target.path(), &self.static_prefix) {
            CanonicalPath::parse_artifact(target)?
        } else {
            CanonicalPath::parse(target)?
        };
        let path = self.below_prefix(&head, path)?;
        let query = Query::parse(target.query().unwrap_or_default())?;
        match foreign {
            None => self.check_origin(&head)?,
            // Under a spelling that only decodes to one of them.
            Some(_) if cors::is_closed(path.decoded()) => return Err(Error::CrossOrigin),
            Some(_) => {}
        }
        Ok(Checked { head, body, path, query, address, provider_key: None, parent_trace: None })
    }

    /// Grants speak of the default workspace only; an MLflow without workspaces knows none.
    fn one_workspace(head: &mut http::request::Parts) -> Result<(), Error> {
        let default = |value: &HeaderValue| matches!(value.as_bytes().trim_ascii(), b"" | b"default");
        if !head.headers.get_all(WORKSPACE).iter().all(default) {
            return Err(Error::Workspace);
        }
        head.headers.remove(WORKSPACE);
        Ok(())
    }

    /// The path below MLflow's static prefix, where the proxy's own pages are, too. Those also keep the addresses that they
    /// have without a prefix: identity providers know them.
    fn below_prefix(&self, head: &http::request::Parts, path: CanonicalPath) -> Result<CanonicalPath, Error> {
        if self.static_prefix.is_empty() {
            return Ok(path);
        }
        match path.decoded().strip_prefix(self.static_prefix.as_str()) {
            Some(rest) if rest.starts_with('/') => return Ok(CanonicalPath::from_decoded(rest.to_owned())?),
            Some("") => {}
            Some(_) | None if path.decoded().starts_with("/auth/") => return Ok(path),
            Some(_) | None if path.decoded() == "/" => {}
            Some(_) | None => return Err(Error::OutsidePrefix(self.static_prefix.clone())),
        }
        // As MLflow, which answers only with the slash at the end.
        let query = head.uri.query().map_or_else(String::new, |query| format!("?{query}"));
        match HeaderValue::try_from(format!("{}/{query}", self.static_prefix)) {
            Ok(home) if matches!(head.method, Method::GET | Method::HEAD) => Err(Error::Moved(home)),
            Ok(_) | Err(_) => Err(Error::OutsidePrefix(self.static_prefix.clone())),
        }
    }

    /// Known by configuration, never by what the client says; without a public URL there is nothing to compare with.
    fn answers_to(&self, head: &http::request::Parts) -> Result<bool, Error> {
        let Some(public) = self.server.public_url.as_ref().and_then(Url::host_str) else { return Ok(true) };
        let host = crate::http::host(head)?;
        let ours = std::iter::once(public).chain(self.server.allowed_hosts.iter().map(String::as_str));
        let loopback = ["localhost", "127.0.0.1", "[::1]"];
        Ok(ours.chain(loopback).any(|ours| ours.eq_ignore_ascii_case(&host)))
    }

    /// A browser that remembers a password sends it along from any page; only our own pages may change things.
    fn check_origin(&self, head: &http::request::Parts) -> Result<(), Error> {
        if matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if matches!(site, Some(b"cross-site" | b"same-site")) {
            return Err(Error::CrossOrigin);
        }
        let Some(origin) = head.headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default();
        let ours =
            self.server.public_url.as_ref().is_some_and(|public| public.origin().ascii_serialization() == origin);
        // Host and port; browsers leave the scheme's own port out of both headers.
        let host = head.uri.authority().map(http::uri::Authority::as_str);
        let host = host.or_else(|| head.headers.get(header::HOST)?.to_str().ok());
        let same = origin
            .split_once("://")
            .is_some_and(|(_, origin)| host.is_some_and(|host| host.eq_ignore_ascii_case(origin)));
        if ours || same { Ok(()) } else { Err(Error::CrossOrigin) }
    }

    /// A browser sends its session along with whatever a page makes it send: only pages of ours may change things.
    ///
    /// Stricter than [`Proxy::check_origin`], which knows no scheme and believes what it does not know.
    fn check_site(&self, head: &http::request::Parts, foreign: Option<&Foreign>) -> Result<(), Error> {
        let credentials = foreign.is_some_and(|foreign| foreign.credentials);
        if credentials || matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS) {
            return Ok(());
        }
        let site = head.headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Error::CrossOrigin);
        }
        let (Some(origin), Some(public)) = (head.headers.get(header::ORIGIN), &self.server.public_url) else {
            return Ok(());
        };
        // Under the public name there is one origin; under another, such as this machine's, the host was compared already.
        let host = crate::http::host(head)?;
        let is_public = public.host_str().is_some_and(|public| public.eq_ignore_ascii_case(&host));
        let ours = origin.as_bytes() == public.origin().ascii_serialization().as_bytes();
        if ours || !is_public { Ok(()) } else { Err(Error::CrossOrigin) }
    }

    fn is_closed(&self, operation: &Operation) -> bool {
        let closed = |need: &Need| matches!(need, Need::Blocked(feature) if !self.authz.opened.contains(feature));
        operation.needs.iter().any(closed)
    }

    /// Health, version of the API, static files: nobody has to sign in.
    async fn forward_public(
        &self,
        mut checked: Checked<'_>,
        operation: &Operation,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        self.keep_known_fields(operation, &mut query, None)?;
        let outgoing = self.outgoing(&mut checked, &query, Body::Empty);
        record.public();
        // Callers who are not signed in must not take the places of those who are.
        let response = self.upstream.forward_at_once(open_to_all(), outgoing).await?;
        Ok(self.answered(response, record))
    }

    /// Rebuilds a request from the fields that MLflow has for this operation: what is left is what is authorised and sent.
    fn keep_known_fields(
        &self,
        operation: &Operation,
        query: &mut Query,
        body: Option<&[u8]>,
    ) -> Result<Option<String>, Error> {
        let mut unknown = Unknown::default();
        let size = body.map_or(0, <[u8]>::len);
        let body = bodies::aside(size, || self.table.rebuild(operation, query, body, &mut unknown))?;
        self.report_unknown(operation, &unknown)?;
        Ok(body)
    }

    /// Counts the fields that were removed, and refuses them where the configuration says so.
    fn report_unknown(&self, operation: &Operation, unknown: &Unknown) -> Result<(), Error> {
        let Some(first) = unknown.names().first() else { return Ok(()) };
        self.telemetry.unknown_fields(operation.name, unknown.count(), unknown.names());
        match self.authz.unknown_fields {
            UnknownFields::Drop => Ok(()),
            UnknownFields::Refuse => Err(LocateError::Unknown(first.clone()).into()),
        }
    }

    async fn forward_query(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        self.upstream.reachable(0).await?;
        let mut query = std::mem::take(&mut checked.query);
        if query.is_empty() && checked.has_body() {
            Box::pin(self.fold_body(&mut checked, identity, operation, &mut query)).await?;
        }
        self.keep_known_fields(operation, &mut query, None)?;
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: None };
        let permit = self.permit(identity, operation, input).await?;
        canonical_artifact_path(&mut checked, params)?;
        if let Some(narrow) = &operation.narrow
            && Box::pin(self.narrow(identity, narrow, &mut query, None)).await? == Narrowed::Nothing
        {
            return Ok(own::json(EMPTY));
        }
        let rewritten = operation.filter.is_some() || operation.hide.is_some() || operation.actions.is_some();
        if checked.head.method == Method::HEAD && rewritten {
            // MLflow's length would be that of the answer before anything is left out of it.
            checked.head.method = Method::GET;
        }
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, None, record)).await;
        }
        let outgoing = self.outgoing(&mut checked, &query, Body::Empty);
        if let Some(field) = operation.hide.as_deref().filter(|_| !identity.admin) {
            return self.send_and_rewrite(permit, outgoing, identity, record, |told| without(field, told)).await;
        }
        self.send_with_actions(permit, outgoing, identity, operation, record).await
    }

    /// Adds the fields of a GET's JSON body to its query, where MLflow reads them. The body itself is never sent.
    async fn fold_body(
        &self,
        checked: &mut Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        query: &mut Query,
    ) -> Result<(), Error> {
        let (schema, message) = (self.table.schema(), operation.fields.query);
        if !schema.is_read_from_bodies(message) {
            return Ok(());
        }
        // MLflow ignores the Content-Type of a GET.
        own::check_encoding(&checked.head.headers)?;
        let held = self.read(checked, Owner::User(identity.user), QUERY_BODY_BYTES).await?;
        if held.bytes.is_empty() {
            return Ok(());
        }
        let mut unknown = Unknown::default();
        schema.fold_into_query(message, &held.bytes, query, &mut unknown)?;
        self.report_unknown(operation, &unknown)
    }

    async fn forward_json(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let limit = if operation.large { usize::MAX } else { SMALL_BODY_BYTES };
        if checked.has_body() {
            self.could_be_allowed(identity, operation)?;
        }
        let held = self.read_json(&mut checked, identity, limit).await?;
        let Held { bytes, share: _share } = held;
        // With the body read, hyper notices a client that leaves, and what it wanted is not done any more.
        self.upstream.reachable(bytes.len()).await?;
        let mut query = std::mem::take(&mut checked.query);
        let text = self.keep_known_fields(operation, &mut query, (!bytes.is_empty()).then_some(&bytes))?;
        drop(bytes);
        let mut body = text.as_deref().map(Json::open).transpose()?;
        let turn = match operation.rule {
            Some(Rule::ProviderSecret | Rule::ProviderModel) => Some(self.effects.gateway_turn().await),
            Some(Rule::ArtifactLocation)
                if body.as_ref().is_some_and(|body| body.get("artifact_location").is_some()) =>
            {
                Some(self.effects.location_turn().await)
            }
            Some(_) | None => None,
        };
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: body.as_mut() };
        let permit = match self.permit(identity, operation, input).await {
            Err(Error::Locate(LocateError::Missing(_))) if operation.empty => return Ok(own::json(EMPTY)),
            decided => decided?,
        };
        canonical_artifact_path(&mut checked, params)?;
        checked.parent_trace = self.parent_trace(identity, operation, &checked.head.headers).await?;
        if let Some(narrow) = &operation.narrow
            && Box::pin(self.narrow(identity, narrow, &mut query, body.as_mut())).await? == Narrowed::Nothing
        {
            return Ok(own::json(EMPTY));
        }
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, body.as_mut(), record)).await;
        }
        if let (Some(Rule::TraceStays), Some(body)) = (operation.rule, body.as_mut()) {
            Box::pin(self.keep_own_assessments(identity, body)).await?;
        }
        if let (Some(Rule::PromptSource), Some(body)) = (operation.rule, body.as_mut()) {
            Box::pin(self.pin_prompt(identity, body)).await?;
        }
        if let (Some(author), Some(body), true) = (operation.author, body.as_mut(), self.authz.authorship) {
            bodies::aside(body.size(), || sign(author, body, &identity.name))?;
        }
        let mut happening = happening(operation, params, body.as_mut())?;
        if let Some(happening) = &mut happening {
            Box::pin(self.name_as_stored(happening)).await?;
        }
        let renamed = match operation.then {
            Some(Then::RenameExperiment) => {
                body.as_mut().map(|body| text_field(body, "experiment_id")).transpose()?.flatten()
            }
            Some(_) | None => None,
        };
        let rewritten = body.filter(|body| is_rewritten(operation, body, text.as_deref())).map(|body| written(&body));
        let bytes = rewritten.or_else(|| text.map(Bytes::from));
        let outgoing = self.outgoing_json(&mut checked, &query, bytes);
        // Before as well, because a look-up may come between MLflow's change and its answer.
        self.forget_changed(operation, renamed.as_deref()).await;
        let happening = happening.or_else(|| turn.as_ref().map(|_| Happening::Alone));
        let answer = match (happening, operation.then) {
            (Some(happening), _) => {
                let done = self.effects.carry_out(identity, checked.address, permit, happening, outgoing, turn).await;
                done.map_err(Error::from).and_then(|done| {
                    record.upstream_answered();
                    self.done(done, operation)
                })
            }
            (None, Some(then @ (Then::LearnRun | Then::LearnTrace))) => {
                self.send_and_learn(permit, outgoing, identity, then, record).await
            }
            (None, _) => self.send_with_actions(permit, outgoing, identity, operation, record).await,
        };
        self.forget_changed(operation, renamed.as_deref()).await;
        answer
    }

    /// Forgets what an operation changes, whether or not MLflow's answer says so: the answer may be lost.
    async fn forget_changed(&self, operation: &Operation, renamed_experiment: Option<&str>) {
        if operation.changes_versions() {
            self.resolver.forget_versions();
        }
        if operation.then == Some(Then::ForgetTraces) {
            self.resolver.forget_traces();
        }
        if let Some(id) = renamed_experiment {
            self.resolver.forget_experiment(id).await;
        }
    }

    /// A deletion or a renaming concerns the resource under the name that MLflow holds, not under the request's spelling.
    async fn name_as_stored(&self, happening: &mut Happening) -> Result<(), Error> {
        let (kind, key) = match happening {
            Happening::Delete { kind, key } => (*kind, key),
            Happening::RenameModel { from, .. } => (ResourceKind::RegisteredModel, from),
            Happening::Create { .. } | Happening::CreateQueue | Happening::CreateVersions { .. } | Happening::Alone => {
                return Ok(());
            }
        };
        *key = self.resolver.stored_key(kind, std::mem::take(key)).await?;
        Ok(())
    }

    async fn forward_stream(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        self.upstream.reachable(0).await?;
        let mut query = std::mem::take(&mut checked.query);
        self.keep_known_fields(operation, &mut query, None)?;
        let input = Input { params, headers: &checked.head.headers, query: &mut query, body: None };
        let permit = self.permit(identity, operation, input).await?;
        canonical_artifact_path(&mut checked, params)?;
        checked.parent_trace = self.parent_trace(identity, operation, &checked.head.headers).await?;
        let happening = happening(operation, params, None)?;
        let outgoing = self.outgoing_stream(&mut checked, &query);
        let Some(happening) = happening else { return self.send(permit, outgoing, record).await };
        let done = self.effects.carry_out(identity, checked.address, permit, happening, outgoing, None).await?;
        record.upstream_answered();
        Ok(self.whole(done.status, done.headers, done.body))
    }

    /// Spans in OpenTelemetry's protocol. Every trace they go to is new or in the experiment that the header names.
    async fn forward_spans(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        self.upstream.reachable(0).await?;
        let mut query = Query::default();
        let headers = &checked.head.headers;
        let input = Input { params, headers, query: &mut query, body: None };
        let permit = self.permit(identity, operation, input).await.map_err(Error::in_spans)?;
        let limit = self.server.max_body_bytes;
        let Held { bytes: raw, mut share } = self.read(&mut checked, Owner::User(identity.user), limit).await?;
        let headers = &checked.head.headers;
        let text = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("not text"));
        let (content_type, encoding) = (text(header::CONTENT_TYPE), text(header::CONTENT_ENCODING));
        let mut unknown = Unknown::default();
        let schema = self.table.schema();
        let size = bodies::aside(raw.len(), || unpacked_size(encoding, &raw, limit))?;
        share.grow(size.saturating_mul(INSPECTION_COST)).await.map_err(BodyError::NoRoom)?;
        let read = || read_spans(schema, content_type, encoding, &raw, limit, &mut unknown);
        let spans = bodies::aside(size, read)?;
        drop(raw);
        self.report_unknown(operation, &unknown)?;
        let experiment = text(header::HeaderName::from_static("x-mlflow-experiment-id")).unwrap_or_default().to_owned();
        if !self.resolver.traces_fit(&spans.traces, &experiment).await? {
            return Err(Error::TraceElsewhere);
        }
        let length = spans.body.len();
        let mut outgoing = self.outgoing(&mut checked, &query, Body::from(Bytes::from(spans.body)));
        outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(spans.content_type));
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        let response = self.send(permit, outgoing, record).await?;
        if response.status().is_success() {
            self.resolver.learn_traces(spans.traces, &experiment).await;
        }
        Ok(response)
    }

    /// What the table does not know is refused, or for administrators where the configuration says so, as it came.
    async fn forward_unlisted(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        record: &mut Record,
    ) -> Result<Response, Error> {
        if !self.authz.unlisted_routes_for_admins {
            return Err(Error::UnknownRoute);
        }
        let reads = matches!(checked.head.method, Method::GET | Method::HEAD);
        let permit = authorize(identity, self.policy, &[Requirement::Admin { change: !reads }])?;
        self.upstream.reachable(0).await?;
        if checked.path.decoded().contains('%') {
            return Err(crate::http::PathError::EncodedTwice.into());
        }
        let query = std::mem::take(&mut checked.query);
        let outgoing = if !reads && own::is_json(&checked.head.headers) {
            let held = self.read_json(&mut checked, identity, usize::MAX).await?;
            let bytes = &held.bytes;
            let body = if bytes.is_empty() { None } else { Some(bodies::aside(bytes.len(), || canonical(bytes))?) };
            Self::as_json(self.outgoing(&mut checked, &query, Body::Empty), body.map(Bytes::from))
        } else {
            self.outgoing_stream(&mut checked, &query)
        };
        self.send(permit, outgoing, record).await
    }

    /// Steps 7 to 9: every id the request names, the resource each belongs to, and the decision.
    async fn permit(&self, identity: &Identity, operation: &Operation, input: Input<'_, '_>) -> Result<Permit, Error> {
        let params = input.params;
        let decided = self.decide_beside(identity, operation, input).await;
        // Names are no secret: the client registers a server when it hears that there is none.
        if let (Err(Error::Denied(_)), None) = (&decided, operation.then)
            && let Some((kind, name)) = named(operation, params)
            && !self.resolver.is_there(kind, &name).await?
        {
            let noun = kind.noun();
            return Err(crate::resolve::Error::NoSuchName(format!("{noun} '{name}' not found")).into());
        }
        decided
    }

    async fn decide(
        &self,
        identity: &Identity,
        operation: &Operation,
        mut input: Input<'_, '_>,
    ) -> Result<Permit, Error> {
        // Everything may be done; MLflow itself says what does not exist.
        let unlimited = identity.admin && identity.limits.is_unlimited();
        let size = input.body.as_deref().map_or(0, Json::size);
        let found = bodies::aside(size, || locate(operation, &mut input))?;
        if let Some(missing) = found.missing.filter(|_| !unlimited) {
            return Err(LocateError::Missing(missing).into());
        }
        let located = found.located;
        let demanded = bodies::aside(size, || demands(operation, &located, input.body.as_deref_mut()))?;
        let mut requirements = Requirements { identity, policy: self.policy, all: Vec::with_capacity(4) };
        for need in &operation.needs {
            if let Some(requirement) = self.requirement_of(need, operation)? {
                requirements.add(requirement)?;
            }
        }
        if unlimited {
            requirements.add(Requirement::Admin { change: true })?;
        } else {
            self.require_all(&mut requirements, located).await?;
        }
        for demand in demanded {
            if !unlimited || gateway::holds_for_everybody(&demand) {
                for requirement in Box::pin(self.demand(demand)).await? {
                    self.add(&mut requirements, requirement).await?;
                }
            }
        }
        Ok(authorize(identity, self.policy, &requirements.all)?)
    }

    /// Returns the requirement of a need that names no resource; `None` for one that does.
    ///
    /// # Errors
    /// The feature is closed.
    fn requirement_of(&self, need: &Need, operation: &Operation) -> Result<Option<Requirement>, Error> {
        Ok(Some(match need {
            Need::Public | Need::SignedIn => Requirement::SignedIn,
            Need::Admin => Requirement::Admin { change: operation.send != Send::Query },
            Need::Blocked(feature) if !self.authz.opened.contains(feature) => return Err(Error::Blocked(*feature)),
            Need::Blocked(_) => Requirement::Admin { change: true },
            Need::Create(kind) => Requirement::Create(*kind),
            Need::NotDenied(tier) => Requirement::NotDenied(*tier),
            Need::Tier(permission, tier) => Requirement::Tier { permission: *permission, tier: *tier },
            Need::Level { .. } => return Ok(None),
        }))
    }

    /// Refuses a request before its body is read if the caller holds nothing that the operation needs.
    ///
    /// Only what no body can change: all other requests are decided by [`Proxy::permit`], with the same answers as ever.
    fn could_be_allowed(&self, identity: &Identity, operation: &Operation) -> Result<(), Error> {
        // Under a shadow policy every request is decided twice, to its end.
        if identity.admin || identity.shadow.is_some() || operation.empty {
            return Ok(());
        }
        for need in &operation.needs {
            if let Some(requirement) = self.requirement_of(need, operation)? {
                holds(identity, self.policy, &requirement)?;
            } else if let Need::Level { permission, thing, field } = need
                && !field.optional
                && let Some((kinds, tier)) = thing.granted_by()
            {
                // With a grant on the tier, READ on the resource is enough.
                let least = if tier.is_some() { Permission::Read } else { *permission };
                if !kinds.iter().any(|kind| may_any(identity, self.policy, least, *kind)) {
                    let kind = kinds.first().copied().unwrap_or(ResourceKind::Experiment);
                    return Err(Denied::MissingTier { permission: *permission, tier: kind }.into());
                }
            }
        }
        Ok(())
    }

    /// Adds what the located things come to.
    async fn require_all(&self, requirements: &mut Requirements<'_>, located: Vec<Located>) -> Result<(), Error> {
        let identity = requirements.identity;
        let traces = located.iter().filter(|one| matches!(one.thing, Thing::Trace | Thing::AssessmentOf));
        if traces.clone().nth(1).is_some() {
            Box::pin(self.resolver.prefetch_traces(traces.map(|trace| trace.id.as_str()))).await;
        }
        if identity.needs_names() {
            let experiments = located.iter().filter(|one| one.is_experiment());
            Box::pin(self.resolver.prefetch_names(experiments.map(|one| one.id.as_str()))).await;
        }
        let refuses = identity.grants.refuses_any(ResourceKind::Scorer);
        for online in located.iter().filter(|one| refuses && one.thing == Thing::OnlineScorer) {
            // MLflow 3.18: as with evaluations, a refused scorer is not shown through its experiment.
            for scorer in Box::pin(self.resolver.scorers_of(&online.id)).await? {
                requirements.add(Requirement::NotRefused(scorer))?;
            }
        }
        for located in located {
            let read_file = located.thing == Thing::Artifact && located.permission == Permission::Read;
            let file = read_file.then(|| located.id.clone());
            match (self.require(requirements, located).await, file) {
                (Err(Error::Denied(denied)), Some(path)) => {
                    let version = Box::pin(self.version_with_file(identity, &path)).await?;
                    requirements.add(version.ok_or(Error::Denied(denied))?)?;
                }
                (done, _) => done?,
            }
        }
        Ok(())
    }

    /// Adds what a located thing comes to.
    async fn require(&self, requirements: &mut Requirements<'_>, located: Located) -> Result<(), Error> {
        // An experiment's own ID needs no look-up.
        match self.resolver.at_hand(located) {
            Ok(requirement) => self.add(requirements, requirement).await,
            Err(located) => {
                for requirement in Box::pin(self.resolver.requirements(located)).await? {
                    self.add(requirements, requirement).await?;
                }
                Ok(())
            }
        }
    }

    /// Returns a requirement that holds, when the file at this path is one of a model version that the caller may read.
    async fn version_with_file(&self, identity: &Identity, path: &str) -> Result<Option<Requirement>, Error> {
        let readable = |kind| Visibility::of(identity, self.policy, kind) != Visibility::Only(Vec::new());
        if ![ResourceKind::RegisteredModel, ResourceKind::Prompt].into_iter().any(readable) {
            return Ok(None);
        }
        for version in self.resolver.versions_near(path).await?.iter() {
            let resource = match self.resolver.model(&version.name).await {
                Ok(resource) => resource,
                Err(crate::resolve::Error::NoSuchName(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            let requirement = Requirement::version(Permission::Read, resource);
            let reads = holds(identity, self.policy, &requirement).is_ok();
            if reads && self.resolver.is_file_of(path, version).await? {
                return Ok(Some(requirement));
            }
        }
        Ok(None)
    }

    /// Adds one requirement, with the names that globs of the caller's ask for. Nobody else's request takes a look-up.
    async fn add(&self, requirements: &mut Requirements<'_>, mut requirement: Requirement) -> Result<(), Error> {
        if requirements.identity.needs_names() {
            Box::pin(self.name_all(&mut requirement)).await?;
        }
        requirements.add(requirement)
    }

    /// Says what the experiments are called that it is about.
    async fn name_all(&self, requirement: &mut Requirement) -> Result<(), Error> {
        for experiment in requirement.experiments_mut() {
            self.resolver.name(experiment).await?;
        }
        Ok(())
    }

    async fn demand(&self, demand: Demand) -> Result<Vec<Requirement>, Error> {
        Ok(match demand {
            Demand::Located(located) => self.resolver.requirements(located).await?,
            Demand::Privileged(what) => vec![Requirement::Privileged(what)],
            Demand::NewSkills(keys) => self.resolver.new_versions(ResourceKind::Skill, &keys).await?.requirements,
            Demand::NameIsFree { kind, name } => {
                let not_refused = |kind: &ResourceKind| Requirement::NotRefused(Resource::new(*kind, name.as_str()));
                kind.sharing_names().iter().map(not_refused).collect()
            }
            Demand::ExperimentName { renamed, name } => {
                let mut needed = vec![Requirement::NotRefused(Resource::experiment(name.as_str(), &name))];
                if let Some(id) = renamed
                    && self.authn.names_experiments().await?
                {
                    // The new name may open it to others, and to the caller.
                    let experiment = Resource::new(ResourceKind::Experiment, id);
                    needed.push(Requirement::level(Permission::Manage, experiment));
                }
                needed
            }
            Demand::ArtifactLocation(location) => {
                let plain = !location.contains(['%', '\\', '?', '#']) && !location.split('/').any(|part| part == "..");
                let below = |prefix: &String| {
                    location
                        .strip_prefix(prefix.trim_end_matches('/'))
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                if plain
                    && self.authz.artifact_locations.iter().any(below)
                    && self.resolver.is_location_free(&location).await?
                {
                    return Ok(Vec::new());
                }
                if gateway::connects(&location) {
                    self.authz.provider_hosts.check_public(&location)?;
                }
                vec![Requirement::Privileged("choose this artifact location")]
            }
            Demand::Inside { uri, run, model } => {
                if self.resolver.is_inside(&uri, run.as_deref(), model.as_deref()).await? {
                    return Ok(Vec::new());
                }
                if gateway::connects(&uri) {
                    self.authz.provider_hosts.check_public(&uri)?;
                }
                let what = "register a source outside the artifacts of the run or logged model that it names";
                vec![Requirement::Privileged(what)]
            }
            Demand::TraceIn { trace, experiment } => match self.resolver.experiment_of_trace(&trace).await? {
                Some(there) if *there != *experiment => return Err(Error::TraceElsewhere),
                Some(_) | None => Vec::new(),
            },
            Demand::NoUsersName(name) => {
                if self.authn.is_somebodys_name(&name).await? {
                    return Err(Error::UsersName);
                }
                Vec::new()
            }
            Demand::UsageExperiment { name, endpoint } => {
                let found = self.resolver.usage_experiment(name, endpoint.as_deref()).await?;
                found.map(|experiment| Requirement::level(Permission::Edit, experiment)).into_iter().collect()
            }
            Demand::Queue { queue, part } => self.part_in_queue(queue, part).await?,
            Demand::Address(_)
            | Demand::PublicAddress(_)
            | Demand::Endpoint(_)
            | Demand::Fetched { .. }
            | Demand::Secret { .. }
            | Demand::SecretChange { .. }
            | Demand::Definition { .. }
            | Demand::StoredScorer { .. }
            | Demand::PromptModel { .. }
            | Demand::PromptModelTag { .. }
            | Demand::NotOptimized(_)
            | Demand::Guardrail(_) => Box::pin(self.connection(demand)).await?,
        })
    }

    /// MANAGE on the experiment, or the caller's part in the queue (`mlflow.server.auth`, 3.17.2).
    async fn part_in_queue(&self, named: Located, part: QueuePart) -> Result<Vec<Requirement>, Error> {
        // Not there: the row's own need has said so.
        let Some(queue) = self.resolver.queue(named.thing, &named.id).await? else { return Ok(Vec::new()) };
        let on = |permission| {
            let (resource, tier) = (queue.experiment(), Some(ResourceKind::ReviewQueue));
            Requirement::Level { permission, resource, tier }
        };
        let member = || Requirement::OneOf(queue.users.clone());
        let owner = || vec![on(Permission::Edit), Requirement::OneOf(vec![queue.created_by.clone()])];
        let ways = match part {
            QueuePart::Reader => vec![vec![on(Permission::Manage)], vec![member()], owner()],
            QueuePart::Member => return Ok(vec![member()]),
            QueuePart::CustomOwner if queue.queue_type != "CUSTOM" => vec![vec![on(Permission::Manage)]],
            QueuePart::Owner | QueuePart::CustomOwner => vec![vec![on(Permission::Manage)], owner()],
        };
        Ok(vec![Requirement::Any(ways)])
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of the request's life")]
    async fn list(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        permit: Permit,
        filter: Filter,
        mut query: Query,
        body: Option<&mut Json<'_>>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let visible: Vec<_> = match filter.kinds() {
            Some(kinds) => kinds
                .iter()
                .map(|kind| match filter.tier(*kind) {
                    // Of what lies below them, none.
                    Some(tier) if holds(identity, self.policy, &Requirement::NotDenied(tier)).is_err() => {
                        Visibility::Only(Vec::new())
                    }
                    Some(_) | None => Visibility::of(identity, self.policy, *kind),
                })
                .collect(),
            None if identity.admin && identity.limits.is_unlimited() => vec![Visibility::All],
            None => vec![Visibility::PerRow],
        };
        let as_it_is = filter.actions().is_none() || identity.admin && identity.limits.is_unlimited();
        if as_it_is && visible.iter().all(|visible| *visible == Visibility::All) {
            let outgoing = match &body {
                Some(body) => self.outgoing_json(&mut checked, &query, Some(written(body))),
                None => self.outgoing(&mut checked, &query, Body::Empty),
            };
            return self.send(permit, outgoing, record).await;
        }
        if visible.iter().all(|visible| *visible == Visibility::Only(Vec::new())) {
            return Ok(own::json(self.lists.nothing(identity, filter).body));
        }
        let headers = to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address);
        let (method, path) = (checked.head.method.clone(), checked.path.encoded().into_owned());
        let share = Share::of(&self.answers, Owner::User(identity.user));
        let request = ListRequest { method, path, headers, query: &mut query, body, share };
        let answer = self.lists.page(identity, self.policy, permit, filter, &visible, request).await?;
        record.upstream_answered();
        let mut response = own::json(answer.body);
        *response.status_mut() = answer.status;
        Ok(response)
    }

    async fn send(&self, permit: Permit, outgoing: Outgoing, record: &mut Record) -> Result<Response, Error> {
        let response = self.upstream.forward(permit, outgoing).await?;
        Ok(self.answered(response, record))
    }

    fn answered(&self, response: http::Response<Incoming>, record: &mut Record) -> Response {
        record.upstream_answered();
        let (mut head, body) = response.into_parts();
        from_upstream(&mut head.headers, self.upstream.authority());
        Response::from_parts(head, Body::from(body))
    }

    /// Sends. What MLflow says of an MCP server or a skill gets what the caller may do with it.
    async fn send_with_actions(
        &self,
        permit: Permit,
        outgoing: Outgoing,
        identity: &Identity,
        operation: &Operation,
        record: &mut Record,
    ) -> Result<Response, Error> {
        match operation.actions.filter(|_| !(identity.admin && identity.limits.is_unlimited())) {
            Some(kind) => {
                let rewrite = |told: &str| with_actions(identity, self.policy, kind, told);
                self.send_and_rewrite(permit, outgoing, identity, record, rewrite).await
            }
            None => self.send(permit, outgoing, record).await,
        }
    }

    /// Sends, and changes the JSON of MLflow's success.
    async fn send_and_rewrite(
        &self,
        permit: Permit,
        mut outgoing: Outgoing,
        identity: &Identity,
        record: &mut Record,
        rewrite: impl FnOnce(&str) -> Option<String>,
    ) -> Result<Response, Error> {
        outgoing.headers.remove(header::ACCEPT_ENCODING);
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        let (mut head, body) = response.into_parts();
        let (mut body, share) = self.read_answer(identity, body, self.server.max_body_bytes).await?;
        if head.status.is_success() {
            body = rewritten(&body, rewrite)?;
            head.headers.remove(header::CONTENT_LENGTH);
        }
        Ok(self.whole(head.status, head.headers, share.keep(body)))
    }

    /// The answer to a change that was carried out. Its creator may do everything with what is new.
    fn done(&self, done: Done, operation: &Operation) -> Result<Response, Error> {
        let Done { status, mut headers, mut body } = done;
        if operation.actions.is_some() && status.is_success() {
            body = rewritten(&body, with_all_actions)?;
            headers.remove(header::CONTENT_LENGTH);
        }
        Ok(self.whole(status, headers, body))
    }

    async fn send_and_learn(
        &self,
        permit: Permit,
        mut outgoing: Outgoing,
        identity: &Identity,
        then: Then,
        record: &mut Record,
    ) -> Result<Response, Error> {
        outgoing.headers.remove(header::ACCEPT_ENCODING);
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        let (head, body) = response.into_parts();
        let (body, share) = self.read_answer(identity, body, self.server.max_body_bytes).await?;
        if head.status.is_success() {
            if then == Then::LearnTrace {
                self.resolver.learn_trace(&body).await;
            } else {
                self.resolver.learn_run(&body).await;
            }
        }
        Ok(self.whole(head.status, head.headers, share.keep(body)))
    }

    fn whole(&self, status: http::StatusCode, mut headers: http::HeaderMap, body: Bytes) -> Response {
        from_upstream(&mut headers, self.upstream.authority());
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    /// Reads an answer of MLflow whole, in the caller's share of the memory for answers.
    async fn read_answer(&self, identity: &Identity, body: Incoming, limit: usize) -> Result<(Bytes, Share), Error> {
        let mut share = Share::of(&self.answers, Owner::User(identity.user));
        let limit = limit.min(share.most() / ANSWER_COST);
        match budget::read_answer(body, limit, 0, &mut share).await {
            Ok(bytes) => Ok((bytes, share)),
            Err(AnswerError::Read(error)) => Err(crate::upstream::Error::from(error).into()),
            Err(AnswerError::NoRoom(full)) => Err(BodyError::NoRoom(full).into()),
        }
    }

    async fn read_json(&self, checked: &mut Checked<'_>, identity: &Identity, limit: usize) -> Result<Held, Error> {
        own::check_json_head(&checked.head.headers)?;
        self.read(checked, Owner::User(identity.user), limit.min(self.server.max_body_bytes)).await
    }

    /// Reads the body of a request into memory. A body that was not read before stays where it is.
    async fn read(&self, checked: &mut Checked<'_>, owner: Owner, limit: usize) -> Result<Held, Error> {
        Ok(self.bodies.read(checked.body.as_mut(), owner, limit).await?)
    }

    fn outgoing(&self, checked: &mut Checked<'_>, query: &Query, body: Body) -> Outgoing {
        let mut headers = to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address);
        if let Some(key) = checked.provider_key.take() {
            headers.insert(header::AUTHORIZATION, key);
        }
        if let Some(parent) = checked.parent_trace.take() {
            headers.insert(PARENT_TRACE, parent);
        }
        Outgoing { method: checked.head.method.clone(), target: target(&checked.path, query), headers, body }
    }

    fn outgoing_json(&self, checked: &mut Checked<'_>, query: &Query, body: Option<Bytes>) -> Outgoing {
        Self::as_json(self.outgoing(checked, query, Body::Empty), body)
    }

    fn as_json(mut outgoing: Outgoing, body: Option<Bytes>) -> Outgoing {
        outgoing.headers.remove(header::CONTENT_TYPE);
        if body.is_some() {
            outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = body.unwrap_or_default();
        // MLflow's Flask routes see a chunked body as empty.
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        outgoing.body = Body::from(bytes);
        outgoing
    }

    fn outgoing_stream(&self, checked: &mut Checked<'_>, query: &Query) -> Outgoing {
        let about_the_body = [header::CONTENT_LENGTH, header::CONTENT_ENCODING].map(|name| {
            let value = checked.head.headers.get(&name).cloned();
            (name, value)
        });
        let mut outgoing = self.outgoing(checked, query, Body::Empty);
        if checked.head.method == Method::GET {
            return outgoing;
        }
        for (name, value) in about_the_body {
            if let Some(value) = value {
                outgoing.headers.insert(name, value);
            }
        }
        outgoing.body = checked.body.take().map_or(Body::Empty, |body| self.bodies.streamed(body));
        outgoing
    }
}

/// Returns true if a body must be written again; otherwise `text`, which it was opened from, is sent as it is.
fn is_rewritten(operation: &Operation, body: &Json<'_>, text: Option<&str>) -> bool {
    debug_assert!(operation.rewrites_body() || text == Some(&body.to_text()), "{} changes its body", operation.name);
    operation.rewrites_body()
}

fn written(body: &Json<'_>) -> Bytes {
    bodies::aside(body.size(), || Bytes::from(body.to_bytes()))
}

/// Replaces a body in memory by its length. hyper sends a body that it is given also to HEAD, on HTTP/2.
fn without_body(mut response: Response) -> Response {
    if let Body::Full { bytes: Some(bytes) } = response.body() {
        let length = HeaderValue::from(bytes.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    *response.body_mut() = Body::Empty;
    response
}

/// The JSON of MLflow's answer after `rewrite`.
///
/// # Errors
/// It is not what its API promises.
fn rewritten(body: &[u8], rewrite: impl FnOnce(&str) -> Option<String>) -> Result<Bytes, Error> {
    let told = std::str::from_utf8(body).ok().and_then(rewrite);
    Ok(told.ok_or(crate::upstream::Error::NotUnderstood)?.into())
}

fn without(field: &str, told: &str) -> Option<String> {
    let mut told: serde_json::Map<String, serde_json::Value> = serde_json::from_str(told).ok()?;
    told.remove(field);
    Some(serde_json::Value::Object(told).to_string())
}

fn target(path: &CanonicalPath, query: &Query) -> String {
    let mut target = path.encoded().into_owned();
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query.encoded());
    }
    target
}

/// Artifact paths may come in a spelling that MLflow reads as another one; what is sent is what was authorised. All others
/// must come decoded.
fn canonical_artifact_path(checked: &mut Checked<'_>, params: &[(&str, &str)]) -> Result<(), Error> {
    use crate::mlflow::ArtifactPath;
    let Some((_, raw)) = params.iter().find(|(name, _)| *name == "artifact_path") else {
        let twice = checked.path.decoded().contains('%');
        return if twice { Err(crate::http::PathError::EncodedTwice.into()) } else { Ok(()) };
    };
    let stable = ArtifactPath::parse(raw)?;
    if stable.as_str() == *raw {
        return Ok(());
    }
    let prefix = checked.path.decoded().strip_suffix(raw).unwrap_or_default().to_owned();
    checked.path = CanonicalPath::from_decoded(prefix + stable.as_str())?;
    Ok(())
}

/// Requirements in the order in which they are found, none of them after one that does not hold: a refusal must not cost
/// the look-ups for the rest.
struct Requirements<'r> {
    identity: &'r Identity,
    policy: Policy,
    all: Vec<Requirement>,
}

impl Requirements<'_> {
    fn add(&mut self, requirement: Requirement) -> Result<(), Error> {
        holds(self.identity, self.policy, &requirement)?;
        self.all.push(requirement);
        Ok(())
    }
}

/// Where MLflow's AI gateway passes `Authorization` on to the provider, the credential for the proxy may stand in
/// `X-MLflow-Authorization` (as with MLflow's own auth, 3.9 on). Then `Authorization` is not ours.
fn take_provider_key(checked: &mut Checked<'_>) {
    let Some(credential) = checked.head.headers.remove("x-mlflow-authorization") else { return };
    checked.provider_key = checked.head.headers.insert(header::AUTHORIZATION, credential);
}

fn happening(
    operation: &Operation,
    params: &[(&str, &str)],
    body: Option<&mut Json<'_>>,
) -> Result<Option<Happening>, Error> {
    let Some(then) = operation.then else { return Ok(None) };
    let mut empty = Json::Object(Vec::new());
    let body = body.unwrap_or(&mut empty);
    let mut field = |name: &str| {
        let in_path = params.iter().find(|(param, _)| *param == name).map(|(_, value)| (*value).to_owned());
        let missing = || LocateError::Missing(name.to_owned());
        in_path.map_or_else(|| text_field(body, name)?.ok_or_else(missing), Ok).map_err(Error::from)
    };
    Ok(Some(match then {
        Then::Own(kind) => {
            let name = match kind {
                ResourceKind::GatewaySecret => field("secret_name")?,
                ResourceKind::Scorer => scorer_key(&field("experiment_id")?, &field("name")?),
                ResourceKind::Job => String::new(),
                ResourceKind::Skill => skill_key(&field("organization").unwrap_or_default(), &field("name")?),
                _ => field("name")?,
            };
            Happening::Create { kind, name }
        }
        Then::Drop(kind) => {
            let key = match kind {
                ResourceKind::Scorer => scorer_key(&field("experiment_id")?, &field("name")?),
                ResourceKind::GatewaySecret => field("secret_id")?,
                ResourceKind::GatewayEndpoint => field("endpoint_id")?,
                ResourceKind::GatewayModelDefinition => field("model_definition_id")?,
                ResourceKind::McpServer => format!("{}/{}", field("namespace")?, field("slug")?),
                ResourceKind::Skill => skill_key(&field("organization").unwrap_or_default(), &field("name")?),
                _ => field("name")?,
            };
            if kind == ResourceKind::Scorer && names_a_version(body) {
                return Ok(None);
            }
            Happening::Delete { kind, key }
        }
        Then::RenameModel => Happening::RenameModel { from: field("name")?, to: field("new_name")? },
        Then::OwnQueue => Happening::CreateQueue,
        Then::OwnNew(kind) => {
            let parents = match kind {
                ResourceKind::Skill if params.is_empty() => new_skills(body)?,
                ResourceKind::Skill => {
                    vec![skill_key(&field("organization").unwrap_or_default(), &field("name")?)]
                }
                _ => vec![format!("{}/{}", field("namespace")?, field("slug")?)],
            };
            Happening::CreateVersions { kind, parents }
        }
        Then::LearnRun | Then::LearnTrace | Then::RenameExperiment | Then::ForgetTraces => return Ok(None),
    }))
}

/// The MCP server or the skill that a path leads to.
fn named(operation: &Operation, params: &[(&str, &str)]) -> Option<(ResourceKind, String)> {
    let part = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
    let kinds = operation.needs.iter().filter_map(|need| match need {
        Need::Level { thing, .. } => Some(thing.belongs_to().0),
        _ => None,
    });
    kinds.into_iter().find_map(|kind| match kind {
        ResourceKind::McpServer => Some((kind, format!("{}/{}", part("namespace")?, part("slug")?))),
        ResourceKind::Skill => Some((kind, skill_key(part("organization").unwrap_or_default(), part("name")?))),
        _ => None,
    })
}

/// MLflow's client encodes the slash in the names of MCP servers and in the tags of skills, and MLflow reads it as any other.
fn has_encoded_names(path: &str, static_prefix: &str) -> bool {
    let path = path.strip_prefix(static_prefix).unwrap_or(path);
    ["/api", "/ajax-api"]
        .iter()
        .filter_map(|api| path.strip_prefix(api)?.strip_prefix("/3.0/mlflow/"))
        .any(|path| path.starts_with("mcp-servers/") || path.starts_with("skills/"))
}

/// The artifact proxy, where a path ends with a file's name.
fn has_artifact(path: &str, static_prefix: &str) -> bool {
    let path = path.strip_prefix(static_prefix).unwrap_or(path);
    ["/api", "/ajax-api"]
        .iter()
        .any(|api| path.strip_prefix(api).is_some_and(|path| path.starts_with("/2.0/mlflow-artifacts/")))
}

/// Nothing found, as protobuf writes it.
const EMPTY: Bytes = Bytes::from_static(b"{}");

const WORKSPACE: &str = "x-mlflow-workspace";

const PARENT_TRACE: &str = "traceparent";

/// The JSON body of a GET: its fields become a query, and MLflow's server reads at most 64 KiB of request line.
const QUERY_BODY_BYTES: usize = 16 * 1024;

/// A JSON body that is no batch: names, tags, descriptions. MLflow repeats them in every list, so they must stay small.
const SMALL_BODY_BYTES: usize = 1024 * 1024;

/// Of a refused body, at most this much is read and thrown away.
const DISCARDED_BYTES: usize = 1024 * 1024 * 1024;

/// What the request shows of who sends it.
fn shown(headers: &http::HeaderMap) -> Shown<'_> {
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    Shown { authorization, session: crate::http::only_cookie(headers, SESSION_COOKIE) }
}
