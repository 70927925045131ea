//! Responses of the proxy itself: the pages and API below `/auth`, MLflow's auth API, and 401.
//!
//! Uses MLflow's texts where clients compare them (`mlflow.server.auth.make_basic_auth_response`, MLflow 3.17.2).

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};

use super::bodies::Held;
use super::{Checked, Error, Proxy, Record};
use crate::api::{Denial, MAX_BODY_BYTES};
use crate::authn::{self, RawCredentials, Reason, network};
use crate::authz::Identity;
use crate::budget::Owner;
use crate::http::{Body, ErrorCode, HeadError, Reply, Response};

/// MLflow's message for requests without authentication.
pub(super) const NOT_AUTHENTICATED: &str = "You are not authenticated. Please see \
    https://www.mlflow.org/docs/latest/auth/index.html#authenticating-to-mlflow on how to authenticate.";

/// Headings and messages of pages for refused requests.
pub(super) const NOT_FOUND: &str = "Page not found";
pub(super) const NO_PAGE: &str = "There is no page at this address.";
pub(super) const DENIED: &str = "Permission denied";
pub(super) const NOT_PROCESSED: &str = "Request not processed";

impl Proxy {
    /// Responds to management requests, which MLflow never receives.
    pub(super) async fn answer_ourselves(
        &self,
        mut checked: Checked<'_>,
        identity: Arc<Identity>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        record.own();
        address_pages(&mut checked)?;
        let body = self.read_own(&mut checked, Owner::User(identity.user)).await?.bytes;
        // The sender controls how long its body takes to arrive, and the rights can be revoked meanwhile.
        let identity = checked.identified_again(false).await?.unwrap_or(identity);
        let request = http::Request::from_parts(checked.head, body);
        let response = self.web.answer(Some(identity), checked.address, request).await;
        if let Some(Denial(reason)) = response.extensions().get() {
            record.denied(reason);
        }
        Ok(self.for_whom(response, record))
    }

    /// Converts a refusal to a page if a browser would display it as JSON.
    fn for_whom(&self, response: http::Response<Bytes>, record: &Record) -> Response {
        let words = if record.is_navigation() { refusal_of(&response) } else { None };
        let response = response.map(Body::from);
        let Some(words) = words else { return response };
        let (heading, words) = match response.status() {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => (NOT_FOUND, NO_PAGE.to_owned()),
            StatusCode::FORBIDDEN => (DENIED, words),
            _ => (NOT_PROCESSED, words),
        };
        self.web.show_refusal(response, heading, &words, record.is_signed_in())
    }

    /// Responds to pages that require no identity: sign-in and sign-out. Only a session identifies the user here.
    pub(super) async fn answer_visitor(
        &self,
        mut checked: Checked<'_>,
        record: &mut Record,
    ) -> Result<Response, Error> {
        record.own();
        address_pages(&mut checked)?;
        self.check_site(&checked.head, None)?;
        let is_asset = checked.path.decoded().starts_with("/auth/static/");
        let owner = Owner::Visitor(network(checked.address));
        let body = self.read_own(&mut checked, owner).await?.bytes;
        let session = RawCredentials { authorization: None, ..super::shown(&checked.head.headers) };
        let identity = match self.authn.recent(session) {
            Some(identity) => Some(identity),
            None => self.authn.authenticate(session, checked.address).await.ok(),
        };
        if let Some(identity) = &identity {
            record.identity(identity);
        }
        let request = http::Request::from_parts(checked.head, body);
        let response = self.web.answer(identity, checked.address, request).await;
        if let Some(event) = response.extensions().get() {
            record.sign_in_event(event);
        }
        if is_asset && !response.status().is_client_error() {
            record.public();
        }
        Ok(self.for_whom(response, record))
    }

    /// Reads a body for a page or an API of the proxy itself, none of which reads the body of a GET.
    async fn read_own(&self, checked: &mut Checked<'_>, owner: Owner) -> Result<Held, Error> {
        if checked.head.method == Method::GET {
            checked.body.take();
        }
        self.read(checked, owner, MAX_BODY_BYTES).await
    }

    /// Redirects a browser that opens a page to the sign-in page. Programs and scripts receive 401.
    pub(super) fn perhaps_sign_in(&self, checked: &Checked<'_>, error: authn::Error, record: &Record) -> Error {
        let head = &checked.head;
        let nobody = match &error {
            authn::Error::Missing => true,
            // With a session that has ended, the browser signs in again. A refused `Authorization` is an error of the
            // client.
            authn::Error::Failed(_) => !head.headers.contains_key(header::AUTHORIZATION),
            authn::Error::TooManyAttempts { .. }
            | authn::Error::Busy
            | authn::Error::NoKeys
            | authn::Error::Store(_) => false,
        };
        if !nobody || !self.web.can_sign_in() || head.method != Method::GET || !record.is_navigation() {
            return error.into();
        }
        // The path as the browser sent it, with MLflow's static prefix.
        let wanted = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let wanted: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
        match HeaderValue::try_from(format!("{}/auth/login?return_to={wanted}", self.static_prefix)) {
            Ok(location) => Error::SignIn(location),
            Err(_) => error.into(),
        }
    }
}

/// Returns the message of a refusal in MLflow's JSON, whose body is in memory.
fn refusal_of(response: &http::Response<Bytes>) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Refusal {
        message: String,
    }
    let status = response.status();
    let is_refusal = (status.is_client_error() || status.is_server_error()) && is_json(response.headers());
    let refusal: Refusal = serde_json::from_slice(response.body()).ok().filter(|_| is_refusal)?;
    Some(refusal.message)
}

/// Sets the canonical path, below MLflow's static prefix, by which the router of the pages selects its handler.
fn address_pages(checked: &mut Checked<'_>) -> Result<(), Error> {
    let mut target = checked.path.encoded().into_owned();
    if let Some(query) = checked.head.uri.query() {
        target.push('?');
        target.push_str(query);
    }
    let mut uri = std::mem::take(&mut checked.head.uri).into_parts();
    uri.path_and_query = Some(target.try_into().map_err(|_| HeadError::Target)?);
    checked.head.uri = http::Uri::from_parts(uri).map_err(|_| HeadError::Target)?;
    Ok(())
}

/// Returns 302. The browser keeps the fragment after `#`.
pub(super) fn found(location: HeaderValue) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::FOUND;
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Returns 401 in MLflow's text form with a Basic challenge. Requests of a page's script receive JSON without a challenge,
/// because the browser would open a log-in dialog over the page.
pub(super) fn unauthenticated(error: &authn::Error, account: &str, browser_xhr: bool) -> Response {
    match error {
        authn::Error::Missing => nobody(NOT_AUTHENTICATED.to_owned(), browser_xhr),
        authn::Error::Failed(reason) => {
            nobody(told(*reason, account).unwrap_or_else(|| NOT_AUTHENTICATED.to_owned()), browser_xhr)
        }
        authn::Error::TooManyAttempts { retry_after } => {
            let seconds = retry_after.as_secs().max(1);
            let message = format!("Too many failed sign-ins. Try again in {seconds} seconds.");
            Reply::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::RequestLimitExceeded, message)
                .with(header::RETRY_AFTER, HeaderValue::from(seconds))
                .into_response()
        }
        authn::Error::Busy => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            "Too many passwords are being checked. Try again in a few seconds, or use an access token.",
        )
        .with(header::RETRY_AFTER, HeaderValue::from_static("2"))
        .into_response(),
        authn::Error::NoKeys => Reply::new(
            StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::TemporarilyUnavailable,
            "The identity provider's keys could not be fetched yet, so its tokens cannot be checked. Try again later.",
        )
        .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
        .into_response(),
        authn::Error::Store(_) => store_unavailable().into_response(),
    }
}

fn nobody(message: String, browser_xhr: bool) -> Response {
    if browser_xhr {
        return Reply::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthenticated, message).into_response();
    }
    let mut response = Response::new(Body::from(Bytes::from(message)));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    let headers = response.headers_mut();
    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"mlflow\""));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Returns the reason for callers who presented a secret that was valid once. Contains nothing from the request.
fn told(reason: Reason, account: &str) -> Option<String> {
    if !reason.is_told() {
        return None;
    }
    Some(match reason {
        Reason::ExpiredToken(at) => {
            format!("This access token expired on {}. Create a new one at {account}", at.minute())
        }
        Reason::RevokedToken(at) => {
            format!("This access token was revoked on {}. Create a new one at {account}", at.minute())
        }
        Reason::OwnerSuspended => {
            format!("The identity provider signed this account out. Sign in again at {account} and repeat the request.")
        }
        Reason::OwnerOutOfTouch => {
            format!("This account has not signed in for too long. Sign in at {account} and repeat the request.")
        }
        Reason::OwnerNotAllowed
        | Reason::Unreadable
        | Reason::UnknownScheme
        | Reason::UnknownUser
        | Reason::WrongPassword
        | Reason::MalformedToken
        | Reason::UnknownToken
        | Reason::TokenOfAnother
        | Reason::UnknownSession
        | Reason::RefusedJwt(_)
        | Reason::NameTaken => "This account is disabled at the identity provider, or in no group that may sign in here. Ask an administrator."
            .to_owned(),
    })
}

/// Returns 503: if the store is unavailable, the request is denied.
pub(super) fn store_unavailable() -> Reply {
    Reply::new(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TemporarilyUnavailable,
        "The proxy's store does not answer; nothing was changed. Try again later.",
    )
    .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
}

/// Returns 200 with a JSON body.
pub(super) fn json(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns true if the headers declare a JSON body.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return false };
    let essence = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Checks the headers of a JSON body. It can lack Content-Type (DELETE of some clients), but must not have another type or be
/// compressed.
pub(super) fn check_json_head(headers: &HeaderMap) -> Result<(), Error> {
    check_encoding(headers)?;
    let has_body = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length.as_bytes() != b"0");
    if has_body && headers.contains_key(header::CONTENT_TYPE) && !is_json(headers) {
        return Err(Error::ContentType);
    }
    Ok(())
}

/// Refuses a compressed body.
pub(super) fn check_encoding(headers: &HeaderMap) -> Result<(), Error> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(Error::ContentEncoding),
        Some(_) | None => Ok(()),
    }
}
