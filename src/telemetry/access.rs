//! The access log: one line per request on standard output, as JSON or text.
//!
//! A request renders its line into a shared buffer of bounded size and continues. A separate thread writes the buffer
//! several times a second. Requests never wait for it: a line that does not fit is dropped and counted.

use std::fmt::Write as _;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;

use super::Metrics;
use crate::clock::Timestamp;
use crate::config::LogFormat;

mod time;

pub use time::Rfc3339;

/// The record of one request. Every text in it is bounded or escaped, and none is a secret.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    pub time: Rfc3339,
    /// The operation's name in the route table, never the path.
    pub operation: &'a str,
    pub method: &'a str,
    pub status: u16,
    /// Milliseconds from the request head to the last byte passed to the connection.
    #[serde(serialize_with = "three_digits")]
    pub duration_ms: f64,
    /// Milliseconds until MLflow's response head.
    #[serde(serialize_with = "three_digits_if_any", skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The authentication scheme.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'a str>,
    /// The client's address, after trusted proxies.
    pub address: IpAddr,
    /// The reason for a denial, from a fixed set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<&'a str>,
    /// Bytes of the response body.
    pub bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    pub outcome: Outcome,
}

/// The end of a response.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The whole response was passed to the connection.
    Complete,
    /// The client disconnected.
    Aborted,
    /// MLflow's response body ended early.
    Broken,
}

impl Outcome {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Aborted => "aborted",
            Self::Broken => "broken",
        }
    }
}

impl AccessLine<'_> {
    /// Appends the record as one line, including the line end.
    fn render(&self, format: LogFormat, line: &mut Vec<u8>) {
        match format {
            LogFormat::Json => {
                // Serialising these types to memory cannot fail.
                let _ = serde_json::to_writer(&mut *line, self);
            }
            LogFormat::Text => line.extend_from_slice(self.text().as_bytes()),
        }
        line.push(b'\n');
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(LINE_BYTES);
        let Self { time, operation, method, status, duration_ms, address, bytes_sent, .. } = self;
        let _ = write!(text, "{} {status} {} {operation}", time.as_str(), Plain(method));
        let _ = write!(text, " {duration_ms:.3}ms address={address} sent={bytes_sent}");
        let optional = [("user", self.user), ("scheme", self.scheme), ("denied", self.denied), ("id", self.request_id)];
        for (name, value) in optional {
            if let Some(value) = value {
                let _ = write!(text, " {name}={}", Plain(value));
            }
        }
        if let Some(upstream_ms) = self.upstream_ms {
            let _ = write!(text, " upstream={upstream_ms:.3}ms");
        }
        if self.outcome != Outcome::Complete {
            let _ = write!(text, " {}", self.outcome.as_str());
        }
        text
    }
}

/// A text that is escaped so that it cannot extend beyond its field.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                ' ' | '=' | '"' => write!(f, "\\u{{{:x}}}", u32::from(character))?,
                other => write!(f, "{}", other.escape_debug())?,
            }
        }
        Ok(())
    }
}

/// Sender of access log lines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `None` if the access log is off.
    queue: Option<Arc<Queue>>,
    format: LogFormat,
    metrics: Arc<Metrics>,
}

/// Handle of the writer thread. Finish it after the last request.
#[derive(Debug)]
pub struct Writer {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Rendered lines that wait to be written.
    lines: Vec<u8>,
    closed: bool,
}

impl AccessLog {
    /// Returns an access log that writes nothing.
    #[must_use]
    pub fn off(metrics: Arc<Metrics>) -> Self {
        Self { queue: None, format: LogFormat::Json, metrics }
    }

    /// Starts the writer thread. Lines are written to `output`, which is standard output except in tests.
    ///
    /// # Errors
    /// The operating system provides no thread.
    pub fn start(
        format: LogFormat,
        metrics: Arc<Metrics>,
        output: impl Write + Send + 'static,
    ) -> std::io::Result<(Self, Writer)> {
        let queue = Arc::new(Queue::default());
        let reader = Arc::clone(&queue);
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || reader.drain(output))?;
        let log = Self { queue: Some(Arc::clone(&queue)), format, metrics };
        Ok((log, Writer { queue, thread: Some(thread) }))
    }

    /// Returns true if the access log is on, so that callers can avoid building a line.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Queues a line. Takes less than a microsecond and never waits.
    pub fn write(&self, line: &AccessLine<'_>) {
        let Some(queue) = &self.queue else { return };
        let mut rendered = Vec::with_capacity(LINE_BYTES);
        line.render(self.format, &mut rendered);
        if !queue.push(&rendered) {
            self.metrics.access_lines_dropped.inc();
        }
    }
}

impl Queue {
    /// Appends a line. Returns false if there was no room.
    fn push(&self, line: &[u8]) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.lines.len() + line.len() > MAX_WAITING_BYTES {
            return false;
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        let after = state.lines.len();
        drop(state);
        // Waking the writer costs a system call, so only two lines of a batch do it: the first, and the one that
        // makes it large.
        if before == 0 || before < LARGE_BATCH_BYTES && after >= LARGE_BATCH_BYTES {
            self.wake.notify_one();
        }
        true
    }

    /// Runs the writer: waits for a line, lets more gather, and writes them together.
    fn drain(&self, mut output: impl Write) {
        let mut batch = Vec::new();
        loop {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let state = self
                .wake
                .wait_while(state, |state| state.lines.is_empty() && !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
            let (mut state, _) = self
                .wake
                .wait_timeout_while(state, GATHER, |state| !state.closed && state.lines.len() < LARGE_BATCH_BYTES)
                .unwrap_or_else(PoisonError::into_inner);
            let closed = state.closed;
            std::mem::swap(&mut state.lines, &mut batch);
            // Unlocked before the write, so that no request waits for the output.
            drop(state);
            if let Err(error) = output.write_all(&batch).and_then(|()| output.flush()) {
                tracing::warn!(%error, "access lines could not be written");
            }
            batch.clear();
            batch.shrink_to(KEPT_BYTES);
            if closed {
                return;
            }
        }
    }

    fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.wake.notify_all();
    }
}

impl Writer {
    /// Writes the waiting lines and ends the thread. Blocks for one write; later lines are dropped and counted.
    pub fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.queue.close();
        if let Some(Err(_)) = self.thread.take().map(JoinHandle::join) {
            tracing::error!("the access log's writer panicked");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.end();
    }
}

impl AccessLine<'_> {
    /// Returns a duration in the unit of this log.
    #[must_use]
    pub fn milliseconds(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1000.0
    }

    /// Returns a time in the format of this log.
    #[must_use]
    pub fn moment(at: Timestamp) -> Rfc3339 {
        Rfc3339::from(at)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn three_digits<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64((value * 1000.0).round() / 1000.0)
}

#[expect(clippy::ref_option, reason = "serde asks for a reference")]
fn three_digits_if_any<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    three_digits(&value.unwrap_or_default(), serializer)
}

/// Initial capacity, enough for a typical line.
const LINE_BYTES: usize = 384;
/// Maximum size of the waiting lines: about four thousand.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Size from which waiting lines are written at once, without waiting for [`GATHER`].
const LARGE_BATCH_BYTES: usize = MAX_WAITING_BYTES / 4;
/// Buffer capacity that an idle writer keeps.
const KEPT_BYTES: usize = 64 * 1024;
/// Time for which lines gather before they are written.
const GATHER: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
