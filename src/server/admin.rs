//! The listener for probes and metrics: `/livez`, `/readyz`, `/metrics`. Loopback by default, no credentials.
//!
//! It has its own thread and runtime, so that probes are answered while all other threads are busy. Only the checks
//! of `/readyz` run on the runtime that serves requests, so that they measure its delay.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::{Body, NOT_STORED, Response, host_name};

/// State reported to probes.
pub trait Health: Send + Sync + 'static {
    /// Runs the checks of `/readyz`; the proxy is ready when none has a problem. Must finish within two seconds.
    fn checks(&self) -> Pin<Box<dyn Future<Output = Vec<Check>> + Send + '_>>;

    /// Returns the metrics for `/metrics` in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// A condition that has to hold before the proxy receives traffic.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Name from a fixed set, e.g. `store`.
    pub name: &'static str,
    /// Description of the problem, without secrets; `None` if the check passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// A fault that does not prevent the proxy from serving, for operators. It does not affect readiness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

impl Check {
    /// Creates a check that affects readiness.
    #[must_use]
    pub const fn of(name: &'static str, problem: Option<String>) -> Self {
        Self { name, problem, warning: None }
    }
}

#[derive(Debug, Serialize)]
struct Readiness<'a> {
    ready: bool,
    checks: &'a [Check],
}

/// Starts the thread of the admin listener, which ends when `stop` is cancelled. `hosts` are the names with dots that
/// are accepted in `Host`, besides addresses and names without dots.
///
/// # Errors
/// The operating system provides no thread, or the listener cannot be moved to it.
pub fn start<T: Health>(
    listener: TcpListener,
    health: Arc<T>,
    hosts: Vec<String>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.into_std()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = Asked { health, hosts: hosts.into(), checks: Handle::current() };
    let work = move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(listener, asked, stop).await,
                Err(error) => tracing::error!(%error, "the admin listener did not start"),
            }
        });
    };
    std::thread::Builder::new().name("admin".to_owned()).spawn(work).map(|_| ())
}

/// State that every connection uses.
struct Asked<T> {
    health: Arc<T>,
    hosts: Arc<[String]>,
    /// Runtime on which the checks of `/readyz` run.
    checks: Handle,
}

impl<T> Clone for Asked<T> {
    fn clone(&self) -> Self {
        Self { health: Arc::clone(&self.health), hosts: Arc::clone(&self.hosts), checks: self.checks.clone() }
    }
}

/// Serves probes until `stop` is cancelled. Cancelled last during shutdown, so that readiness can report "no" during
/// the drain.
async fn serve<T: Health>(listener: TcpListener, asked: Asked<T>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // A reserved descriptor, which is closed when none is left, so that probes are answered in that case too.
    let mut spare = spare();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
            () = tokio::time::sleep(PAUSE), if spare.is_none() => {
                spare = self::spare();
                continue;
            }
        };
        let Ok((tcp, _)) = accepted else {
            if spare.take().is_none() {
                tokio::time::sleep(PAUSE).await;
            }
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (asked, stop) = (asked.clone(), stop.clone());
        connections.spawn(async move {
            stop.run_until_cancelled(connection(tcp, asked)).await;
            drop(slot);
        });
    }
}

/// Opens the reserved descriptor.
fn spare() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

async fn connection<T: Health>(tcp: TcpStream, asked: Asked<T>) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let asked = asked.clone();
        async move { Ok::<_, Infallible>(answer(&asked, &request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .max_buf_size(8192)
        .serve_connection(TokioIo::new(tcp), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a probe's connection ended early");
    }
}

async fn answer<T: Health>(asked: &Asked<T>, request: &http::Request<Incoming>) -> Response {
    let (method, path) = (request.method(), request.uri().path());
    if !is_ours(request, &asked.hosts) {
        return text(StatusCode::MISDIRECTED_REQUEST, "text/plain", "add this host name to admin.allowed_hosts\n");
    }
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match path {
        "/livez" => text(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => readiness(Arc::clone(&asked.health), &asked.checks).await,
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", asked.health.metrics()),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz or /metrics\n"),
    }
}

/// Returns true if the `Host` of a request is acceptable. In a DNS rebinding attack, a page in a user's browser sends
/// the attacker's host name, which contains a dot. Probes over HTTP/1.0 send no host name.
fn is_ours<B>(request: &http::Request<B>, allowed: &[String]) -> bool {
    if request.uri().authority().is_some() {
        return false;
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let (host, None) = (hosts.next(), hosts.next()) else { return false };
    let Some(host) = host else { return request.version() == Version::HTTP_10 };
    let Some(name) = host_name(host.as_bytes()) else { return false };
    let is_address = name.starts_with('[') || name.parse::<IpAddr>().is_ok();
    is_address || !name.contains('.') || allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
}

async fn readiness<T: Health>(health: Arc<T>, checks: &Handle) -> Response {
    let late = || vec![Check::of("checks", Some("the checks did not end in time".to_owned()))];
    let checking = TaskTracker::new().spawn_on(async move { health.checks().await }, checks);
    let checks = match tokio::time::timeout(CHECKS_TIMEOUT, checking).await {
        Ok(Ok(checks)) => checks,
        Ok(Err(_)) | Err(_) => late(),
    };
    let ready = checks.iter().all(|check| check.problem.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&Readiness { ready, checks: &checks }).unwrap_or_default();
    text(status, "application/json", body)
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, NOT_STORED);
    response
}

/// Maximum number of connections; probes and scrapers need few.
const MAX_CONNECTIONS: usize = 64;
const PAUSE: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(10);
const CHECKS_TIMEOUT: Duration = Duration::from_secs(2);
