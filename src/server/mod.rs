//! Bytes -> requests: listeners, TLS, connections, drain. Knows nothing of MLflow.
//!
//! [`serve`] is the only door. Each connection is one task: a peek decides HTTP/1 or HTTP/2, [`inspect`] vets every
//! HTTP/1 head before hyper sees it, `connection` watches for idleness and for the end.

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

/// Who is at the other end of the connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Of the TCP connection: the last proxy before us, or the client.
    pub address: SocketAddr,
    pub tls: bool,
}

/// Serves until `stop` is cancelled; then takes no new connections, lets requests under way finish for at most
/// `drain_timeout`, closes what is left and returns.
///
/// `handler` is called once per request. With `Some(EdgeRefusal)` the request is a stand-in (method kept where it is a
/// known one, path `/`) for bytes that were refused: answer with [`EdgeRefusal::reply`]; the connection closes after it.
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
                    if is_out_of_descriptors(&error) && register.close_longest_idle() {
                        metrics.connections_evicted.inc();
                    }
                    pause.after(&error).await;
                    continue;
                }
            };
            pause = Backoff::default();
            // A child: polling it takes no lock that other connections want.
            let (wire, stop) = (Arc::new(register.wire()), stop.child_token());
            let Ok((entered, closed)) = register.enter(address.ip(), Arc::clone(&wire), stop.clone()) else {
                metrics.connections_refused.inc();
                continue;
            };
            metrics.connections_evicted.inc_by(closed as u64);
            let slot = match Arc::clone(&slots).try_acquire_owned() {
                Ok(slot) => Slot::Taken(slot),
                // Full: the place of the longest idle connection, which closes now.
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
        // Every connection bounds its own drain; this is the belt to those braces.
        if tokio::time::timeout(drain, connections.wait()).await.is_err() {
            tracing::warn!(left = connections.len(), "connections were still open after the drain");
        }
    }
}

/// The right to one of `max_connections`.
#[derive(Debug)]
enum Slot {
    Taken(OwnedSemaphorePermit),
    /// Another connection is closing.
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
            // A request reached the chosen connection first, and is being answered.
            if !register.close_longest_idle() {
                return None;
            }
            metrics.connections_evicted.inc();
        }
        None
    }
}

/// Small answers leave at once.
fn tuned(tcp: TcpStream) -> TcpStream {
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    tcp
}

/// Returns whether the process, or the system, has no descriptor for another connection.
fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

/// Waits longer and longer while the operating system cannot give us connections (usually: out of descriptors).
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(Duration::from_millis(10))
    }
}

impl Backoff {
    async fn after(&mut self, error: &std::io::Error) {
        use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return; // that one connection's trouble, not ours
        }
        tracing::warn!(%error, pause = ?self.0, "no connection could be accepted");
        tokio::time::sleep(self.0).await;
        self.0 = self.0.saturating_mul(2).min(Duration::from_secs(1));
    }
}

/// Connections that wait for the place of one that closes.
const MAX_WAITING: usize = 256;
/// An idle connection closes as soon as its task runs.
const SLOT_WAIT: Duration = Duration::from_millis(250);
const SLOT_TRIES: usize = 4;
/// What `serve` waits beyond each connection's own limit.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
