//! The record of one request: one access log line, metrics, and an audit row for a denial.
//!
//! Filled in during the steps of a request; written once, when the last byte of the response has been passed on or the client
//! has disconnected.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::Error;
use super::places::Place;
use crate::authn;
use crate::authz::Identity;
use crate::clock::{Stopwatch, Timestamp};
use crate::effects::EffectError;
use crate::filter::ListError;
use crate::http::{Body, Response, SEC_FETCH_MODE, Watcher, X_REQUESTED_WITH, navigates};
use crate::mlflow::{AddressError, BodyMode, Operation};
use crate::resolve;
use crate::server::Peer;
use crate::store::{Actor, AuditEntry};
use crate::telemetry::{AccessLine, Outcome, RequestKind, Telemetry};
use crate::upstream;
use crate::web::SignInEvent;

/// The facts of one request.
#[derive(Debug)]
pub struct Record {
    telemetry: Arc<Telemetry>,
    at: Timestamp,
    watch: Stopwatch,
    method: Method,
    browser_xhr: bool,
    navigation: bool,
    public: bool,
    operation: &'static str,
    kind: RequestKind,
    identity: Option<Arc<Identity>>,
    address: IpAddr,
    upstream: Option<Duration>,
    denied: Option<&'static str>,
    resends_only_after_429: bool,
    request_id: Option<Box<str>>,
    /// Held as long as MLflow's connection: until a streamed answer has been sent.
    place: Option<Place>,
}

impl Record {
    /// Starts a record. `path`: below MLflow's static prefix.
    pub(super) fn start(telemetry: Arc<Telemetry>, head: &http::request::Parts, path: &str, peer: Peer) -> Self {
        Self {
            at: telemetry.clock.now(),
            watch: Stopwatch::start(),
            method: head.method.clone(),
            browser_xhr: is_browser_xhr(head, path),
            navigation: is_navigation(head, path),
            public: false,
            operation: "none",
            kind: RequestKind::Refused,
            identity: None,
            address: peer.address.ip(),
            upstream: None,
            denied: None,
            resends_only_after_429: resends_only_after_429(head),
            request_id: request_id(&head.headers),
            place: None,
            telemetry,
        }
    }

    pub(super) fn operation(&mut self, operation: &Operation) {
        self.operation = operation.name;
        self.kind = match operation {
            Operation { filter: Some(_), .. } | Operation { narrow: Some(_), .. } => RequestKind::Search,
            Operation { send: BodyMode::Stream, .. } => RequestKind::Artifact,
            _ if operation.is_public() => RequestKind::Static,
            _ if operation.name.ends_with("Artifact") => RequestKind::Artifact,
            _ => RequestKind::Api,
        };
    }

    pub(super) fn own(&mut self) {
        self.operation = "Own";
        self.kind = RequestKind::Own;
    }

    pub(super) fn unlisted(&mut self) {
        self.operation = "Unlisted";
        self.kind = RequestKind::Api;
        self.telemetry.metrics.unlisted_requests.inc();
    }

    pub(super) fn identity(&mut self, identity: &Arc<Identity>) {
        self.identity = Some(Arc::clone(identity));
    }

    /// Keeps the place of a request to MLflow.
    pub(super) fn place(&mut self, place: Place) {
        self.place = Some(place);
    }

    pub(super) fn address(&mut self, address: IpAddr) {
        self.address = address;
    }

    /// Returns the time at which the request's head arrived.
    pub(super) const fn started(&self) -> Stopwatch {
        self.watch
    }

    pub(super) fn upstream_answered(&mut self) {
        self.upstream = Some(self.watch.elapsed());
    }

    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    pub(super) const fn is_navigation(&self) -> bool {
        self.navigation
    }

    pub(super) const fn is_signed_in(&self) -> bool {
        self.identity.is_some()
    }

    /// Marks the response as public: it does not depend on the caller.
    pub(super) fn public(&mut self) {
        self.public = true;
    }

    pub(super) const fn is_public(&self) -> bool {
        self.public
    }

    /// Returns true if the script of a page sent the request, so that a Basic challenge would open a dialog over the page.
    pub(super) const fn is_browser_xhr(&self) -> bool {
        self.browser_xhr
    }

    /// Returns true if the client repeats this request after 429 but after no 5xx.
    pub(super) const fn resends_only_after_429(&self) -> bool {
        self.resends_only_after_429
    }

    /// Counts and logs, once, the reason why there is no response from MLflow.
    pub(super) fn failed(&mut self, error: &Error) {
        let reason = error.reason();
        self.public = false;
        self.denied = Some(reason);
        self.kind = RequestKind::Refused;
        let metrics = &self.telemetry.metrics;
        match error {
            // The server has counted it already.
            Error::Edge(_) => {}
            Error::Head(_) | Error::UnknownHost | Error::Path(_) | Error::Query(_) => metrics.edge_refused(reason),
            // Requests before authentication cost their sender nothing, so they must not fill the audit log.
            Error::CrossOrigin if self.identity.is_none() => metrics.denied(reason),
            Error::CrossOrigin
            | Error::Denied(_)
            | Error::UnknownRoute
            | Error::Blocked(_)
            | Error::Address(AddressError::NotAllowed(_)) => {
                metrics.denied(reason);
                self.audit(error.to_string());
            }
            Error::Authn(authn::Error::Store(error)) => tracing::error!(%error, "a request could not be authenticated"),
            Error::Authn(_) => metrics.authentication_failed(reason),
            Error::Upstream(error) | Error::List(ListError::Upstream(error)) => self.upstream_failed(error),
            Error::Resolve(resolve::Error::Upstream(error))
            | Error::List(ListError::Resolve(resolve::Error::Upstream(error))) => self.upstream_failed(error),
            Error::Effect(EffectError::Upstream(error)) => self.upstream_failed(error),
            // Load, and no failure: nothing was changed.
            Error::Effect(EffectError::Taken) => {}
            Error::Effect(error) => {
                metrics.effects_failed.inc();
                tracing::error!(operation = self.operation, %error, "an effect was not written");
            }
            Error::Body(error) => metrics.body_refused(error.reason()),
            Error::Unkept => metrics.body_refused(reason),
            Error::MethodNotAllowed(_)
            | Error::SignIn(_)
            | Error::Moved(_)
            | Error::Workspace
            | Error::Graphql(_)
            | Error::Spans(_)
            | Error::SpansLack(_)
            | Error::OutsidePrefix(_)
            | Error::TraceElsewhere
            | Error::UsersName
            | Error::TooManyRequests
            | Error::ContentType
            | Error::ContentEncoding
            | Error::Json(_)
            | Error::Locate(_)
            | Error::Address(AddressError::Malformed(_))
            | Error::Resolve(_)
            | Error::List(_) => {}
        }
    }

    /// Records a 403 of the pages, which log their own reasons.
    pub(super) fn denied(&mut self, reason: &'static str) {
        self.denied = Some(reason);
        self.telemetry.metrics.denied(reason);
        self.audit(format!("refused: {reason}"));
    }

    /// Records a sign-in or sign-out, or a failed attempt. The audit log already contains those that changed the store.
    pub(super) fn sign_in_event(&mut self, event: &SignInEvent) {
        let metrics = &self.telemetry.metrics;
        match event {
            SignInEvent::SignIn { provider, outcome, .. } if *outcome == "done" => metrics.signed_in(provider, outcome),
            SignInEvent::SignIn { provider, outcome, name } => {
                metrics.signed_in(provider, outcome);
                self.denied = Some(outcome);
                if let Some(name) = name {
                    self.audit_as(name.clone(), "login.failed", provider.clone(), (*outcome).to_owned());
                }
            }
            SignInEvent::SignOut(how) => metrics.signed_out(how),
        }
    }

    fn upstream_failed(&self, error: &upstream::Error) {
        if let upstream::Error::Connect(unsent) = error
            && unsent.is_changed()
        {
            // No failure of MLflow: the caller's rights have changed.
            return;
        }
        self.telemetry.metrics.upstream_failed(error.kind());
        tracing::warn!(operation = self.operation, %error, "MLflow gave no usable answer");
    }

    fn audit(&self, detail: String) {
        let name = self.identity.as_ref().map_or_else(|| "-".to_owned(), |identity| identity.name.to_string());
        self.audit_as(name, "request.denied", self.operation.to_owned(), detail);
    }

    fn audit_as(&self, name: String, action: &str, target: String, detail: String) {
        let token = self.identity.as_ref().and_then(|identity| identity.scheme.token());
        self.telemetry.audit.record(AuditEntry {
            at: self.at,
            actor: Actor { name, token, address: Some(self.address) },
            action: action.to_owned(),
            target,
            detail,
            count: 1,
        });
    }

    /// Attaches the record to the response, which writes it at its end.
    pub(super) fn finish(self, response: Response) -> Response {
        let (head, body) = response.into_parts();
        let mut finishing = Finishing { record: self, status: head.status, sent: 0, outcome: Outcome::Aborted };
        let body = match body {
            Body::Streamed { incoming, .. } if !http_body::Body::is_end_stream(&incoming) => {
                Body::watched(incoming, Box::new(finishing))
            }
            whole @ (Body::Empty | Body::Full { .. } | Body::Streamed { .. } | Body::Lent { .. }) => {
                // In memory: counted as sent, because hyper takes it in one piece.
                finishing.sent = http_body::Body::size_hint(&whole).lower();
                finishing.outcome = Outcome::Complete;
                whole
            }
        };
        Response::from_parts(head, body)
    }

    fn write(&self, status: StatusCode, sent: u64, outcome: Outcome) {
        let took = self.watch.elapsed();
        let telemetry = &self.telemetry;
        telemetry.metrics.request(self.operation, self.kind, status.as_u16(), took);
        if !telemetry.access.is_on() {
            return;
        }
        let identity = self.identity.as_deref();
        telemetry.access.write(&AccessLine {
            time: AccessLine::moment(self.at),
            operation: self.operation,
            method: self.method.as_str(),
            status: status.as_u16(),
            duration_ms: AccessLine::milliseconds(took),
            upstream_ms: self.upstream.map(AccessLine::milliseconds),
            user: identity.filter(|_| telemetry.user_names).map(|identity| &*identity.name),
            scheme: identity.map(|identity| identity.scheme.as_str()),
            address: self.address,
            denied: self.denied,
            bytes_sent: sent,
            request_id: self.request_id.as_deref(),
            outcome,
        });
    }
}

/// Writes the record when the response ends, for any reason.
#[derive(Debug)]
struct Finishing {
    record: Record,
    status: StatusCode,
    sent: u64,
    outcome: Outcome,
}

impl Watcher for Finishing {
    fn sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    fn complete(&mut self) {
        self.outcome = Outcome::Complete;
    }

    fn broke(&mut self) {
        self.outcome = Outcome::Broken;
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        self.record.write(self.status, self.sent, self.outcome);
    }
}

/// Returns true if the client repeats this request after 429 but after no 5xx. MLflow's Python client from 3.18 on repeats a
/// POST that is not idempotent only after 408 and 429 (`mlflow.utils.rest_utils`), and all other requests after 429 as well.
/// Earlier versions repeat every request after 503, as do other clients that repeat requests.
fn resends_only_after_429(head: &http::request::Parts) -> bool {
    if head.method != Method::POST {
        return false;
    }
    // Header providers of client plugins add words after a space.
    let product = |value: &HeaderValue| {
        let (_, rest) = value.to_str().ok()?.split_once("mlflow-python-client/")?;
        rest.split(' ').next()?.parse::<upstream::Version>().ok()
    };
    let version = head.headers.get(header::USER_AGENT).and_then(product);
    version.is_some_and(|version| version >= upstream::Version::release(3, 18))
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns the client's ID of the request, if it is short and plain enough to be logged.
fn request_id(headers: &HeaderMap) -> Option<Box<str>> {
    let id = headers.get(&X_REQUEST_ID)?.to_str().ok()?;
    (id.len() <= 64).then(|| id.into())
}

/// Returns true if a browser opens a page or submits a form. API paths are for programs, even if a browser displays them.
fn is_navigation(head: &http::request::Parts, path: &str) -> bool {
    let html = |accept: &HeaderValue| memchr::memmem::find(accept.as_bytes(), b"text/html").is_some();
    // Programs rarely request HTML, so most requests end here.
    head.headers.get_all(header::ACCEPT).iter().any(html)
        && matches!(head.method, Method::GET | Method::HEAD | Method::POST)
        && navigates(&head.headers)
        && !["/api/", "/ajax-api/", "/auth/api/"].iter().any(|api| path.starts_with(api))
}

fn is_browser_xhr(head: &http::request::Parts, path: &str) -> bool {
    path.starts_with("/ajax-api/") || path == "/graphql" || {
        let header = |headers: &HeaderMap, name: &HeaderName, value: &[u8]| {
            headers.get(name).is_some_and(|sent| sent.as_bytes().eq_ignore_ascii_case(value))
        };
        header(&head.headers, &X_REQUESTED_WITH, b"xmlhttprequest")
            || head.headers.get(&SEC_FETCH_MODE).is_some_and(|mode| mode.as_bytes() != b"navigate")
    }
}
