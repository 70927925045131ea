//! The life of a request in one readable function.
//!
//! Start at [`Proxy::handle`]. Every step can refuse the request; only the last two communicate with MLflow.

#![cfg_attr(not(test), warn(clippy::wildcard_enum_match_arm))]

mod asking;
mod assessments;
mod authorize;
mod bodies;
mod cors;
mod edge;
mod error;
mod forward;
mod gateway;
mod graphql;
mod narrow;
mod own;
mod places;
mod record;
mod send;
mod shadow;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use hyper::body::Incoming;
use tokio_util::task::TaskTracker;

use asking::Asking;
pub use bodies::Bodies;
use cors::Foreign;
pub use error::Error;
pub use places::Places;
pub use record::Record;

use crate::authn::{Authn, RawCredentials, SESSION_COOKIE};
use crate::authz::{DefaultPermission, Identity, Scheme};
use crate::budget::Budget;
use crate::config;
use crate::effects::Effects;
use crate::filter::Lists;
use crate::http::{Body, CanonicalPath, Query, Request, Response, keep_private};
use crate::mlflow::{BodyMode, Found, Table};
use crate::resolve::Resolver;
use crate::server::{EdgeRefusal, Peer};
use crate::telemetry::Telemetry;
use crate::upstream::{self, Caller as _, Upstream};
use crate::web::{Access, Web};

/// The state that requests use. Built once in `app`, then only borrowed.
#[derive(Debug)]
pub struct Proxy {
    pub server: config::Server,
    pub default_permission: DefaultPermission,
    pub authz: config::Authz,
    /// Path prefix under which MLflow, and the proxy in front of it, respond.
    pub static_prefix: String,
    pub table: Arc<Table>,
    pub authn: Arc<Authn>,
    pub resolver: Arc<Resolver>,
    pub upstream: Upstream,
    pub lists: Lists,
    pub effects: Effects,
    pub web: Web,
    pub telemetry: Arc<Telemetry>,
    /// The requests that each user has under way.
    pub places: Places,
    /// Reads the bodies that are inspected.
    pub bodies: Bodies,
    /// The memory for MLflow's responses that are read completely.
    pub answers: Arc<Budget>,
    /// Background tasks, which no request waits for.
    pub background: TaskTracker,
}

/// A request that passed the strict edge: one spelling, one host, one client address.
struct Checked<'b> {
    head: http::request::Parts,
    /// The body. It stays here while it is read, so that a refusal can discard the rest.
    body: &'b mut Option<Incoming>,
    path: CanonicalPath,
    query: Query,
    address: IpAddr,
    /// The caller's own key for a model provider, which the AI gateway forwards.
    provider_key: Option<HeaderValue>,
    /// The header `traceparent`, if the AI gateway is allowed to add spans to the trace in it.
    parent_trace: Option<HeaderValue>,
    /// The caller, after authentication.
    asking: Option<Arc<Asking>>,
}

impl Checked<'_> {
    fn has_body(&self) -> bool {
        self.body.as_ref().is_some_and(|body| !http_body::Body::is_end_stream(body))
    }

    /// Identifies the caller again if the request `waited`, or took long for another reason: the sender controls how long its
    /// body takes to arrive. Returns `None` if the identity is recent.
    async fn identified_again(&self, waited: bool) -> Result<Option<Arc<Identity>>, Error> {
        match &self.asking {
            Some(asking) if waited || !asking.is_recent() => Ok(Some(Box::pin(asking.identity()).await?)),
            Some(_) | None => Ok(None),
        }
    }
}

impl Proxy {
    /// Handles one request from its arrival to its response. Start reading here.
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
                let response = error.into_response(&self.web.pages(), &mut record);
                match page {
                    Some((heading, words)) => self.web.show_refusal(response, heading, &words, record.is_signed_in()),
                    None => response,
                }
            }
        };
        if !record.is_public() {
            keep_private(answer.status(), answer.headers_mut());
        }
        if let Some(foreign) = foreign {
            // Also on refusals: without these headers the script of the page can read neither status nor message.
            foreign.allow(answer.headers_mut());
        }
        // Also on answers to requests without `Origin`: a cache must not serve them to a listed origin without the
        // CORS headers.
        if !self.server.cors.origins.is_empty() {
            answer.headers_mut().append(header::VARY, HeaderValue::from_static("Origin"));
        }
        let answer = if record.is_head() { without_body(answer) } else { answer };
        record.finish(answer)
    }

    /// Reads and discards the rest of a body in the background, because many clients send their whole body before they read the
    /// response.
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
        // Browsers send preflights without credentials, so they are answered before authentication.
        if foreign.is_some() && cors::is_preflight(&checked.head) {
            return Ok(cors::preflight(&checked.head.headers));
        }
        let path = checked.path.clone();
        let found = self.table.find(&checked.head.method, path.decoded());
        if let Found::Operation { operation, .. } = &found
            && operation.is_public()
        {
            record.operation(operation);
            return self.forward_public(&mut checked, operation, record).await;
        }
        if let Found::Operation { operation, .. } = &found
            && operation.provider_key
        {
            // Before authentication, which reads the credential for the proxy from the header that this changes.
            take_provider_key(&mut checked);
        }
        let local = self.web.access(path.decoded());
        if local == Some(Access::Public) {
            return Box::pin(self.answer_visitor(checked, record)).await;
        }
        let identity = self.authenticate(&checked, foreign, record).await?;
        record.identity(&identity);
        // CSRF: browsers send the session cookie on their own, so only sessions need the check. Other credentials are
        // sent on purpose.
        if matches!(identity.scheme, Scheme::Session(_)) {
            self.check_site(&checked.head, foreign)?;
        }
        let asking =
            Arc::new(Asking::new(&self.authn, &checked.head.headers, checked.address, &identity, record.started()));
        checked.asking = Some(Arc::clone(&asking));
        if local.is_some() {
            return upstream::on_behalf(asking, Box::pin(self.answer_ourselves(checked, identity, record))).await;
        }
        // The record keeps the place until the answer has been sent completely.
        record.place(self.places.take(identity.user)?);
        upstream::on_behalf(asking, self.forward(&mut checked, identity, found, record)).await
    }

    /// Responds to an authenticated caller with MLflow's answer.
    async fn forward(
        &self,
        checked: &mut Checked<'_>,
        identity: Arc<Identity>,
        found: Found<'_, '_>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        match found {
            Found::Operation { operation, params } => {
                record.operation(operation);
                if let Some(json) = operation.closed.filter(|_| operation.blocked_by(&self.authz.opened).is_some()) {
                    return Ok(own::json(Bytes::from_static(json.as_bytes())));
                }
                let now = match operation.send {
                    BodyMode::Query | BodyMode::Stream | BodyMode::Otlp => self.after_wait(checked, 0).await?,
                    // Waits when its body has been read.
                    BodyMode::Json | BodyMode::Graphql => None,
                };
                let identity = now.unwrap_or(identity);
                match operation.send {
                    BodyMode::Query => self.forward_query(checked, &identity, operation, &params, record).await,
                    BodyMode::Json => Box::pin(self.forward_json(checked, &identity, operation, &params, record)).await,
                    BodyMode::Stream => {
                        Box::pin(self.forward_stream(checked, &identity, operation, &params, record)).await
                    }
                    BodyMode::Otlp => {
                        Box::pin(self.forward_spans(checked, &identity, operation, &params, record)).await
                    }
                    BodyMode::Graphql => Box::pin(self.forward_graphql(checked, &identity, record)).await,
                }
            }
            Found::OtherMethods(methods) => Err(Error::MethodNotAllowed(methods)),
            Found::Unlisted => {
                record.unlisted();
                Box::pin(self.forward_unlisted(checked, &identity, record)).await
            }
        }
    }

    /// Waits while MLflow is known to be away, then identifies the caller again: a request is decided with the rights of the
    /// moment in which it is sent. Returns `None` if there was nothing to wait for and the identity is recent.
    async fn after_wait(&self, checked: &Checked<'_>, bytes: usize) -> Result<Option<Arc<Identity>>, Error> {
        let waited = self.upstream.reachable(bytes).await?;
        checked.identified_again(waited).await
    }

    /// Identifies the caller by the credentials of the request, from the cache if it can.
    async fn authenticate(
        &self,
        checked: &Checked<'_>,
        foreign: Option<&Foreign>,
        record: &mut Record,
    ) -> Result<Arc<Identity>, Error> {
        let mut shown = shown(&checked.head.headers);
        if foreign.is_some_and(|foreign| !foreign.credentials) {
            // The session of the browser is not for this origin. Credentials that its script sends itself still
            // count.
            shown.session = None;
        }
        if let Some(identity) = self.authn.recent(shown) {
            self.telemetry.metrics.identities.hits.inc();
            return Ok(identity);
        }
        self.telemetry.metrics.identities.misses.inc();
        let authenticated = Box::pin(self.authn.authenticate(shown, checked.address)).await;
        authenticated.map_err(|error| self.perhaps_sign_in(checked, error, record))
    }
}

/// Removes the body from the response and keeps its length. On HTTP/2, hyper would send the body in response to HEAD, too.
fn without_body(mut response: Response) -> Response {
    if let Body::Full { bytes: Some(bytes) } = response.body() {
        let length = HeaderValue::from(bytes.len());
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
    }
    *response.body_mut() = Body::Empty;
    response
}

/// Takes the caller's key for a provider from `Authorization`. On routes where MLflow's AI gateway forwards this header to the
/// provider, `X-MLflow-Authorization` can contain the credentials for the proxy (as in MLflow's own auth, 3.9 and later).
/// `Authorization` is then not for the proxy.
fn take_provider_key(checked: &mut Checked<'_>) {
    let Some(credential) = checked.head.headers.remove(&MLFLOW_AUTHORIZATION) else { return };
    checked.provider_key = checked.head.headers.insert(header::AUTHORIZATION, credential);
}

const MLFLOW_AUTHORIZATION: HeaderName = HeaderName::from_static("x-mlflow-authorization");

/// Returns the credentials in a request.
fn shown(headers: &http::HeaderMap) -> RawCredentials<'_> {
    let authorization = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    RawCredentials { authorization, session: crate::http::only_cookie(headers, SESSION_COOKIE) }
}

/// The most that is read and discarded of a refused body.
const DISCARDED_BYTES: usize = 1024 * 1024 * 1024;
