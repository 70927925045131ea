//! `/auth/static/{name}`: style sheet, script and icon of the pages.

use axum::body::Body;
use axum::extract::Path;
use axum::response::Response;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::html;
use super::response::refusal;
use crate::crypto::short_hash;
use crate::http::ErrorCode;

/// Handles `GET`. Browsers revalidate a file at each use, so that a new version of the proxy takes effect at once.
pub(super) async fn get(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((kind, text)) = html::asset(&name) else {
        return refusal(StatusCode::NOT_FOUND, ErrorCode::EndpointNotFound, "There is no such file.");
    };
    let tag = format!("\"{}\"", short_hash(text));
    let is_current = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = Response::new(if is_current { Body::empty() } else { Body::from(text) });
    if is_current {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
