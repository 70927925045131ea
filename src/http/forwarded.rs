//! The headers that are forwarded in both directions, and the client's address.
//!
//! Towards MLflow an allow-list applies: a header that is not listed is dropped in any spelling.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use ipnet::IpNet;

/// Headers that are forwarded from a client to MLflow. All others (credentials, cookies, `Origin`, forwarding and identity
/// headers) are dropped.
const TO_UPSTREAM: [HeaderName; 16] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::RANGE,
    header::USER_AGENT,
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-mlflow-experiment-id"),
    HeaderName::from_static("x-mlflow-run-id"),
    HeaderName::from_static("mlflow-request-id"),
];

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Returns the headers of the request to MLflow, except those that describe its body: the client's listed headers, with `Host`
/// and the client's address as determined by the proxy.
#[must_use]
pub fn to_upstream(mut headers: HeaderMap, upstream: &HeaderValue, client: IpAddr) -> HeaderMap {
    let is_sent = |name: &HeaderName| *name == header::HOST || TO_UPSTREAM.contains(name);
    let others: Vec<HeaderName> = headers.keys().filter(|name| !is_sent(name)).cloned().collect();
    for name in others {
        headers.remove(name);
    }
    headers.insert(header::HOST, upstream.clone());
    // Exactly one, set by the proxy: MLflow trusts it from loopback peers, and treats requests without it as local.
    if let Ok(client) = HeaderValue::try_from(client.to_string()) {
        headers.insert(X_FORWARDED_FOR, client);
    }
    headers
}

/// Removes headers from MLflow's response that concern only the connection to MLflow, or that reveal internal names.
pub fn from_upstream(headers: &mut HeaderMap, upstream: &http::uri::Authority) {
    // hyper writes one Date; MLflow's Flask routes send two. The proxy decides about CORS, and MLflow sends CORS headers
    // unconditionally.
    let not_ours = |name: &&HeaderName| {
        HOP_BY_HOP.contains(name)
            || **name == header::DATE
            || **name == header::SERVER
            || name.as_str().starts_with("access-control-")
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(not_ours).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    if let Some(location) = headers.get(header::LOCATION)
        && let Some(relative) = without_origin(location, upstream)
    {
        headers.insert(header::LOCATION, relative);
    }
}

const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

fn without_origin(location: &HeaderValue, upstream: &http::uri::Authority) -> Option<HeaderValue> {
    let uri = http::Uri::try_from(location.as_bytes()).ok()?;
    if uri.authority()? != upstream {
        return None;
    }
    HeaderValue::try_from(uri.path_and_query()?.as_str()).ok()
}

/// Returns the client's address: the peer's or, behind trusted proxies, the rightmost address that is not one of them.
#[must_use]
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted: &[IpNet]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|net| net.contains(&address));
    let peer = peer.to_canonical();
    if trusted.is_empty() || !is_trusted(peer) {
        return peer;
    }
    let mut client = peer;
    let values: Vec<&str> =
        headers.get_all(X_FORWARDED_FOR).iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
    for text in values.into_iter().rev() {
        // The entry cannot be parsed, so the last known address counts as the client's.
        let Some(address) = parse_address(text.trim()) else { return client };
        client = address;
        if !is_trusted(address) {
            return client;
        }
    }
    client
}

/// Parses `1.2.3.4`, `1.2.3.4:80`, `::1`, `[::1]` or `[::1]:80`.
fn parse_address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
        .map(|address| address.to_canonical())
}
