//! A plain or TLS connection as one type, and its shared activity state.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::EdgeRefusal;

/// State shared by the parts of a connection. One task writes almost all of it, so relaxed loads and stores are
/// sufficient.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// Number of reads and writes that moved at least one byte.
    moves: AtomicU64,
    /// Counts requests and pieces of answers. On HTTP/2 only these are progress: a client that reads nothing still answers pings.
    steps: AtomicU64,
    /// Requests whose answer is being prepared.
    answering: AtomicU32,
    /// Answers whose body has not been passed to hyper completely.
    sending: AtomicU32,
    /// True if the last write was incomplete: the client is not reading.
    blocked: AtomicBool,
    /// Value of `epoch` at the last request, or at the start.
    last: AtomicU64,
    /// Number of connections that the server has accepted.
    epoch: Arc<AtomicU64>,
    /// HTTP/1: the body of the latest request is incomplete.
    in_body: AtomicBool,
    /// HTTP/1: number of the refused head (the first is 1), and the reason. At most one, because the connection ends
    /// with it.
    refused: OnceLock<(u64, EdgeRefusal)>,
    /// HTTP/1: a body was broken.
    broken: AtomicBool,
}

impl Wire {
    pub(super) fn new(epoch: Arc<AtomicU64>) -> Self {
        Self { last: AtomicU64::new(epoch.load(Ordering::Relaxed)), epoch, ..Self::default() }
    }

    /// Returns true if closing the connection now would interrupt no request.
    pub(super) fn is_idle(&self) -> bool {
        let none = |count: &AtomicU32| count.load(Ordering::Relaxed) == 0;
        let not = |flag: &AtomicBool| !flag.load(Ordering::Relaxed);
        none(&self.answering) && none(&self.sending) && not(&self.in_body) && not(&self.blocked)
    }

    /// Returns the epoch of the last use: the smaller, the longer the connection has been idle.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn used(&self) {
        self.last.store(self.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn sending(&self) {
        self.sending.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn sent(&self) {
        self.sending.fetch_sub(1, Ordering::Relaxed);
        self.used();
    }

    fn moved(&self) {
        self.moves.store(self.moves.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    /// Returns a counter that is unchanged while no bytes move.
    pub(super) fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// Returns a counter that is unchanged while no request arrives and no piece of an answer is taken.
    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    /// Records that a piece of an answer was passed to hyper, which requests one when the client takes more.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns true if the proxy has to act next: a request has arrived completely and its response is in preparation. That
    /// wait has limits of its own and does not count as idleness.
    pub(super) fn our_turn(&self) -> bool {
        self.answering.load(Ordering::Relaxed) > 0 && !self.in_body.load(Ordering::Relaxed)
    }

    pub(super) fn begin(&self) {
        self.step();
        self.answering.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.step();
        self.answering.fetch_sub(1, Ordering::Relaxed);
        self.used();
    }

    pub(super) fn set_in_body(&self, in_body: bool) {
        self.in_body.store(in_body, Ordering::Relaxed);
    }

    pub(super) fn refuse(&self, head: u64, why: EdgeRefusal) {
        // There is at most one refusal per connection, because nothing is read after the first.
        let _ = self.refused.set((head, why));
    }

    /// Records that the framing of the current body is broken.
    pub(super) fn set_broken(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(super) fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Returns the refusal if the request that hyper passes on as its `head`th is a stand-in.
    pub(super) fn refusal_of(&self, head: u64) -> Option<EdgeRefusal> {
        self.refused.get().filter(|(refused, _)| *refused == head).map(|(_, why)| *why)
    }
}

/// A plain or TLS connection that counts reads and writes.
#[derive(Debug)]
pub(super) struct Stream {
    inner: Kind,
    wire: Arc<Wire>,
}

#[derive(Debug)]
enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    pub(super) fn plain(tcp: TcpStream, wire: Arc<Wire>) -> Self {
        Self { inner: Kind::Plain(tcp), wire }
    }

    pub(super) fn tls(tls: TlsStream<TcpStream>, wire: Arc<Wire>) -> Self {
        Self { inner: Kind::Tls(Box::new(tls)), wire }
    }

    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(count)) if count > 0) {
            self.wire.moved();
        }
        self.wire.blocked.store(written.is_pending(), Ordering::Relaxed);
        written
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = match &mut self.inner {
            Kind::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Kind::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        };
        if buf.filled().len() > before {
            self.wire.moved();
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = match &mut self.inner {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        };
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match &mut self.inner {
            Kind::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, slices),
            Kind::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, slices),
        };
        self.note(written)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.inner {
            Kind::Plain(tcp) => tcp.is_write_vectored(),
            Kind::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Kind::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Kind::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
