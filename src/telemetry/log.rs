//! The log of the proxy itself, on standard error. Requests are recorded in the access log.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

use crate::config::{self, LogFormat};
use crate::text;

/// A log that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{level}` is not a log filter: {source}")]
    Filter { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log was already started: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts the log of this process. Must be called only once.
///
/// # Errors
/// The filter is invalid, or a log was started before.
pub fn init(config: &config::Log) -> Result<(), Error> {
    let filter =
        EnvFilter::try_new(&config.level).map_err(|source| Error::Filter { level: config.level.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    match config.format {
        LogFormat::Json => builder
            .with_writer(|| Escaping(text::plain_json))
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .finish()
            .try_init()?,
        LogFormat::Text => builder.with_writer(|| Escaping(text::plain)).finish().try_init()?,
    }
    Ok(())
}

/// Writer to standard error that escapes control characters and extra line ends, so that an event cannot forge a line
/// or control a terminal. Each event is written as a whole, followed by a line end.
struct Escaping(fn(&str) -> Cow<'_, str>);

impl Write for Escaping {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let line = self.0(text.strip_suffix('\n').unwrap_or(&text));
        io::stderr().lock().write_all(format!("{line}\n").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}
