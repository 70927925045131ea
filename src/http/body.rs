//! One body type for everything we answer: nothing, bytes, or MLflow's stream passed through.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

pin_project! {
    /// The body of a response or of a forwarded request. Streams are polled only when the other side wants more.
    #[derive(Debug)]
    #[project = BodyProjection]
    pub enum Body {
        Empty,
        Full { bytes: Option<Bytes> },
        Streamed { #[pin] incoming: Incoming },
    }
}

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body broke off: {0}")]
    Broken(#[from] hyper::Error),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.project() {
            BodyProjection::Empty => Poll::Ready(None),
            BodyProjection::Full { bytes } => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodyProjection::Streamed { incoming } => incoming.poll_frame(cx).map_err(BodyError::Broken),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full { bytes } => bytes.is_none(),
            Self::Streamed { incoming } => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Streamed { incoming } => incoming.size_hint(),
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
        Self::Streamed { incoming }
    }
}
