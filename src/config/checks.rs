//! Checks of single values. Pure, except for the files that values name.
//!
//! Each error message describes the expected form. A message about a value that can contain a secret, such as a URL,
//! does not quote it.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use http::HeaderValue;
use ipnet::IpNet;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::{LogFormat, UnknownFields, file};
use crate::crypto::AccessToken;
use crate::text;

/// Checks a password for an account.
///
/// # Errors
/// The rule that it breaks, as the predicate of a sentence. The text never contains the password.
pub fn check_password(password: &str) -> Result<(), &'static str> {
    if password.chars().count() < 12 {
        return Err("must have at least 12 characters");
    }
    if password.len() > 1024 {
        return Err("must have at most 1024 bytes");
    }
    if password.contains(char::is_control) {
        return Err("must not contain control characters: HTTP Basic cannot carry them");
    }
    if password.starts_with(AccessToken::PREFIX) {
        return Err("must not start with `mlap_`, the prefix of access tokens");
    }
    Ok(())
}

/// Checks a user name for an account.
///
/// # Errors
/// The rule that it breaks, as the predicate of a sentence.
pub fn check_username(name: &str) -> Result<(), &'static str> {
    text::check_account(name)
}

pub(super) fn number<N: TryFrom<u64>>(value: u64, range: RangeInclusive<u64>) -> Result<N, String> {
    let refusal = || format!("must be between {} and {}", range.start(), range.end());
    if !range.contains(&value) {
        return Err(refusal());
    }
    N::try_from(value).map_err(|_| refusal())
}

pub(super) fn seconds(value: u64, range: RangeInclusive<u64>) -> Result<Duration, String> {
    number(value, range).map(Duration::from_secs)
}

pub(super) fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "must be an IP address and a port, such as 127.0.0.1:8080 or [::]:8443")
}

/// Parses a URL that consists of scheme, host and optionally a port.
pub(super) fn origin(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL, such as https://mlflow.example.com")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must start with http:// or https://");
    }
    if !url.username().is_empty() || url.password().is_some() || text.contains('@') {
        return Err("must not contain a user name or password");
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() || text.contains('\\') {
        return Err("must end after host and port: no path, no `?`, no `#`");
    }
    Ok(url)
}

/// Parses an origin and returns it as browsers write it in `Origin`.
pub(super) fn page_origin(text: &str) -> Result<HeaderValue, String> {
    if text == "*" {
        return Err("`*` would allow all sites; list each origin, such as https://app.example.com".to_owned());
    }
    let url = origin(text).map_err(|what| format!("`{text}` {what}"))?;
    HeaderValue::try_from(url.origin().ascii_serialization()).map_err(|_| format!("`{text}` is not an origin"))
}

/// Parses the URL of an identity provider: https, or plain HTTP on this machine, with an optional path.
pub(super) fn provider_url(text: &str) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL, such as https://keycloak.example.com/realms/company")?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("must start with http:// or https://");
    }
    if url.scheme() == "http" && !is_loopback(&url) {
        return Err("must be https: a plain HTTP connection would let others in the network impersonate any user");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not contain `?` or `#`");
    }
    Ok(url)
}

/// Returns true if a URL refers to this machine, by address or by a name that always resolves to it.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    url.host().is_some_and(|host| is_loopback_host(&host))
}

pub(super) fn is_loopback_host<S: AsRef<str>>(host: &url::Host<S>) -> bool {
    match host {
        url::Host::Ipv4(ip) => ip.is_loopback(),
        url::Host::Ipv6(ip) => ip.to_canonical().is_loopback(),
        url::Host::Domain(name) => name.as_ref() == "localhost" || name.as_ref().ends_with(".localhost"),
    }
}

/// Checks a path prefix: empty, or `/` followed by plain segments.
pub(super) fn static_prefix(text: &str) -> Result<String, String> {
    let plain = |segment: &str| {
        !segment.is_empty()
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte))
            && !matches!(segment, "." | "..")
    };
    let good = text.is_empty() || text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
    // MLflow before 3.18 treats every path that starts with one of these as public (`mlflow.server.auth`), so a prefix
    // that starts with one would make all of its routes public.
    let taken = ["/auth", "/static", "/health", "/favicon.ico"].iter().any(|taken| text.starts_with(taken));
    if good && !taken { Ok(text.to_owned()) } else { Err(format!("`{text}` is not a prefix such as `/mlflow`")) }
}

/// Parses a network or a single address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    let network = text
        .parse::<IpNet>()
        .or_else(|_| single())
        .map_err(|_| format!("`{text}` is not a network such as 10.0.0.0/8"))?;
    if network.prefix_len() == 0 {
        return Err(format!("`{text}` contains all addresses: any client could choose its own address"));
    }
    Ok(network)
}

/// Parses a host name or address as it appears in a `Host` header. A port is accepted and dropped, because hosts are
/// compared without it.
pub(super) fn host(text: &str) -> Result<String, String> {
    let refusal = || format!("`{text}` is not a host name, with or without a port");
    let url = Url::parse(&format!("http://{text}/")).map_err(|_| refusal())?;
    let rest = url.username().is_empty() && url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    if !rest || text.contains(['/', '\\', '@', '?', '#']) || text.is_empty() {
        return Err(refusal());
    }
    url.host_str().map(str::to_owned).ok_or_else(refusal)
}

pub(super) fn artifact_location(text: &str) -> Result<String, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err(format!("`{text}` must be a URI that ends with `/`, such as s3://bucket/folder/"));
    };
    let dots = rest.split('/').any(|segment| segment == ".." || segment == ".");
    if scheme.is_empty() || dots || !rest.ends_with('/') || rest.contains(['?', '#', '%', '\\']) {
        return Err(format!("`{text}` must be a plain URI that ends with `/`, such as s3://bucket/folder/"));
    }
    Ok(text.to_owned())
}

pub(super) fn log_level(text: &str) -> Result<String, String> {
    let refusal = || format!("`{text}` is not a log filter; use error, warn, info, debug or trace");
    let level = |directive: &str| directive.rsplit('=').next().is_some_and(|level| LEVELS.contains(&level.trim()));
    let parsed = tracing_subscriber::EnvFilter::try_new(text);
    if parsed.is_err() || !text.split(',').all(level) {
        return Err(refusal());
    }
    Ok(text.to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, &'static str> {
    match text {
        "json" => Ok(LogFormat::Json),
        "text" => Ok(LogFormat::Text),
        _ => Err("must be `json` or `text`"),
    }
}

pub(super) fn unknown_fields(text: &str) -> Result<UnknownFields, &'static str> {
    match text {
        "drop" => Ok(UnknownFields::Drop),
        "refuse" => Ok(UnknownFields::Refuse),
        _ => Err("must be `drop` or `refuse`"),
    }
}

/// Reads a secret from a file, without the one line end that editors add.
///
/// # Errors
/// The cause, as the predicate of a sentence. The text never contains the secret.
pub fn secret_file(path: &Path) -> Result<String, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", path.display());
    let text = file::read_any(path, MAX_SECRET_BYTES).map_err(|error| cannot(&error))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text.to_owned()) }
}

/// Checks that the key belongs to the first certificate.
pub(super) fn belongs(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<(), String> {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    rustls::sign::CertifiedKey::from_der(chain, key, &provider)
        .map(|_| ())
        .map_err(|error| format!("does not belong to the first certificate of server.tls.cert ({error})"))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const MAX_SECRET_BYTES: u64 = 4096;
