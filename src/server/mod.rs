//! HTTP server: listeners, TLS, connections and drain. Independent of MLflow.
//!
//! [`serve`] is the only entry point. Each connection is one task: a peek selects HTTP/1 or HTTP/2, [`inspect`] vets
//! every HTTP/1 head before hyper reads it, and `connection` detects idleness and shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::http::Response;
use crate::telemetry::Metrics;

use register::Register;

pub mod admin;
mod certificate;
mod chunked;
mod connection;
pub mod descriptors;
mod guard;
mod inspect;
mod refusal;
mod register;
mod service;
mod stream;
pub mod tls;

pub use refusal::EdgeRefusal;

/// The remote end of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Remote address of the TCP connection: that of the last proxy in front, or of the client.
    pub address: SocketAddr,
    pub tls: bool,
}

/// Serves until `stop` is cancelled. Then accepts no new connections, lets requests in progress finish for at most
/// `drain_timeout`, closes the remaining connections and returns.
///
/// `handler` is called once per request. With `Some(EdgeRefusal)`, the request is a stand-in for refused bytes (path
/// `/`, and the method if it is a known one). It must be answered with [`EdgeRefusal::reply`]; the connection closes
/// afterwards.
pub fn serve<H, F>(
    config: &config::Server,
    listener: TcpListener,
    tls: Option<tls::Acceptor>,
    handler: H,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + Send + use<H, F>
where
    H: Fn(http::Request<Incoming>, Peer, Option<EdgeRefusal>) -> F + Clone + Send + 'static,
    F: Future<Output = Response> + Send + 'static,
{
    let connections = TaskTracker::new();
    let builder = connection::Builder::new(config, connections.clone(), tls, Arc::clone(&metrics), stop.clone());
    let register = Arc::new(Register::new(config.max_connections_per_address, config.trusted_proxies.clone()));
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let drain = config.drain_timeout.saturating_add(DRAIN_MARGIN);
    async move {
        let mut pause = Backoff::default();
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (tcp, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    let closed = is_out_of_descriptors(&error) && register.close_longest_idle();
                    if closed {
                        metrics.connections_evicted.inc();
                    }
                    pause.after(&error, closed).await;
                    continue;
                }
            };
            pause = Backoff::default();
            // A child token: polling it takes no lock that other connections contend for.
            let (wire, stop) = (Arc::new(register.wire()), stop.child_token());
            let Ok((entered, closed)) = register.enter(address.ip(), Arc::clone(&wire), stop.clone()) else {
                metrics.connections_refused.inc();
                continue;
            };
            metrics.connections_evicted.inc_by(closed as u64);
            let slot = match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => Slot::Taken(slot),
                // Full: the longest idle connection is closed, and the new one takes its place.
                Err(_) => match Arc::clone(&waiting).try_acquire_owned() {
                    Ok(waits) if register.close_longest_idle() => {
                        metrics.connections_evicted.inc();
                        Slot::Soon(Arc::clone(&slots), Arc::clone(&register), waits)
                    }
                    Ok(_) | Err(_) => {
                        metrics.connections_refused.inc();
                        continue;
                    }
                },
            };
            let connection = builder.connection(tuned(tcp), address, wire, stop, handler.clone());
            let metrics = Arc::clone(&metrics);
            connections.spawn(async move {
                let Some(slot) = slot.taken(&metrics).await else { return metrics.connections_refused.inc() };
                connection.await;
                drop((slot, entered));
            });
        }
        drop(listener);
        connections.close();
        // Every connection limits its own drain; this timeout is a safeguard in case one does not.
        if tokio::time::timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections were still open after the drain");
        }
    }
}

/// The right to one of `max_connections`.
#[derive(Debug)]
enum Slot {
    Taken(OwnedSemaphorePermit),
    /// Waits for another connection that is closing.
    Soon(Arc<Semaphore>, Arc<Register>, OwnedSemaphorePermit),
}

impl Slot {
    async fn taken(self, metrics: &Metrics) -> Option<OwnedSemaphorePermit> {
        let (slots, register, _waits) = match self {
            Self::Taken(slot) => return Some(slot),
            Self::Soon(slots, register, waits) => (slots, register, waits),
        };
        for _ in 0..SLOT_TRIES {
            if let Ok(slot) = tokio::time::timeout(SLOT_WAIT, Arc::clone(&slots).acquire_owned()).await {
                return slot.ok();
            }
            // The connection that was chosen has received a request in the meantime, so another one has to be closed.
            if !register.close_longest_idle() {
                return None;
            }
            metrics.connections_evicted.inc();
        }
        None
    }
}

/// Sets TCP_NODELAY, so that small answers are sent without delay.
fn tuned(tcp: TcpStream) -> TcpStream {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    tcp
}

/// Returns true if the process, or the system, has no descriptor for another connection.
fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Pause while the operating system cannot accept connections, usually for lack of descriptors. It increases, except
/// while idle connections are closed for the new one: each of those soon frees a descriptor.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(SHORTEST_PAUSE)
    }
}

impl Backoff {
    async fn after(&mut self, error: &std::io::Error, closed: bool) {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return; // the error concerns this connection only
        }
        if closed {
            tracing::debug!(%error, "an idle connection was closed for a new one");
            return tokio::time::sleep(SHORTEST_PAUSE).await;
        }
        tracing::warn!(%error, pause = ?self.0, "no connection could be accepted");
        tokio::time::sleep(self.0).await;
        self.0 = self.0.saturating_mul(2).min(Duration::from_secs(1));
    }
}

const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of connections that wait for the place of a closing one.
const MAX_WAITING: usize = 256;
/// Time for the task of an idle connection to run and close it.
const SLOT_WAIT: Duration = Duration::from_millis(250);
const SLOT_TRIES: usize = 4;
/// Time that `serve` waits beyond each connection's own limit.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
