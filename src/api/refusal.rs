//! Refusals of API requests, with MLflow's error codes and messages. Internal causes are logged and never sent.
//!
//! The only place where errors of the store, of authentication and of look-ups become a status and a message for API clients.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};

use super::MAX_BODY_BYTES;
use crate::http::{ErrorCode, Reply};
use crate::{authn, authz, resolve, store};

/// The reason of a 403, a fixed word for log and metrics. An extension of the response.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Denial(pub &'static str);

/// An error answer to an API request.
#[derive(Debug)]
pub struct Refusal {
    reply: Reply,
    denial: Option<Denial>,
}

impl Refusal {
    /// 404, with MLflow's message for a user who does not exist.
    pub(crate) fn no_user(name: &str) -> Self {
        Self::absent(format!("User with username={name} not found"))
    }

    /// 404 `RESOURCE_DOES_NOT_EXIST`.
    pub(crate) fn absent(message: String) -> Self {
        Reply::new(StatusCode::NOT_FOUND, ErrorCode::ResourceDoesNotExist, message).into()
    }

    /// 400 `RESOURCE_ALREADY_EXISTS`.
    pub(crate) fn exists(message: String) -> Self {
        Reply::new(StatusCode::BAD_REQUEST, ErrorCode::ResourceAlreadyExists, message).into()
    }

    /// 400 `BAD_REQUEST`.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Reply::new(StatusCode::BAD_REQUEST, ErrorCode::BadRequest, message).into()
    }

    /// 403 for an action that access tokens are not allowed to take. `what`: as in "An access token cannot be used to `what`".
    pub(crate) fn token_may_not(what: &str) -> Self {
        let message = format!(
            "Permission denied. An access token cannot be used to {what}. Sign in with your password to do it."
        );
        let reply = Reply::new(StatusCode::FORBIDDEN, ErrorCode::PermissionDenied, message);
        Self { reply, denial: Some(Denial("token")) }
    }

    /// Returns true for 404.
    pub(crate) fn is_absent(&self) -> bool {
        self.reply.status == StatusCode::NOT_FOUND
    }

    /// Returns status and message, to be shown on a page.
    ///
    /// # Errors
    /// Returns the refusal itself if it is a denial, so that it reaches the audit log.
    pub(crate) fn into_words(self) -> Result<(StatusCode, String), Self> {
        if self.denial.is_some() { Err(self) } else { Ok((self.reply.status, self.reply.message)) }
    }

    /// 413. The pipeline has refused larger bodies before.
    pub(crate) fn too_large() -> Self {
        let message = format!("The request body is larger than {MAX_BODY_BYTES} bytes.");
        Reply::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::InvalidParameterValue, message).into()
    }

    /// 500, without details.
    pub(crate) fn internal() -> Self {
        let message = "Internal error of the proxy. Its log contains the cause.";
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
                tracing::warn!(%error, "the name of an experiment could not be read from MLflow");
                let message = "MLflow did not return the name of this experiment, and grants depend on the name. Try again later.";
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
                Self::bad_request(format!("{}. Make another user an administrator first.", capitalised(&error)))
            }
            store::Error::Nul => Self::bad_request("Names and other texts must not contain the character U+0000."),
            store::Error::TooLong(_) => Self::bad_request(format!("{}.", capitalised(&error))),
            store::Error::TakenOver | store::Error::Open(_) | store::Error::Unavailable(_) => {
                tracing::error!(%error, "the store did not answer a management request");
                Self::unavailable("The proxy's store does not answer; nothing was changed. Try again later.", 5)
            }
            store::Error::Corrupt(_) => {
                tracing::error!(%error, "the store contains a value that cannot be read");
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
            // The caller is authenticated already, so these cannot come from a handler.
            authn::Error::Missing | authn::Error::Failed(_) | authn::Error::NoKeys => Self::internal(),
        }
    }
}

fn capitalised(error: &store::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests;
