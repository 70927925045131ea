//! Request bodies that are read into memory: their size, their pace, and the memory that they share.
//!
//! Every body that is inspected is read through [`Bodies::read`]; all others are streamed. Reading and rebuilding a body
//! requires at most [`INSPECTION_COST`] times its size (`mlflow::json`). That part of the budget is reserved as the bytes
//! arrive, so that a client cannot reserve memory by announcing a length.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use prometheus::IntGauge;
use tokio::time::{Sleep, sleep, timeout};

use crate::budget::{Budget, Full, Owner, Share};
use crate::clock::Stopwatch;
use crate::config::{self, INSPECTION_COST};
use crate::http::{Body, ReadError, Watcher};

/// Least size of an allocation for a body that arrives in several pieces.
const FIRST_BYTES: usize = 1024;

/// The reason why a body was not read.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The client sends more slowly than the configuration allows.
    #[error("the body arrives too slowly")]
    TooSlow,
    /// The bodies of all callers, or those of this caller, use up the budget.
    #[error("too many bodies are being inspected")]
    NoRoom(Full),
}

impl BodyError {
    /// Returns a bounded word for logs and metrics.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::Read(ReadError::TooLarge { .. }) => "body_too_large",
            Self::Read(ReadError::Broken) => "body_broken",
            Self::TooSlow => "body_too_slow",
            Self::NoRoom(Full::Everybodys) => "inspection_budget",
            Self::NoRoom(Full::Callers) => "inspection_share",
        }
    }
}

/// Reads request bodies within the configured limits.
#[derive(Debug)]
pub struct Bodies {
    budget: Arc<Budget>,
    pace: Pace,
}

/// A body in memory. Holds its share of the budget until it is dropped.
#[derive(Debug)]
pub struct Held {
    pub bytes: Bytes,
    pub share: Share,
}

impl Bodies {
    /// Creates the limits of this configuration. `reserved` shows the memory in use.
    #[must_use]
    pub fn new(server: &config::Server, reserved: IntGauge) -> Self {
        let pace = Pace {
            first: server.head_timeout,
            whole: server.body_timeout,
            bytes_per_second: server.min_body_bytes_per_second,
        };
        Self { budget: Arc::new(Budget::new(server.inspection_budget_bytes, reserved)), pace }
    }

    /// Returns the body of a request that is forwarded as a stream. The stream ends with an error when its sender falls below
    /// the minimum pace, because some servers have only a few workers, each of which reads one body at a time.
    pub(super) fn streamed(&self, incoming: Incoming) -> Body {
        let Pace { first, bytes_per_second, .. } = self.pace;
        Body::watched(
            incoming,
            Box::new(Streaming { most: first, left: first, bytes_per_second, wait: None, timer: None }),
        )
    }

    /// Reads a body of at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// The body is too large or too slow, its stream failed, or there is no memory for it.
    pub async fn read<B>(&self, body: Option<&mut B>, owner: Owner, limit: usize) -> Result<Held, BodyError>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        let mut share = Share::of(&self.budget, owner);
        let Some(body) = body else { return Ok(Held { bytes: Bytes::new(), share }) };
        let hint = body.size_hint();
        if hint.lower() > limit as u64 {
            return Err(ReadError::TooLarge { limit }.into());
        }
        let expected = hint.exact().and_then(|exact| usize::try_from(exact).ok());
        let (mut watch, mut waited) = (None, Duration::ZERO);
        let mut pieces = Pieces::default();
        while !body.is_end_stream() {
            // Data that has already arrived needs no timer.
            let frame = match at_once(body.frame()) {
                Poll::Ready(frame) => frame,
                Poll::Pending => {
                    let watch: Stopwatch = *watch.get_or_insert_with(Stopwatch::start);
                    // Time spent waiting for memory is not the sender's.
                    let left = (self.pace.allowed(pieces.len()) + waited).saturating_sub(watch.elapsed());
                    timeout(left, body.frame()).await.map_err(|_| BodyError::TooSlow)?
                }
            };
            let frame = match frame {
                None => break,
                Some(Err(_)) => return Err(ReadError::Broken.into()),
                Some(Ok(frame)) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            if pieces.len() + data.len() > limit {
                return Err(ReadError::TooLarge { limit }.into());
            }
            if let Some(room) = pieces.room_for(data.len(), expected.unwrap_or(limit)) {
                if !share.grow_at_once(room.saturating_mul(INSPECTION_COST)) {
                    let wait = Stopwatch::start();
                    share.grow(room.saturating_mul(INSPECTION_COST)).await.map_err(BodyError::NoRoom)?;
                    waited += wait.elapsed();
                }
                pieces.reserve(room);
            }
            pieces.push(data);
        }
        let bytes = pieces.finish();
        share.shrink(bytes.len().saturating_mul(INSPECTION_COST));
        Ok(Held { bytes, share })
    }
}

/// Polls a future once. A future that is not ready is dropped, so it must be cancel-safe.
fn at_once<F: Future>(future: F) -> Poll<F::Output> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Runs `work` on a body of `size` bytes. For a large body, the runtime first moves other tasks of this thread to another
/// thread.
pub(super) fn aside<T>(size: usize, work: impl FnOnce() -> T) -> T {
    if size > INLINE_BYTES { tokio::task::block_in_place(work) } else { work() }
}

/// Up to this size, the inspection of a body takes at most a few hundred microseconds.
const INLINE_BYTES: usize = 64 * 1024;

/// The pace at which a body must arrive.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// Time limit for the first byte. Also the tolerance for later delays.
    first: Duration,
    /// Time limit for the whole body.
    whole: Duration,
    bytes_per_second: u32,
}

impl Pace {
    /// Returns the time by which the next byte must arrive, counted from the start.
    fn allowed(self, seen: usize) -> Duration {
        let seen = Duration::from_secs(seen as u64) / self.bytes_per_second.max(1);
        self.first.saturating_add(seen).min(self.whole)
    }
}

/// Measures the pace of a streamed body. Only time spent waiting for the sender counts, so a slow receiver does not affect the
/// sender.
#[derive(Debug)]
struct Streaming {
    /// The maximum time to wait for the sender. Limits the credit that a fast sender accumulates.
    most: Duration,
    /// The remaining time to wait for the sender.
    left: Duration,
    bytes_per_second: u32,
    /// Runs while waiting for the sender.
    wait: Option<Stopwatch>,
    /// Fires when `left` has passed. Reused for each wait, so that a wait allocates nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Streaming {
    fn arrived(&mut self, bytes: usize) {
        if let Some(wait) = self.wait.take() {
            self.left = self.left.saturating_sub(wait.elapsed());
        }
        let earned = Duration::from_secs(bytes as u64) / self.bytes_per_second.max(1);
        self.left = self.left.saturating_add(earned).min(self.most);
    }
}

impl Watcher for Streaming {
    fn sent(&mut self, bytes: usize) {
        self.arrived(bytes);
    }

    fn complete(&mut self) {}

    fn broke(&mut self) {}

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(left)));
        if self.wait.is_none() {
            self.wait = Some(Stopwatch::start());
            timer.set(sleep(left));
        }
        timer.as_mut().poll(cx)
    }
}

/// A body as it arrives. The only piece of a small body is kept without a copy.
#[derive(Debug, Default)]
struct Pieces {
    only: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn len(&self) -> usize {
        self.only.len() + self.all.len()
    }

    /// Returns the capacity to grow to before `more` bytes are added; `None` if there is room. Doubles, up to `expected`.
    fn room_for(&self, more: usize, expected: usize) -> Option<usize> {
        let needed = self.len() + more;
        if self.len() == 0 {
            return Some(needed);
        }
        if needed <= self.all.capacity() {
            return None;
        }
        // From what has arrived, not from what was announced.
        Some(needed.saturating_mul(2).max(FIRST_BYTES).min(expected).max(needed))
    }

    fn reserve(&mut self, room: usize) {
        if self.len() == 0 {
            return;
        }
        // Allocates exactly this size, because `reserve` would round up.
        let mut larger = BytesMut::with_capacity(room);
        larger.extend_from_slice(&self.only);
        larger.extend_from_slice(&self.all);
        self.only = Bytes::new();
        self.all = larger;
    }

    fn push(&mut self, data: Bytes) {
        if self.len() == 0 { self.only = data } else { self.all.extend_from_slice(&data) }
    }

    fn finish(self) -> Bytes {
        if self.all.is_empty() {
            return self.only;
        }
        // Up to half of the buffer of a body of unknown length may be empty.
        if self.all.len() < self.all.capacity() - self.all.capacity() / 8 {
            return Bytes::copy_from_slice(&self.all);
        }
        self.all.freeze()
    }
}

#[cfg(test)]
mod tests;
