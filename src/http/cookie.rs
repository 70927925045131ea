//! The cookies of a request.
//!
//! Names and values as they stand (RFC 6265 §5.4); nothing is decoded, so two spellings are two values.

use http::{HeaderMap, header};

/// The values of every cookie of this name, in the order in which they came. Bounded by the size of the head.
pub fn cookies<'h>(headers: &'h HeaderMap, name: &'h str) -> impl Iterator<Item = &'h str> {
    all_cookies(headers).filter_map(move |(found, value)| (found == name).then_some(value))
}

/// Every cookie, with its name.
pub fn all_cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim(), value.trim()))
    })
}
