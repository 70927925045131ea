//! The life of a request, one readable function.
//!
//! Start at [`Proxy::handle`]. Every step can say no; only the last two speak to MLflow.

mod error;
mod own;
mod record;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, header};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;
use url::Url;

pub use error::Error;
pub use record::Record;

use crate::authn::Authn;
use crate::authz::{Identity, Policy, Requirement, Resource, ResourceKind, Visibility, authorize, open_to_all};
use crate::config;
use crate::filter::{Effects, Happening, ListRequest, Lists};
use crate::http::{Body, CanonicalPath, Query, Request, Response, from_upstream, read_bounded, to_upstream};
use crate::mlflow::{
    Demand, Field, Filter, Found, Input, Json, Narrowed, Operation, Send, Table, Then, demands, locate, narrow,
    text_field,
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
    pub artifact_locations: Vec<String>,
    pub table: Table,
    pub authn: Arc<Authn>,
    pub resolver: Arc<Resolver>,
    pub upstream: Upstream,
    pub lists: Lists,
    pub effects: Effects,
    pub pages: Pages,
    pub telemetry: Arc<Telemetry>,
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
}

impl Proxy {
    /// The life of one request. Start reading here.
    pub async fn handle(&self, request: Request, peer: Peer, edge: Option<EdgeRefusal>) -> Response {
        let (head, body) = request.into_parts();
        let mut record = Record::start(Arc::clone(&self.telemetry), &head, peer);
        let mut body = Some(body);
        let answer = match self.run(head, &mut body, peer, edge, &mut record).await {
            Ok(response) => response,
            Err(error) => {
                self.discard(body);
                error.into_response(&mut record)
            }
        };
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
        record: &mut Record,
    ) -> Result<Response, Error> {
        let checked = self.check(head, body, peer, edge, record)?;
        let path = checked.path.clone();
        let found = self.table.find(&checked.head.method, path.decoded());
        if let Found::Operation { operation, .. } = &found
            && operation.is_public()
        {
            record.operation(operation);
            return self.forward_public(checked, record).await;
        }
        let credential = checked.head.headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        let identity = match credential.and_then(|credential| self.authn.recent(credential)) {
            Some(identity) => {
                self.telemetry.metrics.identities.hits.inc();
                identity
            }
            None => {
                self.telemetry.metrics.identities.misses.inc();
                Box::pin(self.authn.authenticate(credential, checked.address)).await?
            }
        };
        record.identity(&identity);
        if Pages::owns(path.decoded()) {
            return Box::pin(self.answer_ourselves(checked, identity, record)).await;
        }
        match found {
            Found::Operation { operation, params } => {
                record.operation(operation);
                match operation.send {
                    Send::Query => self.forward_query(checked, &identity, operation, &params, record).await,
                    Send::Json => Box::pin(self.forward_json(checked, &identity, operation, &params, record)).await,
                    Send::Stream => Box::pin(self.forward_stream(checked, &identity, operation, &params, record)).await,
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
        head: http::request::Parts,
        body: &'b mut Option<Incoming>,
        peer: Peer,
        edge: Option<EdgeRefusal>,
        record: &mut Record,
    ) -> Result<Checked<'b>, Error> {
        if let Some(refusal) = edge {
            return Err(Error::Edge(refusal));
        }
        let has_body = body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body));
        crate::http::check(&head, has_body)?;
        if !self.answers_to(&head)? {
            return Err(Error::UnknownHost);
        }
        let address = crate::http::client_address(&head.headers, peer.address.ip(), &self.server.trusted_proxies);
        record.address(address);
        let target = head.uri.path_and_query().ok_or(crate::http::HeadError::Target)?;
        let path = CanonicalPath::parse(target)?;
        let query = Query::parse(target.query().unwrap_or_default())?;
        self.check_origin(&head)?;
        Ok(Checked { head, body, path, query, address })
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

    /// Health, version of the API, static files: nobody has to sign in.
    async fn forward_public(&self, mut checked: Checked<'_>, record: &mut Record) -> Result<Response, Error> {
        let query = std::mem::take(&mut checked.query);
        let outgoing = self.outgoing(&mut checked, &query, Body::Empty);
        self.send(open_to_all(), outgoing, record).await
    }

    async fn forward_query(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        let input = Input { params, query: &mut query, body: None };
        let requirements = self.requirements(identity, operation, input).await?;
        let permit = authorize(identity, self.policy, &requirements)?;
        canonical_artifact_path(&mut checked, params)?;
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, None, record)).await;
        }
        let outgoing = self.outgoing(&mut checked, &query, Body::Empty);
        self.send(permit, outgoing, record).await
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
        let bytes = self.read_json(&mut checked, limit).await?;
        let mut body = if bytes.is_empty() { None } else { Some(Json::parse_object(&bytes)?) };
        // MLflow ignores the query of these routes; it is not sent.
        let mut query = Query::default();
        let input = Input { params, query: &mut query, body: body.as_mut() };
        let requirements = self.requirements(identity, operation, input).await?;
        let permit = authorize(identity, self.policy, &requirements)?;
        canonical_artifact_path(&mut checked, params)?;
        if let Some(field) = &operation.narrow
            && self.narrow(identity, field, body.as_mut())? == Narrowed::Nothing
        {
            return Ok(own::json(Lists::nothing().body));
        }
        if let Some(filter) = operation.filter {
            return Box::pin(self.list(checked, identity, permit, filter, query, body.as_mut(), record)).await;
        }
        let happening = happening(operation, body.as_mut())?;
        let outgoing = self.outgoing_json(&mut checked, body.as_ref());
        if let Some(happening) = happening {
            let done = self.effects.carry_out(identity, checked.address, permit, happening, outgoing).await?;
            record.upstream_answered();
            return Ok(self.whole(done.status, done.headers, done.body));
        }
        if operation.then == Some(Then::LearnRun) {
            return self.send_and_learn(permit, outgoing, record).await;
        }
        self.send(permit, outgoing, record).await
    }

    async fn forward_stream(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        operation: &Operation,
        params: &[(&str, &str)],
        record: &mut Record,
    ) -> Result<Response, Error> {
        let mut query = std::mem::take(&mut checked.query);
        let input = Input { params, query: &mut query, body: None };
        let requirements = self.requirements(identity, operation, input).await?;
        let permit = authorize(identity, self.policy, &requirements)?;
        canonical_artifact_path(&mut checked, params)?;
        let outgoing = self.outgoing_stream(&mut checked, &query);
        self.send(permit, outgoing, record).await
    }

    /// What the table does not know is for administrators, as it came.
    async fn forward_unlisted(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let reads = matches!(checked.head.method, Method::GET | Method::HEAD);
        let permit = authorize(identity, self.policy, &[Requirement::Admin { change: !reads }])?;
        if checked.path.decoded().contains('%') {
            return Err(crate::http::PathError::EncodedTwice.into());
        }
        let query = std::mem::take(&mut checked.query);
        let outgoing = if own::is_json(&checked.head.headers) {
            let bytes = self.read_json(&mut checked, usize::MAX).await?;
            let body = if bytes.is_empty() { None } else { Some(Json::parse_object(&bytes)?) };
            let mut outgoing = self.outgoing_json(&mut checked, body.as_ref());
            outgoing.target = target(&checked.path, &query);
            outgoing
        } else {
            self.outgoing_stream(&mut checked, &query)
        };
        self.send(permit, outgoing, record).await
    }

    /// Steps 7 and 8: every id the request names, and the resource each belongs to.
    async fn requirements(
        &self,
        identity: &Identity,
        operation: &Operation,
        mut input: Input<'_, '_>,
    ) -> Result<Vec<Requirement>, Error> {
        use crate::mlflow::Need;
        let located = locate(operation, &mut input)?;
        let demanded = demands(operation, input.body.as_deref_mut())?;
        if identity.admin && identity.limits.is_unlimited() {
            // Everything may be done; MLflow itself says what does not exist.
            return Ok(vec![Requirement::Admin { change: true }]);
        }
        let mut requirements = Vec::with_capacity(operation.needs.len() + demanded.len());
        for need in &operation.needs {
            match need {
                Need::Public | Need::SignedIn => requirements.push(Requirement::SignedIn),
                Need::Admin => requirements.push(Requirement::Admin { change: operation.send != Send::Query }),
                Need::Create(kind) => requirements.push(Requirement::Create(*kind)),
                Need::Level { .. } => {}
            }
        }
        for located in located {
            // An experiment's own id needs nobody's help.
            requirements.push(match Resolver::at_hand(located) {
                Ok(requirement) => requirement,
                Err(located) => Box::pin(self.resolver.requirement(located)).await?,
            });
        }
        for demand in demanded {
            Box::pin(self.demand(demand, &mut requirements)).await?;
        }
        Ok(requirements)
    }

    async fn demand(&self, demand: Demand, requirements: &mut Vec<Requirement>) -> Result<(), Error> {
        match demand {
            Demand::Located(located) => requirements.push(self.resolver.requirement(located).await?),
            Demand::Privileged(what) => requirements.push(Requirement::Privileged(what)),
            Demand::NameIsFree(name) => {
                for kind in [ResourceKind::RegisteredModel, ResourceKind::Prompt] {
                    requirements.push(Requirement::NotRefused(Resource::new(kind, name.as_str())));
                }
            }
            Demand::ArtifactLocation(location) => {
                let plain = !location.contains(['%', '\\', '?', '#']) && !location.split('/').any(|part| part == "..");
                let below = |prefix: &String| {
                    location
                        .strip_prefix(prefix.trim_end_matches('/'))
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                if !(plain && self.artifact_locations.iter().any(below)) {
                    requirements.push(Requirement::Privileged("choose this artifact location"));
                }
            }
            Demand::Inside { uri, run, model } => {
                if !self.resolver.is_inside(&uri, run.as_deref(), model.as_deref()).await? {
                    let what = "register a source outside the artifacts of the run or logged model that it names";
                    requirements.push(Requirement::Privileged(what));
                }
            }
        }
        Ok(())
    }

    fn narrow(&self, identity: &Identity, field: &Field, body: Option<&mut Json<'_>>) -> Result<Narrowed, Error> {
        if Visibility::of(identity, self.policy, ResourceKind::Experiment) == Visibility::All {
            return Ok(Narrowed::Some);
        }
        let Some(body) = body else { return Ok(Narrowed::Nothing) };
        let read = |id: &str| {
            let experiment = Resource::new(ResourceKind::Experiment, id);
            crate::authz::may(identity, self.policy, crate::authz::Permission::Read, &experiment)
        };
        Ok(narrow(field, body, read)?)
    }

    #[expect(clippy::too_many_arguments, reason = "one private step of the request's life")]
    async fn list(
        &self,
        mut checked: Checked<'_>,
        identity: &Identity,
        permit: crate::authz::Permit,
        filter: Filter,
        mut query: Query,
        body: Option<&mut Json<'_>>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let kinds: &[ResourceKind] = match filter {
            Filter::Experiments => &[ResourceKind::Experiment],
            Filter::RegisteredModels | Filter::ModelVersions => &[ResourceKind::RegisteredModel, ResourceKind::Prompt],
        };
        let visible: Vec<_> = kinds.iter().map(|kind| Visibility::of(identity, self.policy, *kind)).collect();
        if visible.iter().all(|visible| *visible == Visibility::All) {
            let outgoing = match &body {
                Some(body) => self.outgoing_json(&mut checked, Some(body)),
                None => self.outgoing(&mut checked, &query, Body::Empty),
            };
            return self.send(permit, outgoing, record).await;
        }
        if visible.iter().all(|visible| *visible == Visibility::Only(Vec::new())) {
            return Ok(own::json(Lists::nothing().body));
        }
        let headers = to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address);
        let (method, path) = (checked.head.method.clone(), checked.path.encoded().into_owned());
        let request = ListRequest { method, path, headers, query: &mut query, body };
        let answer = self.lists.page(identity, self.policy, permit, filter, request).await?;
        record.upstream_answered();
        let mut response = own::json(answer.body);
        *response.status_mut() = answer.status;
        Ok(response)
    }

    async fn send(
        &self,
        permit: crate::authz::Permit,
        outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<Response, Error> {
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        let (mut head, body) = response.into_parts();
        from_upstream(&mut head.headers, self.upstream.authority());
        Ok(Response::from_parts(head, Body::from(body)))
    }

    async fn send_and_learn(
        &self,
        permit: crate::authz::Permit,
        mut outgoing: Outgoing,
        record: &mut Record,
    ) -> Result<Response, Error> {
        outgoing.headers.remove(header::ACCEPT_ENCODING);
        let response = self.upstream.forward(permit, outgoing).await?;
        record.upstream_answered();
        let (head, body) = response.into_parts();
        let body = read_bounded(body, self.server.max_body_bytes).await.map_err(crate::upstream::Error::from)?;
        if head.status.is_success() {
            self.resolver.learn_run(&body).await;
        }
        Ok(self.whole(head.status, head.headers, body))
    }

    fn whole(&self, status: http::StatusCode, mut headers: http::HeaderMap, body: Bytes) -> Response {
        from_upstream(&mut headers, self.upstream.authority());
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    async fn read_json(&self, checked: &mut Checked<'_>, limit: usize) -> Result<Bytes, Error> {
        let limit = limit.min(self.server.max_body_bytes);
        own::check_json_head(&checked.head.headers)?;
        match checked.body.as_mut() {
            Some(body) => Ok(read_bounded(body, limit).await?),
            None => Ok(Bytes::new()),
        }
    }

    fn outgoing(&self, checked: &mut Checked<'_>, query: &Query, body: Body) -> Outgoing {
        Outgoing {
            method: checked.head.method.clone(),
            target: target(&checked.path, query),
            headers: to_upstream(std::mem::take(&mut checked.head.headers), self.upstream.host(), checked.address),
            body,
        }
    }

    fn outgoing_json(&self, checked: &mut Checked<'_>, body: Option<&Json<'_>>) -> Outgoing {
        let bytes = body.map(|body| Bytes::from(body.to_bytes())).unwrap_or_default();
        let mut outgoing = self.outgoing(checked, &Query::default(), Body::from(bytes.clone()));
        outgoing.headers.remove(header::CONTENT_TYPE);
        if body.is_some() {
            outgoing.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        // MLflow's Flask routes see a chunked body as empty.
        outgoing.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
        outgoing
    }

    fn outgoing_stream(&self, checked: &mut Checked<'_>, query: &Query) -> Outgoing {
        let about_the_body = [header::CONTENT_LENGTH, header::CONTENT_ENCODING].map(|name| {
            let value = checked.head.headers.get(&name).cloned();
            (name, value)
        });
        let mut outgoing = self.outgoing(checked, query, Body::Empty);
        for (name, value) in about_the_body {
            if let Some(value) = value {
                outgoing.headers.insert(name, value);
            }
        }
        outgoing.body = checked.body.take().map_or(Body::Empty, Body::from);
        outgoing
    }
}

fn target(path: &CanonicalPath, query: &Query) -> String {
    let mut target = path.encoded().into_owned();
    if !query.is_empty() {
        target.push('?');
        target.push_str(&query.encoded());
    }
    target
}

/// Artifact paths may come encoded twice; what is sent is the spelling that was authorised. All others must not.
fn canonical_artifact_path(checked: &mut Checked<'_>, params: &[(&str, &str)]) -> Result<(), Error> {
    use crate::mlflow::ArtifactPath;
    if !checked.path.decoded().contains('%') {
        return Ok(());
    }
    let Some((_, raw)) = params.iter().find(|(name, _)| *name == "artifact_path") else {
        return Err(crate::http::PathError::EncodedTwice.into());
    };
    let stable = ArtifactPath::parse(raw)?;
    let prefix = checked.path.decoded().strip_suffix(raw).unwrap_or_default().to_owned();
    checked.path = CanonicalPath::from_decoded(prefix + stable.as_str())?;
    Ok(())
}

fn happening(operation: &Operation, body: Option<&mut Json<'_>>) -> Result<Option<Happening>, Error> {
    let Some(then) = operation.then else { return Ok(None) };
    let mut empty = Json::Object(Vec::new());
    let body = body.unwrap_or(&mut empty);
    let mut field = |name: &str| {
        let missing = || crate::mlflow::LocateError::Missing(name.to_owned());
        text_field(body, name)?.ok_or_else(missing).map_err(Error::from)
    };
    Ok(Some(match then {
        Then::OwnExperiment => Happening::CreateExperiment { name: field("name")? },
        Then::OwnModel => Happening::CreateModel { name: field("name")? },
        Then::DropModel => Happening::DeleteModel { name: field("name")? },
        Then::RenameModel => Happening::RenameModel { from: field("name")?, to: field("new_name")? },
        Then::LearnRun => return Ok(None),
    }))
}

/// A JSON body that is no batch: names, tags, descriptions. MLflow repeats them in every list, so they must stay small.
const SMALL_BODY_BYTES: usize = 1024 * 1024;

/// Of a refused body, at most this much is read and thrown away.
const DISCARDED_BYTES: usize = 1024 * 1024 * 1024;
