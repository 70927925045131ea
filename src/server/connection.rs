//! One connection: TLS, HTTP/1 or HTTP/2, requests, idleness and shutdown.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::guard::Guard;
use super::inspect::{HEADERS, Inspector};
use super::service::Service;
use super::stream::{Stream, Wire};
use super::{EdgeRefusal, Peer, tls};
use crate::config;
use crate::http::Response;
use crate::telemetry::Metrics;

/// Builder for connections with the same settings. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Builder {
    parts: Arc<Parts>,
}

#[derive(Debug)]
struct Parts {
    limits: Limits,
    http1: http1::Builder,
    http2: http2::Builder<Tasks>,
    tls: Option<tls::Acceptor>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Limits {
    max_head_bytes: usize,
    max_headers: usize,
    head_timeout: Duration,
    tls_handshake_timeout: Duration,
    idle_timeout: Duration,
    drain_timeout: Duration,
}

/// Executor for HTTP/2 streams, which are separate tasks and are tracked like connections.
#[derive(Clone, Debug)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

impl Builder {
    pub(super) fn new(
        config: &config::Server,
        tasks: TaskTracker,
        tls: Option<tls::Acceptor>,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Self {
        let limits = Limits {
            max_head_bytes: config.max_head_bytes,
            max_headers: config.max_headers.min(HEADERS),
            head_timeout: config.head_timeout,
            tls_handshake_timeout: config.tls_handshake_timeout,
            idle_timeout: config.idle_timeout,
            drain_timeout: config.drain_timeout,
        };
        let http1 = http1(&limits);
        let http2 = http2(&limits, Tasks(tasks));
        Self { parts: Arc::new(Parts { limits, http1, http2, tls, metrics, stop }) }
    }

    /// Runs one connection to its end. The future stays small until the protocol is known, so that a silent
    /// connection uses little memory. After `stop` is cancelled, an idle connection ends at once, and a busy one
    /// after the requests in progress.
    pub(super) fn connection<H, F>(
        &self,
        tcp: TcpStream,
        address: SocketAddr,
        wire: Arc<Wire>,
        stop: CancellationToken,
        handler: H,
    ) -> impl Future<Output = ()> + Send + use<H, F>
    where
        H: Fn(http::Request<Incoming>, Peer, Option<EdgeRefusal>) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let parts = Arc::clone(&self.parts);
        async move {
            let _open = Open::count(&parts.metrics);
            let peer = Peer { address, tls: parts.tls.is_some() };
            let opened = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                opened = parts.open(tcp, &wire) => opened,
            };
            let (stream, protocol) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::debug!(%error, %address, "a connection ended before its first request");
                    return;
                }
            };
            let (metrics, max_headers) = (Arc::clone(&parts.metrics), parts.limits.max_headers);
            let service = Service { handler, peer, wire: Arc::clone(&wire), metrics, max_headers, calls: Cell::new(0) };
            match protocol {
                Protocol::Http1 => Box::pin(parts.http1(stream, wire, service, stop)).await,
                Protocol::Http2 => Box::pin(parts.http2(stream, wire, service, stop)).await,
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Protocol {
    Http1,
    Http2,
}

impl Parts {
    /// Determines the protocol from the TLS handshake or from the first bytes.
    async fn open(&self, tcp: TcpStream, wire: &Arc<Wire>) -> io::Result<(Stream, Protocol)> {
        if let Some(acceptor) = &self.tls {
            let accepted = timeout(self.limits.tls_handshake_timeout, acceptor.accept(tcp)).await;
            let tls = accepted.map_err(io::Error::from).flatten().inspect_err(|_| self.metrics.tls_failures.inc())?;
            let protocol = match tls.get_ref().1.alpn_protocol() {
                Some(b"h2") => Protocol::Http2,
                _ => Protocol::Http1,
            };
            return Ok((Stream::tls(tls, Arc::clone(wire)), protocol));
        }
        let protocol = timeout(self.limits.head_timeout, protocol_of(&tcp)).await??;
        Ok((Stream::plain(tcp, Arc::clone(wire)), protocol))
    }

    async fn http1<H, F>(&self, stream: Stream, wire: Arc<Wire>, service: Service<H>, stop: CancellationToken)
    where
        H: Fn(http::Request<Incoming>, Peer, Option<EdgeRefusal>) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let inspector = Inspector::new(self.limits.max_head_bytes, self.limits.max_headers);
        let guard = Guard::new(stream, Arc::clone(&wire), inspector, self.limits.head_timeout);
        let connection = self.http1.serve_connection(TokioIo::new(guard), service);
        self.drive(connection, &wire, stop, Wire::moves).await;
        if wire.broken() {
            self.metrics.edge_refused(EdgeRefusal::Chunk.as_str());
        }
    }

    async fn http2<H, F>(&self, stream: Stream, wire: Arc<Wire>, service: Service<H>, stop: CancellationToken)
    where
        H: Fn(http::Request<Incoming>, Peer, Option<EdgeRefusal>) -> F + Send + 'static,
        F: Future<Output = Response> + Send + 'static,
    {
        let connection = self.http2.serve_connection(TokioIo::new(stream), service);
        self.drive(connection, &wire, stop, Wire::steps).await;
    }

    /// Polls hyper until the connection ends, `progress` is unchanged for too long, or `stop` is cancelled.
    async fn drive<C>(&self, connection: C, wire: &Wire, stop: CancellationToken, progress: fn(&Wire) -> u64)
    where
        C: GracefulConnection<Error = hyper::Error> + Future<Output = Result<(), hyper::Error>>,
    {
        let mut connection = pin!(connection);
        let mut stopped = pin!(stop.cancelled());
        let mut stopping = false;
        // Two quiet checks in a row mean that nothing moved for 1 to 1.5 times the idle timeout.
        let half = self.limits.idle_timeout / 2;
        let mut tick = pin!(sleep(half));
        let mut idle = Idle::default();
        loop {
            tokio::select! {
                biased;
                ended = connection.as_mut() => return self.note(ended),
                () = stopped.as_mut(), if !stopping => {
                    if wire.is_idle() && !self.stop.is_cancelled() {
                        return; // makes room for another connection
                    }
                    stopping = true;
                    graceful(connection.as_mut());
                    tick.set(sleep(self.limits.drain_timeout));
                }
                () = tick.as_mut() => {
                    if stopping || idle.twice(progress(wire), wire.our_turn()) {
                        return; // dropped, which closes it and cancels what was under way
                    }
                    tick.set(sleep(half));
                }
            }
        }
    }

    fn note(&self, ended: Result<(), hyper::Error>) {
        let Err(error) = ended else { return };
        if error.is_parse() {
            // hyper has answered 400 itself: the head passed the inspector, but has an invalid target, for example.
            self.metrics.edge_refused("unparseable");
        }
        tracing::debug!(%error, "a connection ended early");
    }
}

fn graceful<C: GracefulConnection>(connection: Pin<&mut C>) {
    connection.graceful_shutdown();
}

/// The progress at the previous check.
#[derive(Debug, Default)]
struct Idle {
    progress: u64,
    quiet: bool,
}

impl Idle {
    /// Returns true if there was no progress at this check and at the previous one.
    fn twice(&mut self, progress: u64, our_turn: bool) -> bool {
        let quiet = progress == self.progress && !our_turn;
        self.progress = progress;
        std::mem::replace(&mut self.quiet, quiet) && quiet
    }
}

/// Counts a connection while it is open.
#[derive(Debug)]
struct Open(Arc<Metrics>);

impl Open {
    fn count(metrics: &Arc<Metrics>) -> Self {
        metrics.connections_total.inc();
        metrics.connections.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Peeks at a plain connection: HTTP/2 with prior knowledge starts with a preface that is not valid HTTP/1.
async fn protocol_of(tcp: &TcpStream) -> io::Result<Protocol> {
    let mut first = [0; PREFACE.len()];
    loop {
        let count = tcp.peek(&mut first).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let first = first.get(..count).unwrap_or_default();
        if !PREFACE.starts_with(first) {
            return Ok(Protocol::Http1);
        }
        if count == PREFACE.len() {
            return Ok(Protocol::Http2);
        }
        // Part of the preface has arrived. Peeking again without a pause would spin, because the bytes stay readable.
        sleep(Duration::from_millis(10)).await;
    }
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    // The guard times each head from its first byte; hyper's timer would also close idle kept-alive connections.
    // `pipeline_flush` stays off, because it removes the bound of the write buffer.
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_headers(limits.max_headers)
        .max_buf_size(limits.max_head_bytes.max(HYPER_MIN_BUFFER));
    builder
}

fn http2(limits: &Limits, tasks: Tasks) -> http2::Builder<Tasks> {
    let mut builder = http2::Builder::new(tasks);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(HTTP2_STREAMS)
        .max_header_list_size(u32::try_from(limits.max_head_bytes).unwrap_or(u32::MAX))
        // Closes connections that open and reset streams faster than they are handled (CVE-2023-44487).
        .max_pending_accept_reset_streams(HTTP2_PENDING_RESETS)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .max_send_buf_size(limits.max_head_bytes.max(HYPER_MIN_BUFFER))
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(HTTP2_PING);
    builder
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// hyper panics on a smaller value.
const HYPER_MIN_BUFFER: usize = 8192;
const HTTP2_STREAMS: u32 = 128;
const HTTP2_PENDING_RESETS: usize = 20;
/// Bytes of an upload that can wait for a slow MLflow, per stream and per connection.
const HTTP2_STREAM_WINDOW: u32 = 256 * 1024;
const HTTP2_CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Interval of the pings that a peer has to answer while streams are open.
const HTTP2_PING: Duration = Duration::from_secs(20);
