//! Adapter between hyper and the handler: counts requests, passes refusals on, and turns a panic into an answer.

use std::cell::Cell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{HeaderValue, StatusCode, Version, header};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::stream::Wire;
use super::{EdgeRefusal, Peer};
use crate::http::{Body, BodyError, ErrorCode, Reply, Response};
use crate::telemetry::Metrics;

/// The hyper service of one connection.
#[derive(Debug)]
pub(super) struct Service<H> {
    pub(super) handler: H,
    pub(super) peer: Peer,
    pub(super) wire: Arc<Wire>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) max_headers: usize,
    /// Requests so far. Equal to the inspector's count, because HTTP/1 requests are handled one after another.
    pub(super) calls: Cell<u64>,
}

impl<H, F> hyper::service::Service<http::Request<Incoming>> for Service<H>
where
    H: Fn(http::Request<Incoming>, Peer, Option<EdgeRefusal>) -> F,
    F: Future<Output = Response>,
{
    type Response = http::Response<Sending>;
    type Error = Infallible;
    type Future = Answer<F>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let ordinal = self.calls.get() + 1;
        self.calls.set(ordinal);
        // HTTP/2 heads do not pass the inspector, so their headers are counted here.
        let refusal = self
            .wire
            .refusal_of(ordinal)
            .or_else(|| (request.headers().len() > self.max_headers).then_some(EdgeRefusal::TooManyHeaders));
        if let Some(why) = refusal {
            self.metrics.edge_refused(why.as_str());
        }
        // On HTTP/1, the bytes after a refused head have no reliable meaning. On HTTP/2, other streams are not
        // affected.
        let close = refusal.is_some() && request.version() < Version::HTTP_2;
        let most = if request.version() < Version::HTTP_2 { usize::MAX } else { HTTP2_PIECE_BYTES };
        let turn = Turn::start(&self.wire);
        let wire = Arc::clone(&self.wire);
        Answer {
            making: (self.handler)(request, self.peer, refusal),
            close,
            most,
            turn,
            wire,
            metrics: Arc::clone(&self.metrics),
        }
    }
}

pin_project! {
    /// The future of one answer.
    pub(super) struct Answer<F> {
        #[pin]
        making: F,
        close: bool,
        most: usize,
        turn: Turn,
        wire: Arc<Wire>,
        metrics: Arc<Metrics>,
    }
}

impl<F: Future<Output = Response>> Future for Answer<F> {
    type Output = Result<http::Response<Sending>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // A panic in one request must not end its connection or the process. The future is not polled again.
        let made = catch_unwind(AssertUnwindSafe(|| this.making.poll(cx)));
        let mut response = match made {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(response)) => response,
            Err(_) => {
                this.metrics.panics.inc();
                tracing::error!("the proxy panicked while it processed a request, and answered with 500");
                *this.close = true;
                Reply::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::InternalError, "An internal error happened.")
                    .into_response()
            }
        };
        if *this.close {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let response = response.map(|body| Sending::start(body, *this.most, Arc::clone(this.wire)));
        this.turn.over();
        Poll::Ready(Ok(response))
    }
}

pin_project! {
    /// The body of an answer, which records in [`Wire`] that it is being sent.
    pub(super) struct Sending {
        #[pin]
        body: Body,
        // What is left of a piece that is larger than `most`.
        rest: Bytes,
        most: usize,
        wire: Arc<Wire>,
    }

    impl PinnedDrop for Sending {
        fn drop(this: Pin<&mut Self>) {
            this.wire.sent();
        }
    }
}

impl Sending {
    fn start(body: Body, most: usize, wire: Arc<Wire>) -> Self {
        wire.sending();
        Self { body, rest: Bytes::new(), most, wire }
    }
}

impl HttpBody for Sending {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut this = self.project();
        let mut piece = std::mem::take(this.rest);
        if piece.is_empty() {
            match ready!(this.body.as_mut().poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => piece = data,
                Some(Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
                None => return Poll::Ready(None),
            }
        }
        if piece.len() > *this.most {
            *this.rest = piece.split_off(*this.most);
        }
        this.wire.step();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

/// Size of the pieces in which an HTTP/2 answer is passed to hyper, which requests the next one when the client has taken more.
/// That shows whether a client reads. Equals the default maximum size of a frame (RFC 9113 §6.5.2).
const HTTP2_PIECE_BYTES: usize = 16 * 1024;

/// Counts an answer in [`Wire`] while it is being prepared, until it is complete or dropped.
#[derive(Debug)]
struct Turn(Option<Arc<Wire>>);

impl Turn {
    fn start(wire: &Arc<Wire>) -> Self {
        wire.begin();
        Self(Some(Arc::clone(wire)))
    }

    fn over(&mut self) {
        if let Some(wire) = self.0.take() {
            wire.end();
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.over();
    }
}
