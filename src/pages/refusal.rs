//! How the answers say no: MLflow's codes and words, and nothing of what went wrong inside.
//!
//! The only place where an error of the store or of authentication becomes a status and a sentence.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use crate::http::{ErrorCode, Reply};
use crate::{authn, authz, resolve, store};

/// Why a 403, as a bounded word for log and metrics. Found among the extensions of the answer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial(pub &'static str);

/// A refusal on its way to the client.
#[derive(Debug)]
pub(super) struct Refusal {
    reply: Reply,
    denial: Option<Denial>,
}

impl Refusal {
    /// 404, in MLflow's words.
    pub(super) fn no_user(name: &str) -> Self {
        Self::absent(format!("User with username={name} not found"))
    }

    /// 404 `RESOURCE_DOES_NOT_EXIST`.
    pub(super) fn absent(message: String) -> Self {
        Reply::new(StatusCode::NOT_FOUND, ErrorCode::ResourceDoesNotExist, message).into()
    }

    /// 400 `RESOURCE_ALREADY_EXISTS`.
    pub(super) fn exists(message: String) -> Self {
        Reply::new(StatusCode::BAD_REQUEST, ErrorCode::ResourceAlreadyExists, message).into()
    }

    /// 400 `BAD_REQUEST`.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Reply::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message).into()
    }

    /// 403: an access token may not `what`.
    pub(super) fn token_may_not(what: &str) -> Self {
        let message =
            format!("Permission denied. An access token may not {what}. Sign in with your password to do it.");
        let reply = Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, message);
        Self { reply, denial: Some(Denial("token")) }
    }

    /// Whether there was nothing of that kind.
    pub(super) fn is_absent(&self) -> bool {
        self.reply.status == StatusCode::NOT_FOUND
    }

    /// For a page: the status and the sentence. A denial stays one, so that it is written down.
    ///
    /// # Errors
    /// The refusal itself, when it is a denial.
    pub(super) fn into_words(self) -> Result<(StatusCode, String), Self> {
        if self.denial.is_some() { Err(self) } else { Ok((self.reply.status, self.reply.message)) }
    }

    /// 500, with nothing to learn from it.
    pub(super) fn internal() -> Self {
        let message = "Something went wrong in the proxy. Its log says what.";
        Reply::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::InternalError, message).into()
    }

    fn unavailable(message: &str, retry_after_seconds: u64) -> Self {
        Reply::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TemporarilyUnavailable, message)
            .with(header::RETRY_AFTER, HeaderValue::from(retry_after_seconds))
            .into()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.reply.into_response().map(axum::body::Body::new);
        if let Some(denial) = self.denial {
            response.extensions_mut().insert(denial);
        }
        response
    }
}

impl From<resolve::Error> for Refusal {
    fn from(error: resolve::Error) -> Self {
        match error {
            resolve::Error::NoSuchName(message) => Self::absent(message),
            resolve::Error::Upstream(error) => {
                tracing::warn!(%error, "MLflow could not be asked what an experiment is called");
                let message =
                    "MLflow does not say what this experiment is called, and grants depend on it. Try again later.";
                Self::unavailable(message, 5)
            }
        }
    }
}

impl From<Reply> for Refusal {
    fn from(reply: Reply) -> Self {
        Self { reply, denial: None }
    }
}

impl From<authz::Denied> for Refusal {
    fn from(denied: authz::Denied) -> Self {
        let reply = Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, denied.to_string());
        Self { reply, denial: Some(Denial(denied.reason())) }
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Exists(_)
            | store::Error::NameTaken(_)
            | store::Error::LooksLike { .. }
            | store::Error::Reserved(_) => Self::exists(capitalised(&error)),
            store::Error::NotFound(_) => Self::absent(capitalised(&error)),
            store::Error::LastAdmin(_) => {
                Self::bad_request(format!("{}. Make somebody else an administrator first.", capitalised(&error)))
            }
            store::Error::Open(_) | store::Error::Unavailable(_) => {
                tracing::error!(%error, "the store did not answer a management request");
                Self::unavailable("The proxy's store does not answer; nothing was changed. Try again later.", 5)
            }
            store::Error::Corrupt(_) => {
                tracing::error!(%error, "the store holds something that cannot be read");
                Self::internal()
            }
        }
    }
}

impl From<authn::Error> for Refusal {
    fn from(error: authn::Error) -> Self {
        match error {
            authn::Error::TooManyAttempts { retry_after } => {
                // Rounded up: a client that comes back a moment too early is refused again.
                let seconds = retry_after.saturating_add(Duration::from_millis(999)).as_secs().max(1);
                let message = format!("Too many wrong passwords. Try again in {seconds} seconds.");
                Reply::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RequestLimitExceeded, message)
                    .with(header::RETRY_AFTER, HeaderValue::from(seconds))
                    .into()
            }
            authn::Error::Busy => {
                Self::unavailable("Too many passwords are being checked. Try again in a few seconds.", 2)
            }
            authn::Error::Store(error) => error.into(),
            // The caller is known already; these belong to the way in.
            authn::Error::Missing | authn::Error::Failed(_) | authn::Error::NoKeys => Self::internal(),
        }
    }
}

fn capitalised(error: &store::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
