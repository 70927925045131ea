//! The body type of all responses: nothing, bytes, or MLflow's stream.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::sync::oneshot;

pin_project! {
    /// The body of a response or of a forwarded request. Streams are polled only when the receiver requests more.
    #[derive(Debug)]
    #[project = BodyProjection]
    pub enum Body {
        Empty,
        Full { bytes: Option<Bytes> },
        Streamed { #[pin] incoming: Incoming, watcher: Option<Box<dyn Watcher>>, gate: Option<Box<Gate>> },
        Lent { lent: Lent },
    }
}

/// Observes a stream. Dropped together with the stream: if [`Watcher::complete`] was not called before, the stream was aborted.
pub trait Watcher: std::fmt::Debug + Send + Sync {
    /// Reports the number of bytes that were passed on.
    fn sent(&mut self, bytes: usize);
    /// Reports the end of the stream.
    fn complete(&mut self);
    /// Reports an error of the source.
    fn broke(&mut self);

    /// Polled while the source has no data; ready when the sender has exceeded its time limit.
    fn poll_late(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Body {
    /// Wraps a stream with a watcher.
    #[must_use]
    pub fn watched(incoming: Incoming, watcher: Box<dyn Watcher>) -> Self {
        Self::Streamed { incoming, watcher: Some(watcher), gate: None }
    }

    /// Returns the same body for a second attempt to send it, after a first one that did not begin. Bytes are shared; a stream
    /// goes to the one that is polled first.
    #[must_use]
    pub fn share(&mut self) -> Self {
        let shelf = match self {
            Self::Empty => return Self::Empty,
            Self::Full { bytes } => return Self::Full { bytes: bytes.clone() },
            Self::Lent { lent } => Arc::clone(&lent.shelf),
            Self::Streamed { .. } => Arc::new(Mutex::new(Some(std::mem::replace(self, Self::Empty)))),
        };
        *self = Self::Lent { lent: Lent { shelf: Arc::clone(&shelf), taken: None } };
        Self::Lent { lent: Lent { shelf, taken: None } }
    }

    /// Counts the pieces of a stream from now on; returns `None` for a body in memory.
    pub fn count_pieces(&mut self) -> Option<Arc<AtomicU64>> {
        let Self::Streamed { watcher, .. } = self else { return None };
        let count = Arc::<AtomicU64>::default();
        *watcher = Some(Box::new(Counted { count: Arc::clone(&count), inner: watcher.take() }));
        Some(count)
    }

    /// Keeps the last piece of a stream back until it is released; `None` for a body in memory.
    pub fn hold_back_the_last(&mut self) -> Option<Last> {
        let Self::Streamed { gate, .. } = self else { return None };
        let (arrived, arrives) = oneshot::channel();
        let (release, released) = oneshot::channel();
        *gate = Some(Box::new(Gate { last: None, ended: false, arrived: Some(arrived), released: Some(released) }));
        Some(Last { arrives, release })
    }
}

/// The last piece of a stream that is held back.
#[derive(Debug)]
pub struct Last {
    arrives: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

/// Releases the last piece of a stream. If it is dropped unused, the stream ends with an error.
#[derive(Debug)]
pub struct Release(oneshot::Sender<()>);

impl Last {
    /// Waits until the whole body has arrived. Never returns if the body ends early.
    pub async fn arrived(self) -> Release {
        if self.arrives.await.is_err() {
            std::future::pending::<()>().await;
        }
        Release(self.release)
    }
}

impl Release {
    /// Releases the last piece.
    pub fn send(self) {
        // If the stream has failed meanwhile, its reader has the error already.
        let _ = self.0.send(());
    }
}

/// Holds back the newest piece of a stream until a further one has arrived, or until it is released as the last one.
#[derive(Debug)]
pub struct Gate {
    /// Not empty.
    last: Option<Bytes>,
    ended: bool,
    arrived: Option<oneshot::Sender<()>>,
    /// `None` after the last piece was released.
    released: Option<oneshot::Receiver<()>>,
}

impl Gate {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        mut incoming: Pin<&mut Incoming>,
        watcher: &mut Option<Box<dyn Watcher>>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        while !self.ended {
            let newest = ready!(poll_watched(cx, incoming.as_mut(), watcher)).transpose()?;
            self.ended = newest.is_none() || incoming.is_end_stream();
            // HTTP/2 can end a stream with an empty frame, and any body can end with trailers. Neither may push out the last
            // bytes: MLflow acts as soon as it has these.
            let newest = newest.and_then(|frame| frame.into_data().ok()).filter(|data| !data.is_empty());
            if let Some(newest) = newest
                && let Some(before) = self.last.replace(newest)
            {
                return Poll::Ready(Some(Ok(Frame::data(before))));
            }
        }
        if let Some(arrived) = self.arrived.take() {
            let _ = arrived.send(());
        }
        if let Some(released) = &mut self.released {
            match ready!(Pin::new(released).poll(cx)) {
                Ok(()) => self.released = None,
                Err(_) => return Poll::Ready(Some(Err(BodyError::Withdrawn))),
            }
        }
        Poll::Ready(self.last.take().map(|last| Ok(Frame::data(last))))
    }
}

fn poll_watched(
    cx: &mut Context<'_>,
    mut incoming: Pin<&mut Incoming>,
    watcher: &mut Option<Box<dyn Watcher>>,
) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    let polled = incoming.as_mut().poll_frame(cx).map_err(BodyError::Broken);
    if let Some(watcher) = watcher {
        match &polled {
            Poll::Ready(Some(Ok(frame))) => watcher.sent(frame.data_ref().map_or(0, Bytes::len)),
            Poll::Ready(Some(Err(_))) => watcher.broke(),
            Poll::Pending if watcher.poll_late(cx).is_ready() => {
                return Poll::Ready(Some(Err(BodyError::TooSlow)));
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        // hyper does not poll again after the last byte of a known length.
        let ended = matches!(polled, Poll::Ready(None));
        if ended || matches!(polled, Poll::Ready(Some(Ok(_)))) && incoming.is_end_stream() {
            watcher.complete();
        }
    }
    polled
}

/// A stream that two copies of a request share. The copy that is polled first takes it.
#[derive(Debug)]
pub struct Lent {
    shelf: Arc<Mutex<Option<Body>>>,
    taken: Option<Box<Body>>,
}

impl Lent {
    fn taken(&mut self) -> Option<&mut Body> {
        if self.taken.is_none() {
            self.taken = self.shelf.lock().unwrap_or_else(PoisonError::into_inner).take().map(Box::new);
        }
        self.taken.as_deref_mut()
    }

    fn look<T>(&self, look: impl FnOnce(&Body) -> T) -> Option<T> {
        match &self.taken {
            Some(body) => Some(look(body)),
            None => self.shelf.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(look),
        }
    }
}

#[derive(Debug)]
struct Counted {
    count: Arc<AtomicU64>,
    inner: Option<Box<dyn Watcher>>,
}

impl Watcher for Counted {
    fn sent(&mut self, bytes: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        if let Some(inner) = &mut self.inner {
            inner.sent(bytes);
        }
    }

    fn complete(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.complete();
        }
    }

    fn broke(&mut self) {
        if let Some(inner) = &mut self.inner {
            inner.broke();
        }
    }

    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.inner.as_mut().map_or(Poll::Pending, |inner| inner.poll_late(cx))
    }
}

/// The reason why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the body arrives too slowly")]
    TooSlow,
    /// The other copy of the request has taken the stream.
    #[error("the body was sent before")]
    Spent,
    #[error("the body may not be sent any more")]
    Withdrawn,
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.project() {
            BodyProjection::Empty => Poll::Ready(None),
            BodyProjection::Full { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyProjection::Lent { lent } => match lent.taken() {
                Some(body) => Pin::new(body).poll_frame(cx),
                None => Poll::Ready(Some(Err(BodyError::Spent))),
            },
            BodyProjection::Streamed { incoming, watcher, gate: None } => poll_watched(cx, incoming, watcher),
            BodyProjection::Streamed { incoming, watcher, gate: Some(gate) } => gate.poll_frame(cx, incoming, watcher),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { bytes } => bytes.is_none(),
            Self::Lent { lent } => lent.look(HttpBody::is_end_stream).unwrap_or_default(),
            Self::Streamed { incoming, gate, .. } => {
                incoming.is_end_stream() && gate.as_ref().is_none_or(|gate| gate.ended && gate.last.is_none())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed { incoming, .. } => incoming.size_hint(),
            Self::Lent { lent } => lent.look(HttpBody::size_hint).unwrap_or_default(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Full { bytes: Some(bytes) } }
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self::Streamed { incoming, watcher: None, gate: None }
    }
}

/// The reason why a bounded body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the body broke off")]
    Broken,
}

/// Reads a body that is inspected. All others are streamed.
///
/// # Errors
///
/// The announced or actual size exceeds `limit` bytes, or the sender aborted the stream.
pub async fn read_bounded<B>(body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: HttpBody<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // An announced length that is too large is refused before anything is read.
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    match http_body_util::BodyExt::collect(http_body_util::Limited::new(body, limit)).await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(ReadError::TooLarge { limit }),
        Err(_) => Err(ReadError::Broken),
    }
}

/// Reads and discards up to `limit` bytes.
pub async fn discard(mut body: Incoming, limit: usize) {
    let mut seen = 0;
    while let Some(Ok(frame)) = http_body_util::BodyExt::frame(&mut body).await {
        seen += frame.data_ref().map_or(0, Bytes::len);
        if seen > limit {
            return;
        }
    }
}
