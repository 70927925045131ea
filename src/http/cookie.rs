//! Cookies of requests, and cookies that the proxy sets.
//!
//! Names and values are used as sent (RFC 6265 §5.4) and not decoded, so two spellings are two values. The proxy's cookies are
//! limited to its host, are not accessible to scripts, and are not sent with cross-site requests.

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

/// Returns the value of the cookie with this name. Returns `None` if it occurs twice, which no browser sends.
#[must_use]
pub fn only_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = all_cookies(headers).filter_map(|(found, value)| (found == name).then_some(value));
    values.next().filter(|_| values.next().is_none())
}

/// Returns all cookies with their names.
pub fn all_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim(), value.trim()))
    })
}

/// The lifetime of a cookie in the browser.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// Until the browser is closed. Sessions expire in the store.
    WhileOpen,
    Seconds(i64),
    /// Deletes the cookie.
    No,
}

/// Returns a `Set-Cookie` header. `name` starts with `__Host-`, which browsers accept only with these attributes; a deletion
/// requires them, too.
#[must_use]
pub fn set_cookie(name: &str, value: &str, keep: Keep) -> Option<HeaderValue> {
    let cookie = Cookie::build((name, value)).path("/").secure(true).http_only(true).same_site(SameSite::Lax);
    let cookie = match keep {
        Keep::WhileOpen => cookie,
        Keep::Seconds(seconds) => cookie.max_age(time::Duration::seconds(seconds)),
        Keep::No => cookie.max_age(time::Duration::ZERO),
    };
    HeaderValue::try_from(cookie.build().to_string()).ok()
}
