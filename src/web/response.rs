//! Responses that several pages share: HTML, redirects, cookies, and the event that a response reports.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use url::Url;

use super::html;
use crate::api::Refusal;
use crate::http::{ErrorCode, Keep, Reply, set_cookie};

/// The outcome of a sign-in or sign-out, for metrics and audit. An extension of the response.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SignInEvent {
    /// `provider`: a configured name, or `password`. `name`: the user name, set only if a provider vouched for it or the attempt counted
    /// against the limit of guesses, so that anonymous requests cannot fill the audit log.
    SignIn { provider: String, outcome: &'static str, name: Option<String> },
    /// `user`, `provider`, or the reason why a provider's logout was refused.
    SignOut(&'static str),
}

/// Adds an event to a response.
pub(super) fn with_event(mut response: Response, event: SignInEvent) -> Response {
    response.extensions_mut().insert(event);
    response
}

/// Returns an HTML page. `actions`: further origins at which its forms may end, each after a space.
pub(super) fn page(status: StatusCode, html: String, actions: &str) -> Response {
    let mut response = Response::new(Body::from(html));
    *response.status_mut() = status;
    html::guard(response.headers_mut(), actions);
    response
}

/// Returns 303.
pub(super) fn see_other(location: &str) -> Response {
    redirect(StatusCode::SEE_OTHER, location)
}

/// Returns 302, because browsers keep the fragment of the address with it.
pub(super) fn found(location: &Url) -> Response {
    redirect(StatusCode::FOUND, location.as_str())
}

fn redirect(status: StatusCode, location: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The next page must not receive the address of a callback.
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // Printable ASCII: either a serialised URL or a return path.
    if let Ok(location) = HeaderValue::try_from(location) {
        headers.insert(header::LOCATION, location);
    }
    response
}

/// Adds a `Set-Cookie` header.
pub(super) fn add_cookie(response: &mut Response, name: &str, value: &str, keep: Keep) {
    if let Some(line) = set_cookie(name, value, keep) {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
}

/// Returns a refusal in MLflow's JSON.
pub(super) fn refusal(status: StatusCode, code: ErrorCode, words: &str) -> Response {
    Refusal::from(Reply::new(status, code, words)).into_response()
}
