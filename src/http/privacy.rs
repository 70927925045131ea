//! `Cache-Control` of responses that depend on the caller.
//!
//! Source: RFC 9111. By default, shared caches do not store responses to requests with `Authorization`, but store responses to
//! requests with a session cookie.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// No cache is allowed to store the response.
pub const NOT_STORED: HeaderValue = HeaderValue::from_static("private, no-store");

/// The client is allowed to store the response, and must revalidate it before each use. The request is then authorised again.
const REVALIDATED: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Request headers on which the response depends, for the one cache that is allowed to store it.
const CREDENTIALS: HeaderValue = HeaderValue::from_static("Authorization, Cookie");

/// Marks a response as private to its caller, regardless of MLflow's headers. A response with a validator, such as an artifact
/// that a page displays, can stay in the browser's cache.
pub fn keep_private(status: StatusCode, headers: &mut HeaderMap) {
    let kept = matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
        && (headers.contains_key(header::ETAG) || headers.contains_key(header::LAST_MODIFIED))
        && !is_not_stored(headers);
    if kept {
        headers.insert(header::CACHE_CONTROL, REVALIDATED);
        headers.append(header::VARY, CREDENTIALS);
    } else {
        headers.insert(header::CACHE_CONTROL, NOT_STORED);
    }
}

fn is_not_stored(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(header::CACHE_CONTROL).iter();
    values.any(|value| memchr::memmem::find(value.as_bytes(), b"no-store").is_some())
}
