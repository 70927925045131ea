//! The cookies of a request, and those that we set.
//!
//! Names and values as they stand (RFC 6265 §5.4); nothing is decoded, so two spellings are two values. Ours are all of one
//! kind: to this very host, out of scripts' reach, and not sent along with what other sites make a browser send.

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};

/// The value of the cookie of this name. Two of it are as good as none: no browser sends that.
#[must_use]
pub fn only_cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let mut values = all_cookies(headers).filter_map(|(found, value)| (found == name).then_some(value));
    values.next().filter(|_| values.next().is_none())
}

/// Every cookie, with its name.
pub fn all_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim(), value.trim()))
    })
}

/// How long the browser keeps a cookie of ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// Until it is closed; sessions end here by themselves.
    WhileOpen,
    Seconds(i64),
    /// Not at all: what it had under this name goes.
    No,
}

/// A `Set-Cookie` line. `name` starts with `__Host-`, which browsers take only with these attributes; so deleting needs
/// them as well.
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
