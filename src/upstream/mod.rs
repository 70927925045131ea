//! Sends requests to MLflow over a pool of kept-alive connections.
//!
//! [`Upstream::forward`] takes a [`Permit`] by value, so each permit allows one request. The only requests without a
//! permit are the resolver's fixed look-ups and further pages of an allowed list. Requests wait for an MLflow that
//! restarts: see `hold`. A request that may have reached MLflow is repeated once only if it is a GET or HEAD whose
//! connection broke at once.

mod error;
mod hold;
mod pool;
mod version;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use error::Why;
pub use error::{Error, Unsent};
pub use hold::{Caller, Holds, confirm_rights, impatiently, on_behalf, on_behalf_of_the_same};
pub use version::{NoVersion, Version};

use hold::Gate;
use pool::{Connector, Failure, Pool};

use crate::authz::Permit;
use crate::clock::Stopwatch;
use crate::config;
use crate::http::{Body, BodyError, ReadError, cause, read_bounded};

/// Treatment of a request while MLflow cannot be reached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Patience {
    /// The request waits, within the configured limits.
    Waits,
    /// The request fails at once.
    None,
}

/// A request to MLflow: canonical, and exactly as authorised.
#[derive(Debug)]
pub struct Outgoing {
    pub method: Method,
    /// Canonical path and query.
    pub target: String,
    pub headers: HeaderMap,
    pub body: Body,
}

/// Client for the configured MLflow.
#[derive(Clone, Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    authority: Authority,
    host: HeaderValue,
    /// Path prefix of the MLflow server.
    prefix: String,
    seen: Arc<version::Seen>,
    response_timeout: Duration,
    gate: Arc<Gate>,
    patience: Patience,
    /// The memory for large answers to look-ups, in units of [`UNIT_BYTES`].
    large: Arc<Semaphore>,
}

/// Maximum size of a look-up's answer, and of all large answers at one time. The largest is a run with very many metrics.
const LOOKUP_BYTES: usize = 64 * 1024 * 1024;
/// Size up to which answers to look-ups are read without a reservation. They exist only until they are parsed.
const SMALL_LOOKUP_BYTES: usize = 256 * 1024;
/// Unit in which memory for large answers is reserved.
const UNIT_BYTES: usize = 64 * 1024;

impl Upstream {
    /// Creates a client for the configured MLflow, which connects on first use. Its requests fail at once when MLflow
    /// cannot be reached.
    ///
    /// # Errors
    /// The system's trust roots cannot be read, or the URL has no host.
    pub fn new(config: &config::Upstream) -> std::io::Result<Self> {
        Self::build(config, None)
    }

    /// Creates a client whose requests wait for an unreachable MLflow, within the configured limits.
    ///
    /// # Errors
    /// The system's trust roots cannot be read, or the URL has no host.
    pub fn holding(config: &config::Upstream, holds: Holds) -> std::io::Result<Self> {
        Self::build(config, Some(holds))
    }

    /// Returns a client that shares the pool and whose requests do not wait.
    #[must_use]
    pub fn at_once(&self) -> Self {
        Self { patience: Patience::None, ..self.clone() }
    }

    fn build(config: &config::Upstream, holds: Option<Holds>) -> std::io::Result<Self> {
        let invalid = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
        let uri: Uri = config.url.as_str().parse().map_err(|_| invalid("upstream.url is not a URL"))?;
        let authority = uri.authority().cloned().ok_or_else(|| invalid("upstream.url has no host"))?;
        let host =
            HeaderValue::from_str(authority.as_str()).map_err(|_| invalid("upstream.url has an invalid host"))?;
        let scheme = uri.scheme().cloned().ok_or_else(|| invalid("upstream.url has no scheme"))?;
        let server = Uri::builder().scheme(scheme.clone()).authority(authority.clone()).path_and_query("/").build();
        let server = server.map_err(|_| invalid("upstream.url is not a URL"))?;
        let health = format!("{scheme}://{authority}{}{HEALTH}", config.static_prefix);
        let health: Uri = health.parse().map_err(|_| invalid("upstream.static_prefix cannot be part of a URL"))?;
        let patience = if holds.is_some() { Patience::Waits } else { Patience::None };
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        let (connector, gate) = if scheme == Scheme::HTTPS {
            connector.enforce_http(false);
            let roots = HttpsConnectorBuilder::new().with_native_roots()?;
            let connector = roots.https_only().enable_http1().wrap_connector(connector);
            let gate = Gate::new(config, holds, connector.clone(), health, host.clone());
            (Connector::Tls(connector), gate)
        } else {
            let gate = Gate::new(config, holds, connector.clone(), health, host.clone());
            (Connector::Plain(connector), gate)
        };
        let (pool, gate) = (Arc::new(Pool::new(config, connector, server)), Arc::new(gate));
        let (prefix, response_timeout) = (config.static_prefix.clone(), config.response_timeout);
        let seen = Arc::default();
        let large = Arc::new(Semaphore::new(LOOKUP_BYTES / UNIT_BYTES));
        Ok(Self { pool, authority, host, prefix, seen, response_timeout, gate, patience, large })
    }

    /// Returns the time after which a request that MLflow did not answer has failed.
    #[must_use]
    pub const fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Returns the authority that MLflow expects in `Host` and uses in its redirects.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the authority as a header value.
    #[must_use]
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// Waits while MLflow is known to be unreachable. Returns true if it waited. `bytes`: memory that the request holds.
    ///
    /// Called before the decision and before a streamed body is read, so that a waiting request costs little. After a wait, the
    /// caller has to be identified again.
    ///
    /// # Errors
    /// MLflow was not reachable in time, or there is no room to wait.
    pub async fn reachable(&self, bytes: usize) -> Result<bool, Error> {
        if !self.gate.is_shut() || self.patience == Patience::None || !self.gate.holds() {
            return Ok(false);
        }
        Box::pin(self.wait(bytes)).await
    }

    async fn wait(&self, bytes: usize) -> Result<bool, Error> {
        let Some(caller) = hold::caller() else { return Ok(false) };
        let retry_after_seconds = match self.gate.hold(caller.user(), bytes) {
            Ok(mut hold) => {
                if hold.released().await {
                    return Ok(true);
                }
                self.gate.retry_after()
            }
            Err(seconds) => seconds,
        };
        Err(Unsent { why: Why::Away(self.gate.away()), retry_after_seconds }.into())
    }

    /// Ends all waiting for MLflow and lets no further request wait, for shutdown.
    pub fn stop_holding(&self) {
        self.gate.drain();
    }

    /// Sends one allowed request. The body of the answer is streamed.
    ///
    /// # Errors
    /// MLflow cannot be reached, sends no response head in time, or closes the connection early.
    pub async fn forward(&self, permit: Permit, outgoing: Outgoing) -> Result<Response<Incoming>, Error> {
        let Permit { .. } = permit;
        confirm_rights().await?;
        self.send(outgoing, self.patience).await
    }

    /// Sends one allowed request that does not wait for an unreachable MLflow.
    ///
    /// # Errors
    /// As [`Upstream::forward`].
    pub async fn forward_at_once(&self, permit: Permit, outgoing: Outgoing) -> Result<Response<Incoming>, Error> {
        let Permit { .. } = permit;
        self.send(outgoing, Patience::None).await
    }

    /// Requests a further page of a list whose first page was allowed by [`Upstream::forward`]'s permit.
    ///
    /// # Errors
    /// As [`Upstream::forward`].
    pub(crate) async fn refill(&self, outgoing: Outgoing) -> Result<Response<Incoming>, Error> {
        confirm_rights().await?;
        self.send(outgoing, self.patience).await
    }

    /// Sends one of the resolver's fixed look-ups; `None` when MLflow answers 404 or 400.
    ///
    /// `target` is a path and a canonical query.
    ///
    /// # Errors
    /// As [`Upstream::forward`], and any status other than 200, 404 and 400.
    pub(crate) async fn lookup(&self, target: String) -> Result<Option<Bytes>, Error> {
        self.question(Method::GET, target, HeaderMap::with_capacity(2), Body::Empty).await
    }

    /// Sends a fixed POST request with a JSON body: a batch look-up, or a change that completes or undoes an allowed one.
    ///
    /// # Errors
    /// As [`Upstream::lookup`].
    pub(crate) async fn ask(&self, path: &str, json: String) -> Result<Option<Bytes>, Error> {
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(json.len()));
        self.question(Method::POST, path.to_owned(), headers, Body::from(Bytes::from(json))).await
    }

    async fn question(
        &self,
        method: Method,
        target: String,
        mut headers: HeaderMap,
        body: Body,
    ) -> Result<Option<Bytes>, Error> {
        headers.insert(header::HOST, self.host.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        let response = self.send(Outgoing { method, target, headers, body }, self.patience).await?;
        let status = response.status();
        let read = tokio::time::timeout(self.response_timeout, self.read_found(response.into_body())).await;
        let bytes = read.map_err(|_| Error::TimedOut(self.response_timeout))??;
        match status {
            StatusCode::OK => Ok(Some(bytes)),
            // 400: an ID that MLflow's store finds malformed is treated like an unknown one.
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Ok(None),
            other => Err(Error::Unexpected(other)),
        }
    }

    /// Reads a response of at most `limit` bytes completely, within `upstream.response_timeout`.
    ///
    /// # Errors
    /// The response is too large, incomplete or too slow.
    pub(crate) async fn read(&self, body: Incoming, limit: usize) -> Result<Bytes, Error> {
        let read = tokio::time::timeout(self.response_timeout, read_bounded(body, limit)).await;
        Ok(read.map_err(|_| Error::TimedOut(self.response_timeout))??)
    }

    /// Reads the answer to a look-up. A large one waits until other large ones leave room for it, and holds that room until it
    /// is dropped.
    async fn read_found(&self, body: Incoming) -> Result<Bytes, ReadError> {
        let expected = http_body::Body::size_hint(&body).exact().and_then(|size| usize::try_from(size).ok());
        let mut body = pin!(body);
        let (mut only, mut all) = (Bytes::new(), Vec::new());
        let mut room = None;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ReadError::Broken)?.into_data() else { continue };
            let size = only.len() + all.len() + data.len();
            if size.max(expected.unwrap_or_default()) > LOOKUP_BYTES {
                return Err(ReadError::TooLarge { limit: LOOKUP_BYTES });
            }
            if room.is_none() && size > SMALL_LOOKUP_BYTES {
                // Unknown length: reserve everything at once, because two answers that grow could wait for each other.
                let units = expected.unwrap_or(LOOKUP_BYTES).max(size).div_ceil(UNIT_BYTES);
                let units = u32::try_from(units).unwrap_or(u32::MAX);
                let acquired = Arc::clone(&self.large).acquire_many_owned(units).await;
                room = Some(acquired.map_err(|_| ReadError::Broken)?);
            }
            if only.is_empty() && all.is_empty() {
                only = data;
                continue;
            }
            if all.is_empty() {
                all.reserve_exact(expected.unwrap_or(size).max(size));
                all.extend_from_slice(&std::mem::take(&mut only));
            }
            all.extend_from_slice(&data);
        }
        let bytes = if all.is_empty() { only } else { Bytes::from(all) };
        Ok(match room {
            Some(room) => Bytes::from_owner(Found { bytes, _room: room }),
            None => bytes,
        })
    }

    /// Returns the version of MLflow, if it is known.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.seen.get()
    }

    /// Reads MLflow's version and remembers it.
    ///
    /// # Errors
    /// As [`Upstream::lookup`]; also when the answer is not a version of MLflow.
    pub async fn learn_version(&self) -> Result<Version, Error> {
        let answer = self.at_once().lookup("/version".to_owned()).await?.unwrap_or_default();
        let version = std::str::from_utf8(&answer).ok().and_then(|text| text.parse().ok());
        self.seen.set(version);
        version.ok_or(Error::NotUnderstood)
    }

    /// Checks for `/readyz` that MLflow is healthy. Waits at most 1.5 seconds.
    ///
    /// # Errors
    /// MLflow cannot be reached, or its health check fails.
    pub async fn check(&self) -> Result<(), Error> {
        let limit = Duration::from_millis(1500);
        match tokio::time::timeout(limit, self.at_once().lookup(HEALTH.to_owned())).await {
            Ok(Ok(Some(_))) => Ok(()),
            Ok(Ok(None)) => Err(Error::Unexpected(StatusCode::NOT_FOUND)),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::TimedOut(limit)),
        }
    }

    async fn send(&self, outgoing: Outgoing, patience: Patience) -> Result<Response<Incoming>, Error> {
        let mut request = self.request(outgoing)?;
        // Before the body is shared with a copy, so that the count covers whichever of them is sent.
        let mut pieces = Pieces(request.body_mut().count_pieces(), 0);
        let caller = (patience == Patience::Waits && self.gate.holds()).then(hold::caller).flatten();
        let mut since = None;
        loop {
            // Boxed, because every layer of futures around this one moves it.
            let mut spare = (caller.is_some() || is_repeatable(&request)).then(|| Box::new(copy(&mut request)));
            let unsent = match self.attempt(request, spare.as_deref_mut(), &mut pieces).await {
                Err(Error::Connect(unsent)) if unsent.found_nobody() => unsent,
                answer => return answer,
            };
            let (Some(caller), Some(spare)) = (&caller, spare) else { return Err(unsent.into()) };
            Box::pin(self.wait_with(&mut since, &**caller, &spare, unsent)).await?;
            request = *spare;
        }
    }

    /// Waits with a request for which no connection could be made. `since`: start of the first wait. The place is released before
    /// the request is sent, because its answer can take long.
    async fn wait_with(
        &self,
        since: &mut Option<Stopwatch>,
        caller: &dyn Caller,
        request: &Request<Body>,
        unsent: Unsent,
    ) -> Result<(), Error> {
        let bytes = match request.body() {
            Body::Full { bytes } => bytes.as_ref().map_or(0, Bytes::len),
            Body::Empty | Body::Streamed { .. } | Body::Lent { .. } => 0,
        };
        let mut hold = match self.gate.hold(caller.user(), bytes) {
            Ok(hold) => hold.since(since),
            Err(retry_after_seconds) => return Err(Unsent { retry_after_seconds, ..unsent }.into()),
        };
        if !hold.released().await {
            return Err(Unsent { retry_after_seconds: self.gate.retry_after(), ..unsent }.into());
        }
        // With changed rights the whole request must be decided again, so the client has to send it again.
        if !caller.is_unchanged().await {
            return Err(Unsent { why: Why::Changed, retry_after_seconds: 1 }.into());
        }
        Ok(())
    }

    /// Sends a request once. `spare`: a copy, if the request may be sent again.
    async fn attempt(
        &self,
        request: Request<Body>,
        spare: Option<&mut Request<Body>>,
        pieces: &mut Pieces,
    ) -> Result<Response<Incoming>, Error> {
        let mut exchange = pin!(self.exchange(request, spare));
        let answer = loop {
            match tokio::time::timeout(self.response_timeout, exchange.as_mut()).await {
                // An upload has no total time limit; the minimum rate of the configuration applies to its sender.
                Err(_) if pieces.have_passed() => {}
                answer => break answer,
            }
        };
        match answer {
            Ok(Ok(response)) => {
                if self.gate.is_shut() {
                    self.gate.open();
                }
                Ok(response)
            }
            Ok(Err(error)) if error.is_unsent() => {
                // A pooled connection that was closed proves nothing about MLflow. A failure to connect does.
                if error.is_connect() {
                    self.gate.shut();
                }
                let retry_after_seconds = self.gate.retry_after();
                Err(Unsent { why: Why::NoConnection(error), retry_after_seconds }.into())
            }
            Ok(Err(error)) => Err(of_the_body(&error).unwrap_or(Error::Broken(error))),
            Err(_) => Err(Error::TimedOut(self.response_timeout)),
        }
    }

    /// Builds the outgoing request with MLflow's prefix.
    fn request(&self, outgoing: Outgoing) -> Result<Request<Body>, Error> {
        let target =
            if self.prefix.is_empty() { outgoing.target } else { format!("{}{}", self.prefix, outgoing.target) };
        let target = PathAndQuery::from_maybe_shared(Bytes::from(target)).map_err(|_| Error::Unwritable)?;
        let mut request = Request::new(outgoing.body);
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = target.into();
        *request.version_mut() = http::Version::HTTP_11;
        *request.headers_mut() = outgoing.headers;
        Ok(request)
    }

    /// Sends a request. A GET or HEAD is sent once more when its connection breaks at once without an answer.
    async fn exchange(
        &self,
        request: Request<Body>,
        spare: Option<&mut Request<Body>>,
    ) -> Result<Response<Incoming>, Failure> {
        let spare = spare.filter(|_| is_repeatable(&request));
        let watch = spare.is_some().then(Stopwatch::start);
        let answer = self.pool.request(request).await;
        match (answer, spare, watch) {
            (Err(error), Some(spare), Some(watch)) if watch.elapsed() < BREAKS_AT_ONCE && !error.is_unsent() => {
                tracing::debug!(error = %cause(&error), "a connection to MLflow broke; the request is sent once more");
                self.pool.request(copy(spare)).await
            }
            (answer, ..) => answer,
        }
    }
}

/// A large answer to a look-up, with its reservation.
struct Found {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Found {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns true if a request is safe to send twice (RFC 9110 §9.2.1) and has no body.
fn is_repeatable(request: &Request<Body>) -> bool {
    matches!((request.method(), request.body()), (&Method::GET | &Method::HEAD, Body::Empty))
}

/// Returns a copy of a request, for another attempt to send it.
fn copy(request: &mut Request<Body>) -> Request<Body> {
    let mut again = Request::new(request.body_mut().share());
    *again.method_mut() = request.method().clone();
    *again.uri_mut() = request.uri().clone();
    *again.version_mut() = request.version();
    *again.headers_mut() = request.headers().clone();
    again
}

/// A pooled connection that MLflow has closed breaks within this time. If it breaks later, a worker died while it
/// processed the request, and the same work is not given to a second one.
const BREAKS_AT_ONCE: Duration = Duration::from_secs(1);

/// Returns the error of a request that was aborted because of its sender's body.
fn of_the_body(error: &Failure) -> Option<Error> {
    let causes = std::iter::successors(std::error::Error::source(error), |error| error.source());
    match causes.into_iter().find_map(|cause| cause.downcast_ref())? {
        BodyError::TooSlow => Some(Error::SlowBody),
        BodyError::Broken(_) => Some(Error::BrokenBody),
        BodyError::Spent | BodyError::Withdrawn => None,
    }
}

/// Path of MLflow's health check.
const HEALTH: &str = "/health";

/// Count of the sent pieces of a streamed body, and its value at the last check.
struct Pieces(Option<Arc<AtomicU64>>, u64);

impl Pieces {
    fn have_passed(&mut self) -> bool {
        let now = self.0.as_ref().map_or(0, |count| count.load(Ordering::Relaxed));
        std::mem::replace(&mut self.1, now) != now
    }
}

#[cfg(test)]
mod tests;
