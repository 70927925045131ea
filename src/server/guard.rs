//! Reader between the socket and hyper on HTTP/1, which passes only complete, vetted heads.
//!
//! The common read, a complete head or a piece of a body, is passed on without a copy. A refused head is replaced by
//! a stand-in, so that the refusal is answered and logged like a request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::EdgeRefusal;
use super::inspect::{Inspector, Then};
use super::stream::Wire;

/// A connection whose request heads are vetted.
#[derive(Debug)]
pub(super) struct Guard<T> {
    io: T,
    wire: Arc<Wire>,
    inspector: Inspector,
    head_timeout: Duration,
    /// Bytes that were read and not yet passed to hyper: part of a head, usually none.
    held: Vec<u8>,
    /// Number of bytes of `held` that may be passed on.
    ready: usize,
    /// Runs while a head is incomplete, and from the start of the connection until the first head.
    deadline: Option<Pin<Box<Sleep>>>,
    ending: Ending,
}

/// State of the stream after `held` was passed on.
#[derive(Debug)]
enum Ending {
    /// The stream continues.
    Open,
    /// A head was refused, and nothing more is read. hyper does not get an end of file, which would cancel the
    /// answer.
    Refused,
    /// The client's end of file, or a broken body.
    Over,
    /// The proxy has shut down its side and waits until this deadline for the client to do the same, so that the
    /// client can read the answer: closing a socket with unread bytes in it resets the connection.
    Lingering(Pin<Box<Sleep>>),
}

impl<T> Guard<T> {
    pub(super) fn new(io: T, wire: Arc<Wire>, inspector: Inspector, head_timeout: Duration) -> Self {
        let deadline = Some(Box::pin(sleep(head_timeout)));
        Self { io, wire, inspector, head_timeout, held: Vec::new(), ready: 0, deadline, ending: Ending::Open }
    }

    /// Passes the ready bytes of `held` to hyper.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let count = self.ready.min(buf.remaining());
        buf.put_slice(self.held.get(..count).unwrap_or_default());
        self.held.drain(..count);
        self.ready -= count;
        if self.held.is_empty() {
            self.held = Vec::new(); // an idle connection keeps no buffer
        }
    }

    /// Inspects the new bytes at the end of `buf`, and leaves only those there that may pass.
    fn take(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        // Usually nothing is held back, and the new bytes are inspected in hyper's buffer without a copy.
        let straight = self.held.is_empty();
        let seen = if straight {
            self.inspector.inspect(buf.filled().get(before..).unwrap_or_default())
        } else {
            self.held.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
            buf.set_filled(before);
            self.inspector.inspect(&self.held)
        };
        if straight {
            let keep = before + seen.pass;
            self.held.extend_from_slice(buf.filled().get(keep..).unwrap_or_default());
            buf.set_filled(keep);
        } else {
            self.ready = seen.pass;
        }
        self.wire.set_in_body(self.inspector.in_body());
        match seen.then {
            Then::Go => {}
            Then::Refuse(why) => self.refuse(why),
            Then::Break => {
                self.held.truncate(self.ready);
                self.ending = Ending::Over;
                self.wire.set_broken();
            }
        }
        self.mind_the_clock();
    }

    /// Replaces the refused head by a stand-in.
    fn refuse(&mut self, why: EdgeRefusal) {
        let method = known_method(self.held.get(self.ready..).unwrap_or_default());
        self.held.truncate(self.ready);
        self.held.extend_from_slice(method.as_bytes());
        self.held.extend_from_slice(b" / HTTP/1.1\r\nhost: refused.invalid\r\nconnection: close\r\n\r\n");
        self.ready = self.held.len();
        self.ending = Ending::Refused;
        self.wire.refuse(self.inspector.heads() + 1, why);
    }

    /// Sets the deadline while a head is incomplete, and clears it otherwise.
    fn mind_the_clock(&mut self) {
        let waiting = self.held.len() > self.ready;
        match (&self.deadline, waiting) {
            (None, true) => self.deadline = Some(Box::pin(sleep(self.head_timeout))),
            (Some(_), false) => self.deadline = None,
            (Some(_), true) | (None, false) => {}
        }
    }

    /// Handles a head that did not arrive in time. A connection without any byte is closed without an answer.
    fn too_slow(&mut self) {
        self.deadline = None;
        if self.held.is_empty() {
            self.ending = Ending::Over;
        } else {
            self.refuse(EdgeRefusal::TooSlow);
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guard<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        loop {
            if this.ready > 0 {
                this.give(buf);
            }
            if buf.filled().len() > before || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match this.ending {
                Ending::Open => {}
                // No wake-up is needed: the answer to the stand-in closes the connection.
                Ending::Refused => return Poll::Pending,
                Ending::Over | Ending::Lingering(_) => return Poll::Ready(Ok(())),
            }
            match Pin::new(&mut this.io).poll_read(cx, buf) {
                Poll::Ready(Ok(())) if buf.filled().len() == before => this.ending = Ending::Over,
                Poll::Ready(Ok(())) => this.take(buf, before),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => match &mut this.deadline {
                    Some(deadline) => {
                        ready!(deadline.as_mut().poll(cx));
                        this.too_slow();
                    }
                    None => return Poll::Pending,
                },
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Guard<T> {
    /// Reads and discards bytes until the client closes, for at most [`LINGER`].
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Ending::Lingering(until) = &mut self.ending else { return Poll::Ready(()) };
        let mut waste = [0; 4096];
        for _ in 0..32 {
            let mut buf = ReadBuf::new(&mut waste);
            match Pin::new(&mut self.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return until.as_mut().poll(cx),
            }
        }
        cx.waker().wake_by_ref(); // there is more to read; let others run first
        until.as_mut().poll(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !matches!(self.ending, Ending::Lingering(_)) {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            let unread = matches!(self.ending, Ending::Refused) || self.inspector.in_body();
            if !unread {
                return Poll::Ready(Ok(()));
            }
            self.ending = Ending::Lingering(Box::pin(sleep(LINGER)));
        }
        self.poll_linger(cx).map(Ok)
    }
}

/// Returns the method of a refused head if it is a known one, else `GET`, so that the stand-in is always valid.
fn known_method(head: &[u8]) -> &'static str {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let matches = |method: &&str| head.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' '));
    known.into_iter().find(matches).unwrap_or("GET")
}

/// Time for which a client may continue to send after the last answer.
const LINGER: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests;
