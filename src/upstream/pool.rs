//! Kept-alive connections to MLflow.
//!
//! A connection is put back when the head of its response has arrived, and is taken again only when hyper reports it as
//! ready: the response has been read to its end, and the server keeps the connection open. Newest first, so that the
//! others can expire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::rt::{Read, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio_util::task::TaskTracker;
use tower::{BoxError, ServiceExt as _};

use crate::clock::Stopwatch;
use crate::config;
use crate::http::{Body, cause};

/// Opens connections. The plain HTTP variant avoids the overhead of a connector with TLS support.
#[derive(Clone, Debug)]
pub(super) enum Connector {
    Plain(HttpConnector),
    Tls(HttpsConnector<HttpConnector>),
}

/// The connections to one server.
#[derive(Debug)]
pub(super) struct Pool {
    connector: Connector,
    server: Uri,
    /// By age, the newest last.
    kept: Mutex<Vec<Kept>>,
    max_idle: usize,
    idle_timeout: Duration,
    has_sweeper: AtomicBool,
    /// The connections, and the sweeper.
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Kept {
    sender: SendRequest<Body>,
    /// Since the head of the last response.
    since: Stopwatch,
}

/// A request that got no response.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{}", cause(&**.0))]
    Connect(#[source] BoxError),
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

impl Failure {
    pub(super) const fn is_connect(&self) -> bool {
        matches!(self, Self::Connect(_))
    }

    /// Returns true if no byte of the request was written: there was no connection, or it closed while the request was
    /// still in hyper's queue. hyper reports an HTTP/1 request as canceled only in that case, and returns it unread. A
    /// request that was started fails in other ways, even if none of its bytes has left this machine.
    pub(super) fn is_unsent(&self) -> bool {
        match self {
            Self::Connect(_) => true,
            Self::Http(error) => error.is_canceled(),
        }
    }
}

/// Maximum buffer per connection, which bounds the memory that a slow client can occupy.
const BUFFER_BYTES: usize = 64 * 1024;

impl Pool {
    /// Creates a pool that connects on first use. `server`: scheme and authority.
    pub(super) fn new(config: &config::Upstream, connector: Connector, server: Uri) -> Self {
        Self {
            connector,
            server,
            kept: Mutex::default(),
            max_idle: config.pool_max_idle,
            idle_timeout: config.pool_idle_timeout,
            has_sweeper: AtomicBool::new(false),
            tasks: TaskTracker::new(),
        }
    }

    /// Sends a request. If a kept connection is found closed before the request was started on it, another one is used;
    /// hyper returns the request only in that case.
    ///
    /// A server may answer a streamed request before it has read the body, and then reset the connection. Whether sent
    /// bytes were read is unknown, so a streamed body gets a connection of its own, which carries no other request.
    pub(super) async fn request(self: &Arc<Self>, mut request: Request<Body>) -> Result<Response<Incoming>, Failure> {
        let is_streamed = match request.body() {
            Body::Empty | Body::Full { .. } => false,
            Body::Streamed { .. } | Body::Lent { .. } => true,
        };
        loop {
            let kept = if is_streamed { None } else { self.take() };
            let is_kept = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                // Boxed, because it is large and rare.
                None => Box::pin(self.connect()).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    // A server that wrongly sends a body with these would have it read as the next response.
                    let has_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                    if !is_streamed && has_body {
                        self.keep(sender);
                    }
                    return Ok(response);
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) if is_kept => request = unsent,
                    Some(_) | None => return Err(error.into_error().into()),
                },
            }
        }
    }

    /// Takes the newest connection that is ready.
    fn take(&self) -> Option<SendRequest<Body>> {
        let mut kept = self.kept();
        self.trim(&mut kept);
        let place = kept.iter().rposition(|kept| kept.sender.is_ready())?;
        let newest = kept.remove(place);
        if newest.since.elapsed() < self.idle_timeout {
            return Some(newest.sender);
        }
        // The others that are ready are older.
        kept.retain(|kept| !kept.sender.is_ready());
        None
    }

    fn keep(self: &Arc<Self>, sender: SendRequest<Body>) {
        if sender.is_closed() {
            return;
        }
        self.kept().push(Kept { sender, since: Stopwatch::start() });
        if !self.has_sweeper.swap(true, Ordering::Relaxed) {
            self.tasks.spawn(sweep(Arc::downgrade(self), self.idle_timeout));
        }
    }

    /// Removes what is closed, and the oldest of more idle connections than are allowed. Whether a connection becomes idle is
    /// known only afterwards, so this runs before one is taken and in the sweep.
    fn trim(&self, kept: &mut Vec<Kept>) {
        if kept.len() <= self.max_idle {
            return;
        }
        kept.retain(|kept| !kept.sender.is_closed());
        let idle = kept.iter().filter(|kept| kept.sender.is_ready()).count();
        let mut surplus = idle.saturating_sub(self.max_idle);
        kept.retain(|kept| {
            let goes = surplus > 0 && kept.sender.is_ready();
            surplus -= usize::from(goes);
            !goes
        });
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Failure> {
        let server = self.server.clone();
        match &self.connector {
            Connector::Plain(connector) => {
                let io = connector.clone().oneshot(server).await;
                self.handshake(io.map_err(|error| Failure::Connect(error.into()))?).await
            }
            Connector::Tls(connector) => {
                self.handshake(connector.clone().oneshot(server).await.map_err(Failure::Connect)?).await
            }
        }
    }

    async fn handshake<T>(&self, io: T) -> Result<SendRequest<Body>, Failure>
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        let made = http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(io).await;
        let (sender, connection) = made.map_err(|error| Failure::Connect(error.into()))?;
        // Ends when the server closes the connection, or with the last response after `sender` was dropped.
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %cause(&error), "a connection to MLflow ended");
            }
        });
        Ok(sender)
    }
}

/// Closes connections that were not used for a while, until the pool is dropped.
async fn sweep(pool: std::sync::Weak<Pool>, idle_timeout: Duration) {
    loop {
        tokio::time::sleep(idle_timeout / 4).await;
        let Some(pool) = pool.upgrade() else { return };
        let is_needed = |kept: &Kept| {
            !kept.sender.is_closed() && (!kept.sender.is_ready() || kept.since.elapsed() < pool.idle_timeout)
        };
        let mut kept = pool.kept();
        kept.retain(is_needed);
        pool.trim(&mut kept);
    }
}

#[cfg(test)]
mod tests;
