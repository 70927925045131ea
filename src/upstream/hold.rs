//! Holds requests back while MLflow cannot be reached.
//!
//! A request is held before it has a connection, so none of its bytes can have been sent: either before it is decided
//! ([`super::Upstream::reachable`]), or after a connection could not be made for it, when a copy of it is sent as the first one
//! would have been. The caller's rights can change during the wait, so they are checked again after it ([`Caller`]).
//!
//! The waiting requests share one probe. The request that holds the turn sends the probe; when that request is
//! released or its client disconnects, the next one takes over. No task polls while no request waits.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, Request, Uri};
use hyper::rt::{Read, Write};
use prometheus::{IntCounterVec, IntGauge};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tower::{Service, ServiceExt as _};

use super::{Error, Unsent, Why};
use crate::authz::UserId;
use crate::clock::Stopwatch;
use crate::config;
use crate::http::Body;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The caller on whose behalf requests are sent.
pub trait Caller: Send + Sync {
    fn user(&self) -> UserId;

    /// Returns true if the caller was identified a moment ago.
    fn is_recent(&self) -> bool;

    /// Returns true if the caller has the same rights as when the request was decided. Asks who the caller is now.
    fn is_unchanged(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>>;
}

tokio::task_local! {
    /// The caller of the request that is being answered; absent where a request must not be held.
    static CALLER: Arc<dyn Caller>;

    /// Set while no request may be held.
    static IMPATIENT: ();
}

/// Runs `work` for a request of `caller`, whose requests to MLflow may be held.
pub fn on_behalf<F: Future>(caller: Arc<dyn Caller>, work: F) -> impl Future<Output = F::Output> {
    // Not an `async fn`, which would hold `work` twice.
    CALLER.scope(caller, work)
}

/// Runs `work`, which becomes a task of its own, on behalf of the caller of this task. None of its requests is held.
pub fn on_behalf_of_the_same<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let caller = CALLER.try_with(Arc::clone).ok();
    let work = impatiently(work);
    async {
        match caller {
            Some(caller) => CALLER.scope(caller, work).await,
            None => work.await,
        }
    }
}

/// Identifies the caller of this task again if deciding its request took long: its body arrived slowly, a look-up was slow, or it
/// waited for its turn.
///
/// # Errors
/// The caller has other rights than those with which the request was decided.
pub async fn confirm_rights() -> Result<(), Error> {
    // Most requests are decided within moments, and then nothing is cloned.
    if CALLER.try_with(|caller| caller.is_recent()).unwrap_or(true) {
        return Ok(());
    }
    let unchanged = match CALLER.try_with(Arc::clone) {
        Ok(caller) => caller.is_unchanged().await,
        Err(_) => true,
    };
    if unchanged { Ok(()) } else { Err(Unsent { why: Why::Changed, retry_after_seconds: 1 }.into()) }
}

/// Returns the caller on whose behalf this task sends requests, if they may be held.
pub(super) fn caller() -> Option<Arc<dyn Caller>> {
    if IMPATIENT.try_with(|()| ()).is_ok() {
        return None;
    }
    CALLER.try_with(Arc::clone).ok()
}

/// Runs work of the proxy itself, or in a turn that other requests wait for. None of its requests to MLflow is held.
pub fn impatiently<F: Future>(work: F) -> impl Future<Output = F::Output> {
    IMPATIENT.scope((), work)
}

/// Metrics of held requests.
#[derive(Clone, Debug)]
pub struct Holds {
    /// Number of requests that wait now.
    pub waiting: IntGauge,
    /// Requests that waited, by outcome: `released`, `expired`, `abandoned`, `draining`, or did not: `no_room`, `no_share`.
    pub ended: IntCounterVec,
}

/// The last known reachability of MLflow, and the requests that wait for it.
pub(super) struct Gate {
    /// True after a failed connection, until MLflow answers again.
    shut: AtomicBool,
    /// True while the proxy shuts down.
    draining: AtomicBool,
    since: Mutex<Option<Stopwatch>>,
    changed: Notify,
    turn: tokio::sync::Mutex<Turn>,
    probe: Box<dyn Fn() -> Boxed<bool> + Send + Sync>,
    /// `None` if holding is off: every request fails at once.
    room: Option<Room>,
}

/// Limits of held requests.
struct Room {
    limit: Duration,
    requests: Semaphore,
    /// Memory in units of [`UNIT`] bytes.
    units: Semaphore,
    /// Places and units that each user holds.
    shares: Mutex<HashMap<UserId, Share>>,
    /// Largest share of one user.
    most: Share,
    holds: Holds,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Share {
    requests: usize,
    units: usize,
}

/// Start of the last probe, and the pause before the next one.
#[derive(Default)]
struct Turn {
    last: Option<Stopwatch>,
    pause: Duration,
}

const UNIT: usize = 1024;
/// Fractions of the places and of the bytes that one user can hold, so that a single user cannot make the requests of all
/// others fail. A user can always hold [`LEAST_PLACES`], which a data loader needs.
const PLACES_OF: usize = 8;
const BYTES_OF: usize = 4;
const LEAST_PLACES: usize = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A server that accepts a connection but does not answer within this time counts as slow, not as unreachable.
const PROBE_PATIENCE: Duration = Duration::from_millis(1500);
/// Bounds of `Retry-After`, which is half of the time since MLflow became unreachable. With seven attempts, MLflow's
/// Python clients then retry for about four minutes, as with their own back-off against an MLflow that refuses
/// connections.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u64> = 1..=30;
/// Minimum `Retry-After` for a request that was not held for lack of room.
const CROWDED_SECONDS: u64 = 5;

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate").field("shut", &self.shut).field("draining", &self.draining).finish_non_exhaustive()
    }
}

impl Gate {
    /// Creates a gate. `connector` and `health` define the probe, which uses a connection of its own.
    pub(super) fn new<C>(
        config: &config::Upstream,
        holds: Option<Holds>,
        connector: C,
        health: Uri,
        host: HeaderValue,
    ) -> Self
    where
        C: Service<Uri> + Clone + Send + Sync + 'static,
        C::Response: Read + Write + Unpin + Send + 'static,
        C::Future: Send,
    {
        // The client waits for both limits together, so holding must leave time for the answer.
        let limit = config.hold.min(config.response_timeout / 2);
        let room = holds.filter(|_| !limit.is_zero()).map(|holds| Room {
            limit,
            requests: Semaphore::new(config.hold_max_requests),
            units: Semaphore::new(config.hold_max_bytes / UNIT),
            shares: Mutex::default(),
            most: Share {
                requests: (config.hold_max_requests / PLACES_OF).max(LEAST_PLACES),
                units: config.hold_max_bytes / UNIT / BYTES_OF,
            },
            holds,
        });
        Self {
            shut: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            since: Mutex::default(),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::default(),
            probe: Box::new(move || Box::pin(is_there(connector.clone(), health.clone(), host.clone()))),
            room,
        }
    }

    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Relaxed)
    }

    /// Returns true if requests may wait at all.
    pub(super) const fn holds(&self) -> bool {
        self.room.is_some()
    }

    /// Records that a connection could not be made.
    pub(super) fn shut(&self) {
        if !self.shut.swap(true, Ordering::SeqCst) {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stopwatch::start());
            tracing::warn!("MLflow cannot be reached");
        }
    }

    /// Records that MLflow answered, and releases all waiting requests.
    pub(super) fn open(&self) {
        if self.shut.swap(false, Ordering::SeqCst) {
            let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).take();
            let seconds = since.map_or(0, |since| since.elapsed().as_secs());
            tracing::info!(seconds, "MLflow can be reached again");
            self.changed.notify_waiters();
        }
    }

    /// Ends all waiting, for shutdown.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.changed.notify_waiters();
    }

    /// Returns the seconds after which a client that was not served should retry.
    pub(super) fn retry_after(&self) -> u64 {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let away = since.map_or(0, |since| since.elapsed().as_secs());
        (away / 2).clamp(*RETRY_AFTER_SECONDS.start(), *RETRY_AFTER_SECONDS.end())
    }

    /// Returns the time since MLflow became unreachable.
    pub(super) fn away(&self) -> Duration {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, Stopwatch::elapsed)
    }

    /// Reserves a place to wait for a user's request that holds `bytes` in memory.
    ///
    /// # Errors
    /// Holding is off, or there is no room, in all or for this user. Contains the seconds after which the client should retry.
    pub(super) fn hold(&self, user: UserId, bytes: usize) -> Result<Hold<'_>, u64> {
        let Some(room) = &self.room else { return Err(self.retry_after()) };
        let units = bytes.div_ceil(UNIT);
        let refused = |outcome: &str| {
            room.holds.ended.with_label_values(&[outcome]).inc();
            self.retry_after().max(CROWDED_SECONDS)
        };
        let share = room.share(user, units).ok_or_else(|| refused("no_share"))?;
        let permits = u32::try_from(units).unwrap_or(u32::MAX);
        let places = (room.requests.try_acquire(), room.units.try_acquire_many(permits));
        let (Ok(request), Ok(units)) = places else { return Err(refused("no_room")) };
        room.holds.waiting.inc();
        let watch = Stopwatch::start();
        Ok(Hold { gate: self, room, watch, outcome: "abandoned", _places: (request, units), _share: share })
    }

    /// Waits until MLflow answers a probe (`true`) or the proxy shuts down (`false`).
    async fn opened(&self) -> bool {
        loop {
            // Created before the flags are read: `notify_waiters` wakes only futures that exist already.
            let changed = self.changed.notified();
            if self.draining.load(Ordering::SeqCst) {
                return false;
            }
            if !self.shut.load(Ordering::SeqCst) {
                return true;
            }
            tokio::select! {
                () = changed => {}
                () = self.take_turn() => {}
            }
        }
    }

    /// Waits for the turn and for the pause since the last probe, then probes once.
    async fn take_turn(&self) {
        // Held during the pause and the probe, so that all waiting requests share one probe. Dropping this future passes the
        // turn on.
        let mut turn = self.turn.lock().await;
        let rest = turn.last.map_or(Duration::ZERO, |last| turn.pause.saturating_sub(last.elapsed()));
        tokio::time::sleep(rest).await;
        // Another request may have reached MLflow during the wait for the turn.
        if !self.shut.load(Ordering::SeqCst) {
            return;
        }
        // Set before the probe, so that the pause also applies if the client disconnects during the probe.
        turn.last = Some(Stopwatch::start());
        turn.pause = (turn.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
        if (self.probe)().await {
            *turn = Turn::default();
            self.open();
        }
    }
}

/// A waiting request, with its share of the limits.
#[derive(Debug)]
pub(super) struct Hold<'g> {
    gate: &'g Gate,
    room: &'g Room,
    watch: Stopwatch,
    outcome: &'static str,
    _places: (SemaphorePermit<'g>, SemaphorePermit<'g>),
    _share: Taken<'g>,
}

/// The part of a user's share that one request holds. Returned on drop.
#[derive(Debug)]
struct Taken<'g> {
    room: &'g Room,
    user: UserId,
    units: usize,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut shares = self.room.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(share) = shares.get_mut(&self.user) else { return };
        share.requests = share.requests.saturating_sub(1);
        share.units = share.units.saturating_sub(self.units);
        if share.requests == 0 {
            shares.remove(&self.user);
        }
    }
}

impl Room {
    fn share(&self, user: UserId, units: usize) -> Option<Taken<'_>> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get(&user).copied().unwrap_or_default();
        let after = Share { requests: share.requests.saturating_add(1), units: share.units.saturating_add(units) };
        if after.requests > self.most.requests || after.units > self.most.units {
            return None;
        }
        shares.insert(user, after);
        Some(Taken { room: self, user, units })
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("limit", &self.limit).finish_non_exhaustive()
    }
}

impl Hold<'_> {
    /// Continues a wait that began earlier: the limit counts from its start. Sets `began` if this is the first wait.
    pub(super) fn since(mut self, began: &mut Option<Stopwatch>) -> Self {
        self.watch = *began.get_or_insert(self.watch);
        self
    }

    /// Waits until MLflow can be reached. Returns false if the time limit is reached or the proxy shuts down.
    pub(super) async fn released(&mut self) -> bool {
        let left = self.room.limit.saturating_sub(self.watch.elapsed());
        let opened = tokio::time::timeout(left, self.gate.opened()).await;
        self.outcome = match opened {
            Ok(true) => "released",
            Ok(false) => "draining",
            Err(_) => "expired",
        };
        opened == Ok(true)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.room.holds.waiting.dec();
        self.room.holds.ended.with_label_values(&[self.outcome]).inc();
    }
}

/// Returns true if an HTTP server responds. A connection alone does not prove it, because port forwarders accept connections
/// before MLflow is up.
async fn is_there<C>(connector: C, health: Uri, host: HeaderValue) -> bool
where
    C: Service<Uri>,
    C::Response: Read + Write + Unpin,
{
    let Ok(connection) = connector.oneshot(health.clone()).await else { return false };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(connection).await else { return false };
    let mut request = Request::new(Body::Empty);
    *request.uri_mut() = health.path().parse().unwrap_or_default();
    request.headers_mut().insert(http::header::HOST, host);
    let mut answer = pin!(sender.send_request(request));
    let mut connection = pin!(connection);
    let mut ended = false;
    let answered = poll_fn(|cx| {
        if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
            return Poll::Ready(answer.is_ok());
        }
        if !ended {
            ended = connection.as_mut().poll(cx).is_ready();
        }
        // When a server closes after its answer, both futures are ready.
        answer.as_mut().poll(cx).map(|answer| answer.is_ok())
    });
    // No answer in time: the server accepted the connection, so it is slow and not unreachable.
    tokio::time::timeout(PROBE_PATIENCE, answered).await.unwrap_or(true)
}

#[cfg(test)]
mod tests;
