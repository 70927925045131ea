//! The log: what happened to the proxy itself, on standard error. Requests have the access log.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::util::TryInitError;

use crate::config::{self, LogFormat};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("`{level}` is not a log filter: {source}")]
    Filter { level: String, source: tracing_subscriber::filter::ParseError },
    #[error("the log was already started: {0}")]
    Twice(#[from] TryInitError),
}

/// Starts the log of this process. Once.
///
/// # Errors
/// The filter cannot be read, or a log was started before.
pub fn init(config: &config::Log) -> Result<(), Error> {
    let filter =
        EnvFilter::try_new(&config.level).map_err(|source| Error::Filter { level: config.level.clone(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match config.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).finish().try_init()?,
        LogFormat::Text => builder.finish().try_init()?,
    }
    Ok(())
}
