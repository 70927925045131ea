//! Canonical queries: parsed once, and rebuilt from the parsed pairs.
//!
//! Parsed as in MLflow (`&` only, `+` is a space, names are case-sensitive). Invalid UTF-8 is refused.

use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// The reason why a query is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum QueryError {
    #[error("the query string's percent-encoding is not UTF-8 text")]
    NotText,
    #[error("the query string contains a NUL character")]
    Nul,
}

/// The pairs of a query in their order. Names can repeat; code that reads an ID must use [`Query::only`].
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

/// A name that must not repeat occurs more than once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Repeated;

impl Query {
    /// Parses the part after `?`.
    ///
    /// # Errors
    ///
    /// Percent-encoding that is not UTF-8, or a NUL.
    pub fn parse(text: &str) -> Result<Self, QueryError> {
        let mut pairs = Vec::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        Ok(Self { pairs })
    }

    /// Returns all names with their values, in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Returns all values of a name, in order.
    pub fn all<'q>(&'q self, name: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Returns the value of a name that must not repeat.
    ///
    /// # Errors
    ///
    /// The name occurs more than once: MLflow would use the first value, another parser the last.
    pub fn only(&self, name: &str) -> Result<Option<&str>, Repeated> {
        let mut values = self.pairs.iter().filter(|(n, _)| n == name).map(|(_, value)| value.as_str());
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Repeated),
            (value, None) => Ok(value),
        }
    }

    /// Replaces all values of a name with this one; `None` removes the name.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        self.pairs.retain(|(n, _)| n != name);
        if let Some(value) = value {
            self.pairs.push((name.to_owned(), value.to_owned()));
        }
    }

    /// Adds a pair at the end.
    pub fn add(&mut self, name: &str, value: &str) {
        self.pairs.push((name.to_owned(), value.to_owned()));
    }

    /// Keeps the pairs for which `keep` returns true; it may rewrite the values of those.
    ///
    /// # Errors
    /// The first error of `keep`.
    pub fn try_retain<E>(&mut self, mut keep: impl FnMut(&str, &mut String) -> Result<bool, E>) -> Result<(), E> {
        let mut failed = None;
        self.pairs.retain_mut(|(name, value)| {
            if failed.is_some() {
                return true;
            }
            keep(name, value).unwrap_or_else(|error| {
                failed = Some(error);
                true
            })
        });
        failed.map_or(Ok(()), Err)
    }

    /// Returns true if the query has no pairs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Returns the canonical text, without `?`.
    #[must_use]
    pub fn encoded(&self) -> String {
        let mut text = String::with_capacity(self.pairs.iter().map(|(n, v)| n.len() + v.len() + 2).sum());
        for (name, value) in &self.pairs {
            if !text.is_empty() {
                text.push('&');
            }
            // Writing to a `String` cannot fail.
            let _ = write!(text, "{}={}", utf8_percent_encode(name, ENCODED), utf8_percent_encode(value, ENCODED));
        }
        // MLflow 2.10 replaces `%5B%5D` with `%5B0%5D` everywhere in a query, including values. Hex digits in lower case are
        // equivalent for every parser (RFC 3986 section 2.1).
        if text.contains("%5B%5D") { text.replace("%5B%5D", "%5b%5d") } else { text }
    }
}

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

fn decode(text: &str) -> Result<String, QueryError> {
    let spaced = if text.contains('+') { text.replace('+', " ").into() } else { std::borrow::Cow::Borrowed(text) };
    let decoded = percent_decode_str(&spaced).decode_utf8().map_err(|_| QueryError::NotText)?;
    if decoded.contains('\0') {
        return Err(QueryError::Nul);
    }
    Ok(decoded.into_owned())
}
