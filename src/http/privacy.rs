//! `Cache-Control` of answers that depend on the caller.
//!
//! Source: RFC 9111. Answers to requests with `Authorization` are not kept by shared caches by default, answers to
//! requests with a session cookie are.

use http::{HeaderMap, HeaderValue, StatusCode, header};

/// No cache may keep the answer.
pub const NOT_STORED: HeaderValue = HeaderValue::from_static("private, no-store");

/// The client may keep the answer, and asks before each use. Then the request is authorised again.
const REVALIDATED: HeaderValue = HeaderValue::from_static("private, no-cache");

/// What the answer depends on, for the one cache that may keep it.
const CREDENTIALS: HeaderValue = HeaderValue::from_static("Authorization, Cookie");

/// Marks an answer as meant for its caller only, whatever MLflow said of it. An answer with a validator, such as an artifact
/// that a page shows, may stay in the browser.
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
