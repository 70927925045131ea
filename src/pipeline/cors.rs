//! Cross-origin requests by the CORS protocol of the Fetch standard.
//!
//! Only configured origins are allowed, and never for `/auth/...`, where users sign in and create tokens. MLflow takes no part
//! in CORS: it does not receive `Origin`, and its CORS response headers are removed.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::config;
use crate::http::{Body, Response};

/// A configured origin, in the spelling of the request.
#[derive(Clone, Debug)]
pub(super) struct Foreign {
    origin: HeaderValue,
    /// True if its pages can use the session of the signed-in user.
    pub(super) credentials: bool,
}

impl Foreign {
    /// Returns the origin of the page that sends this request, if it is configured. `path`: below MLflow's static prefix.
    pub(super) fn of(cors: &config::Cors, headers: &HeaderMap, path: &str) -> Option<Self> {
        if cors.origins.is_empty() {
            return None;
        }
        let mut origins = headers.get_all(header::ORIGIN).iter();
        let (Some(origin), None) = (origins.next(), origins.next()) else { return None };
        let listed = !is_closed(path) && cors.origins.contains(origin);
        listed.then(|| Self { origin: origin.clone(), credentials: cors.credentials })
    }

    /// Marks a response as readable for the page.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin.clone());
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// Returns true if no page of another origin is allowed to call this path, which is below MLflow's static prefix.
pub(super) fn is_closed(path: &str) -> bool {
    path == "/auth" || path.starts_with("/auth/") || path == "/signup"
}

/// Returns true for a preflight request, which browsers send without credentials.
pub(super) fn is_preflight(head: &http::request::Parts) -> bool {
    head.method == Method::OPTIONS && head.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Returns the response to the preflight request of a configured origin. The actual request is authenticated and authorised as
/// any other.
pub(super) fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    let wanted = asked.get_all(header::ACCESS_CONTROL_REQUEST_HEADERS).iter().filter_map(|names| names.to_str().ok());
    let names = wanted.flat_map(|names| names.split(',')).map(str::trim);
    // All headers are allowed, because those without a meaning here are not forwarded.
    let names: Vec<_> = names.filter_map(|name| HeaderName::try_from(name).ok()).collect();
    let names: Vec<_> = names.iter().map(HeaderName::as_str).collect();
    if let Some(names) = HeaderValue::try_from(names.join(", ")).ok().filter(|names| !names.is_empty()) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
    }
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    response
}

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE";

/// Response headers that scripts can read in addition to those that the standard allows.
const EXPOSED: &str = "Content-Disposition, Content-Range, ETag, Retry-After, X-Request-Id";
