//! Failed requests to MLflow.

use std::time::Duration;

use http::StatusCode;

use super::pool::Failure;
use crate::http::{ReadError, cause};

/// A request to MLflow that got no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No byte of the request was sent.
    #[error("MLflow cannot be reached: {0}")]
    Connect(#[from] Unsent),
    /// No byte of a further request was sent, but MLflow carried out the preceding one.
    #[error("MLflow cannot be reached any more: {0}")]
    HalfWay(#[source] Unsent),
    #[error("MLflow sent no response head within {0:?}")]
    TimedOut(Duration),
    #[error("the connection to MLflow broke: {}", cause(.0))]
    Broken(#[source] Failure),
    #[error("MLflow's answer could not be read: {0}")]
    Unreadable(#[from] ReadError),
    #[error("MLflow answered {0} to a look-up")]
    Unexpected(StatusCode),
    #[error("MLflow's answer to a look-up does not follow its API")]
    NotUnderstood,
    #[error("the request cannot be written as HTTP")]
    Unwritable,
    /// The streamed body arrived below the minimum rate, so the connection was closed.
    #[error("the client sends the body too slowly")]
    SlowBody,
    /// The streamed body ended early or was malformed, so the connection was closed.
    #[error("the client's body broke off")]
    BrokenBody,
}

impl Error {
    /// Returns the error class for logs and metrics, from a fixed set.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Connect(_) | Self::HalfWay(_) => "connect",
            Self::TimedOut(_) => "timeout",
            Self::Broken(_) => "broken",
            Self::Unreadable(_) => "unreadable",
            Self::Unexpected(_) => "unexpected_status",
            Self::NotUnderstood => "not_understood",
            Self::Unwritable => "unwritable",
            Self::SlowBody => "slow_body",
            Self::BrokenBody => "broken_body",
        }
    }

    /// Marks the error of a request that followed a completed one, so that repeating both is not safe.
    #[must_use]
    pub fn half_way(self) -> Self {
        match self {
            Self::Connect(unsent) => Self::HalfWay(unsent),
            other => other,
        }
    }
}

/// A request of which no byte was sent, so that the client can safely repeat it, whatever its method.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Unsent {
    pub(super) why: Why,
    /// Seconds after which the client should retry.
    pub retry_after_seconds: u64,
}

/// The reason that a request was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    #[error("{}", cause(.0))]
    NoConnection(Failure),
    #[error("it has been unreachable for {} s", .0.as_secs())]
    Away(Duration),
    #[error("the caller's permissions changed while the request was decided")]
    Changed,
}

impl Unsent {
    /// Returns true if no connection could be made.
    pub(super) fn found_nobody(&self) -> bool {
        matches!(&self.why, Why::NoConnection(error) if error.is_connect())
    }

    /// Returns true if the caller has other rights than those with which the request was decided.
    #[must_use]
    pub const fn is_changed(&self) -> bool {
        matches!(self.why, Why::Changed)
    }
}
