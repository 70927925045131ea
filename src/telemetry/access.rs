//! The access log: one line per request on standard output, JSON or text.
//!
//! The request's side renders into a shared buffer of bounded size and goes on; a thread of its own writes the buffer
//! out several times a second. It never waits: a line that does not fit is dropped and counted.

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

/// One request. Every text in it is bounded or escaped; none is a secret.
#[derive(Clone, Debug, Serialize)]
pub struct AccessLine<'a> {
    pub time: Rfc3339,
    /// The route table's name, never the path.
    pub operation: &'a str,
    pub method: &'a str,
    pub status: u16,
    /// Milliseconds from the head to the last byte handed to the connection.
    #[serde(serialize_with = "three_digits")]
    pub duration_ms: f64,
    /// Milliseconds until MLflow's response head.
    #[serde(serialize_with = "three_digits_if_any", skip_serializing_if = "Option::is_none")]
    pub upstream_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// How it was proved who is asking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<&'a str>,
    /// The client's, after trusted proxies.
    pub address: IpAddr,
    /// A bounded word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<&'a str>,
    /// Bytes of the response body.
    pub bytes_sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    pub outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The whole response was handed over.
    Complete,
    /// The client left.
    Aborted,
    /// MLflow broke off in the middle of its body.
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
    /// As one line, line end included.
    fn render(&self, format: LogFormat, line: &mut Vec<u8>) {
        match format {
            LogFormat::Json => {
                // Writing these types to memory cannot fail; an empty line would be noticed.
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

/// A text that cannot break out of its place in a line.
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

/// Where lines go. Cheap to copy.
#[derive(Clone, Debug)]
pub struct AccessLog {
    /// `None`: switched off.
    queue: Option<Arc<Queue>>,
    format: LogFormat,
    metrics: Arc<Metrics>,
}

/// Ends the writer. Keep it until the last request is done.
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
    /// No lines at all.
    #[must_use]
    pub fn off(metrics: Arc<Metrics>) -> Self {
        Self { queue: None, format: LogFormat::Json, metrics }
    }

    /// Starts the writer thread; lines go to `output`, which is standard output but for tests.
    ///
    /// # Errors
    /// The operating system gives no thread.
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

    /// Whether lines are wanted; spares the caller the making of one.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.queue.is_some()
    }

    /// Writes a line some time soon. Under a microsecond, never waits.
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
    /// Whether there was room.
    fn push(&self, line: &[u8]) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed || state.lines.len() + line.len() > MAX_WAITING_BYTES {
            return false;
        }
        let before = state.lines.len();
        state.lines.extend_from_slice(line);
        let after = state.lines.len();
        drop(state);
        // Waking costs a system call, so only two lines of a batch pay for it: the first, and the one that makes it large.
        if before == 0 || before < LARGE_BATCH_BYTES && after >= LARGE_BATCH_BYTES {
            self.wake.notify_one();
        }
        true
    }

    /// The writer's life: wait for a line, let more gather, write them all.
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
    /// Writes what waits and ends. Blocks for one write; later lines are dropped and counted.
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
    /// A duration as this log writes it.
    #[must_use]
    pub fn milliseconds(duration: Duration) -> f64 {
        duration.as_secs_f64() * 1000.0
    }

    /// A moment as this log writes it.
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

/// Room for a usual line.
const LINE_BYTES: usize = 384;
/// Lines that wait: about four thousand.
const MAX_WAITING_BYTES: usize = 1024 * 1024;
/// Lines that are written at once, not after [`GATHER`].
const LARGE_BATCH_BYTES: usize = MAX_WAITING_BYTES / 4;
/// What an idle writer keeps.
const KEPT_BYTES: usize = 64 * 1024;
/// How long lines gather before they are written.
const GATHER: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
