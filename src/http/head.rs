//! The strict edge: refuses request heads that two servers could interpret differently, before authentication.
//!
//! Sources: RFC 9110 §7, RFC 9112 §3 and §6, and recent advisories of other proxies.

use std::net::Ipv6Addr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, Method, Version, header};

/// The reason why a head is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadError {
    #[error("The method `{0}` is not supported.")]
    Method(String),
    #[error("The request target must be a path.")]
    Target,
    #[error("The request needs exactly one Host header.")]
    Host,
    #[error("The Host header is not a host name with an optional port.")]
    BadHost,
    #[error("The header name `{0}` is not accepted, because servers read `_` and `.` as `-`.")]
    LookAlikeName(HeaderName),
    #[error("The header `{0}` must not be repeated.")]
    Repeated(HeaderName),
    #[error("The header `{0}` must be plain ASCII text.")]
    NotText(HeaderName),
    #[error("The Connection header must name header fields, and none that this proxy gives a meaning to.")]
    Nomination,
    #[error("Protocol upgrades are not supported.")]
    Upgrade,
    #[error("Transfer-Encoding must be exactly `chunked`, without Content-Length.")]
    Framing,
    #[error("A {0} request must not have a body.")]
    UnexpectedBody(Method),
}

impl HeadError {
    /// Returns a bounded word for logs and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Method(_) => "method",
            Self::Target => "target",
            Self::Host | Self::BadHost => "host",
            Self::LookAlikeName(_) => "look_alike_header",
            Self::Repeated(_) => "repeated_header",
            Self::NotText(_) => "header_text",
            Self::Nomination => "connection_nomination",
            Self::Upgrade => "upgrade",
            Self::Framing => "framing",
            Self::UnexpectedBody(_) => "unexpected_body",
        }
    }
}

/// Headers that must not be repeated, because servers would use different ones.
const ONCE: [HeaderName; 6] = [
    header::HOST,
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::ORIGIN,
];

/// Headers with a meaning for the proxy, in addition to [`ONCE`]. A header that some servers would read as one of these, or one
/// that `Connection` removes, indicates an attack on a server behind the proxy: no client sends it by mistake.
const MEANT: [HeaderName; 14] = [
    header::CONNECTION,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("sec-fetch-mode"),
    HeaderName::from_static("sec-fetch-site"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-mlflow-authorization"),
    HeaderName::from_static("x-mlflow-workspace"),
    HeaderName::from_static("x-requested-with"),
];

fn is_meant(name: &HeaderName) -> bool {
    ONCE.contains(name) || MEANT.contains(name)
}

/// Checks a request head, and removes headers that are neither refused nor useful: names with `_` or `.`, and those that
/// `Connection` declares as hop-by-hop (RFC 9110 §7.6.1). All other anomalies are refused with 400 (a method with 405) and
/// never forwarded.
///
/// # Errors
///
/// The first problem that is found.
pub fn check(head: &mut Parts, has_body: bool) -> Result<(), HeadError> {
    check_method(&head.method)?;
    // Absolute-form is for forward proxies; CONNECT and `*` have no path.
    if head.version < Version::HTTP_2 && head.uri.authority().is_some() || !head.uri.path().starts_with('/') {
        return Err(HeadError::Target);
    }
    check_host(head)?;
    check_headers(&mut head.headers)?;
    if has_body && matches!(head.method, Method::HEAD | Method::OPTIONS) {
        return Err(HeadError::UnexpectedBody(head.method.clone()));
    }
    Ok(())
}

fn check_method(method: &Method) -> Result<(), HeadError> {
    match *method {
        Method::GET | Method::HEAD | Method::POST | Method::PUT | Method::PATCH | Method::DELETE | Method::OPTIONS => {
            Ok(())
        }
        _ => Err(HeadError::Method(method.as_str().chars().take(32).collect())),
    }
}

/// Returns the `Host` header (HTTP/1) or `:authority` (HTTP/2) in lower case, without port.
///
/// # Errors
///
/// The host is missing, repeated or not valid.
pub fn host(head: &Parts) -> Result<String, HeadError> {
    let authority = match head.uri.authority() {
        Some(authority) => authority.clone(),
        None => {
            let value = head.headers.get(header::HOST).ok_or(HeadError::Host)?;
            http::uri::Authority::try_from(value.as_bytes()).map_err(|_| HeadError::BadHost)?
        }
    };
    let host = host_name(authority.as_str().as_bytes()).ok_or(HeadError::BadHost)?;
    Ok(host.to_ascii_lowercase())
}

fn check_host(head: &Parts) -> Result<(), HeadError> {
    let hosts = head.headers.get_all(header::HOST).iter().count();
    match head.uri.authority() {
        // HTTP/2: `:authority` takes precedence, and a Host header must be equal to it (RFC 9113 §8.3.1).
        Some(authority) if !is_host(authority.as_str().as_bytes()) => Err(HeadError::BadHost),
        Some(authority) => match head.headers.get(header::HOST) {
            None => Ok(()),
            Some(host) if hosts == 1 && host.as_bytes() == authority.as_str().as_bytes() => Ok(()),
            Some(_) => Err(HeadError::Host),
        },
        None if hosts != 1 => Err(HeadError::Host),
        None => {
            let host = head.headers.get(header::HOST).map_or(&[][..], http::HeaderValue::as_bytes);
            if is_host(host) { Ok(()) } else { Err(HeadError::BadHost) }
        }
    }
}

/// Set by browsers, which no script can change (Fetch Metadata).
pub const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
pub const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
pub const X_REQUESTED_WITH: HeaderName = HeaderName::from_static("x-requested-with");

/// Returns true if a browser opens a page, judged by the headers. Requests of a page's script do not count.
#[must_use]
pub fn navigates(headers: &HeaderMap) -> bool {
    headers.get(&SEC_FETCH_MODE).is_none_or(|mode| mode.as_bytes() == b"navigate")
        && !headers.contains_key(&X_REQUESTED_WITH)
}

fn is_host(text: &[u8]) -> bool {
    host_name(text).is_some()
}

/// Returns the host in a `Host` header: a name, an IPv4 address, or an IPv6 address in brackets, with an optional port of 1 to
/// 65535 (RFC 9110 §7.2). Returns `None` for any other text.
#[must_use]
pub fn host_name(text: &[u8]) -> Option<&str> {
    let text = str::from_utf8(text).ok()?;
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            address.parse::<Ipv6Addr>().ok()?;
            (text.get(..address.len() + 2)?, Some(port).filter(|port| !port.is_empty()))
        }
        None => {
            let end = text.bytes().position(|byte| byte == b':').unwrap_or(text.len());
            let (name, port) = text.split_at_checked(end)?;
            // A name can end with one dot, which makes it fully qualified.
            let mut before = b'.';
            for byte in name.bytes() {
                if !matches!(byte, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_')
                    && (byte != b'.' || before == b'.')
                {
                    return None;
                }
                before = byte;
            }
            if name.is_empty() {
                return None;
            }
            (name, Some(port).filter(|port| !port.is_empty()))
        }
    };
    let is_port = |port: &str| {
        let digits = port.strip_prefix(':').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        digits.and_then(|digits| digits.parse::<u16>().ok()).is_some_and(|port| port > 0)
    };
    (host.len() <= MAX_HOST_BYTES && port.is_none_or(is_port)).then_some(host)
}

/// RFC 1035 §2.3.4.
const MAX_HOST_BYTES: usize = 255;

fn check_headers(headers: &mut HeaderMap) -> Result<(), HeadError> {
    let mut useless = Vec::new();
    // A single pass over the headers, because only few of them need a closer look.
    for (name, value) in &*headers {
        let text = name.as_str();
        if memchr::memchr2(b'_', b'.', text.as_bytes()).is_some() {
            let meant = HeaderName::try_from(text.replace(['_', '.'], "-"));
            if meant.is_ok_and(|meant| is_meant(&meant)) {
                return Err(HeadError::LookAlikeName(name.clone()));
            }
            useless.push(name.clone());
        }
        if (ONCE.contains(name) || *name == header::TRANSFER_ENCODING) && value.to_str().is_err() {
            return Err(HeadError::NotText(name.clone()));
        }
    }
    // Equal counts mean that no name occurs twice, which spares most requests the search.
    if headers.keys_len() != headers.len() {
        for name in ONCE {
            if headers.get_all(&name).iter().nth(1).is_some() {
                return Err(HeadError::Repeated(name));
            }
        }
    }
    check_framing(headers)?;
    check_connection(headers, &mut useless)?;
    for name in useless {
        headers.remove(name);
    }
    Ok(())
}

fn check_framing(headers: &HeaderMap) -> Result<(), HeadError> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(first) = encodings.next() else { return Ok(()) };
    let chunked = first.as_bytes().eq_ignore_ascii_case(b"chunked");
    if !chunked || encodings.next().is_some() || headers.contains_key(header::CONTENT_LENGTH) {
        return Err(HeadError::Framing);
    }
    Ok(())
}

fn check_connection(headers: &HeaderMap, nominated: &mut Vec<HeaderName>) -> Result<(), HeadError> {
    for value in headers.get_all(header::CONNECTION) {
        let value = value.to_str().map_err(|_| HeadError::NotText(header::CONNECTION))?;
        for option in value.split(',').map(str::trim).filter(|option| !option.is_empty()) {
            let known = ["close", "keep-alive", "upgrade", "te", "http2-settings"];
            if !known.iter().any(|known| option.eq_ignore_ascii_case(known)) {
                // A client must not make the proxy remove a header that is evaluated here or that MLflow depends on.
                let name = HeaderName::try_from(option).ok().filter(|name| !is_meant(name));
                nominated.push(name.ok_or(HeadError::Nomination)?);
            }
        }
    }
    // `Upgrade: h2c` is an offer that some clients always send and that a server is allowed to ignore (RFC 9110 §7.8).
    let offers = headers.get_all(header::UPGRADE);
    if offers.iter().any(|offer| !offer.as_bytes().eq_ignore_ascii_case(b"h2c")) {
        return Err(HeadError::Upgrade);
    }
    Ok(())
}
