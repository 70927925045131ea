//! The listener for probes and metrics: `/livez`, `/readyz`, `/metrics`. Loopback by default, no credentials.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::http::{Body, Response};

/// What the probes ask.
pub trait Health: Send + Sync + 'static {
    /// Asked by `/readyz`; ready when no check has a problem. Must answer within two seconds.
    fn checks(&self) -> Pin<Box<dyn Future<Output = Vec<Check>> + Send + '_>>;

    /// Asked by `/metrics`: the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// One thing that must work before traffic may come.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// A bounded word, e.g. `store`.
    pub name: &'static str,
    /// `None`: it works. Otherwise a sentence without secrets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct Readiness<'a> {
    ready: bool,
    checks: &'a [Check],
}

/// Serves probes until `stop` is cancelled. Stop it last, so that readiness can say "no" during the drain.
pub async fn serve<T: Health>(listener: TcpListener, health: Arc<T>, stop: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((tcp, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else { continue };
        let (health, stop) = (Arc::clone(&health), stop.clone());
        connections.spawn(async move {
            stop.run_until_cancelled(connection(tcp, health)).await;
            drop(slot);
        });
    }
}

async fn connection<T: Health>(tcp: TcpStream, health: Arc<T>) {
    let service = service_fn(move |request: http::Request<Incoming>| {
        let health = Arc::clone(&health);
        async move { Ok::<_, Infallible>(answer(&*health, request.method(), request.uri().path()).await) }
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

async fn answer<T: Health>(health: &T, method: &Method, path: &str) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "GET only\n");
    }
    match path {
        "/livez" => text(StatusCode::OK, "text/plain", "ok\n"),
        "/readyz" => readiness(health).await,
        "/metrics" => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", health.metrics()),
        _ => text(StatusCode::NOT_FOUND, "text/plain", "/livez, /readyz or /metrics\n"),
    }
}

async fn readiness<T: Health>(health: &T) -> Response {
    let late = |_| vec![Check { name: "checks", problem: Some("the checks did not end in time".to_owned()) }];
    let checks = tokio::time::timeout(CHECKS_TIMEOUT, health.checks()).await.unwrap_or_else(late);
    let ready = checks.iter().all(|check| check.problem.is_none());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&Readiness { ready, checks: &checks }).unwrap_or_default();
    text(status, "application/json", body)
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response {
    let mut response = http::Response::new(Body::from(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Probes and scrapers are few.
const MAX_CONNECTIONS: usize = 64;
const TIMEOUT: Duration = Duration::from_secs(10);
const CHECKS_TIMEOUT: Duration = Duration::from_secs(2);
