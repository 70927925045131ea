//! The path to return to after a sign-in. It always leads to the proxy, whatever the link contains.
//!
//! Checked in two ways: character by character, refusing texts that any parser could read as another host, and with the parser
//! that browsers use (WHATWG URL), whose result must have the same origin.

use url::Url;

use super::decode_until_stable;

/// A path with query and fragment that leads to the same origin for every parser. Printable ASCII.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnPath(String);

impl ReturnPath {
    /// Maximum length in bytes. The state that contains the path must fit into a query.
    const MAX_BYTES: usize = 1500;

    /// Returns `text` if it is such a path and does not lead back to sign-in or sign-out; otherwise `home`.
    #[must_use]
    pub fn parse_or(home: &str, text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Self(home.to_owned()))
    }

    /// Parses a path; returns `None` if it could lead to another host.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Self::MAX_BYTES || !is_plain(text) {
            return None;
        }
        // The choice of the origin does not matter: the result must have the same one.
        let base = Url::parse(ORIGIN).ok()?;
        let url = base.join(text).ok()?;
        let same = url.origin() == base.origin() && url.username().is_empty() && url.password().is_none();
        let path = url.path();
        // `/.//evil` becomes `//evil`, and servers behind the proxy may decode once more.
        let decoded = decode_until_stable(path).ok()?;
        let dots = decoded.split('/').any(|segment| matches!(segment, "." | ".."));
        if !same || dots || decoded.contains("//") || decoded.contains('\\') || decoded.contains(char::is_control) {
            return None;
        }
        // Below any prefix. A page of MLflow with such a name is not worth the risk of a redirect loop.
        if NOT_BACK.iter().any(|own| decoded.ends_with(own) || decoded.contains(&format!("{own}/"))) {
            return None;
        }
        let written = url.as_str().strip_prefix(ORIGIN)?;
        // Encoding can triple the length, and the result must be accepted again when it returns.
        (written.len() <= Self::MAX_BYTES && is_plain(written)).then(|| Self(written.to_owned()))
    }

    /// Returns the path as it is written in `Location`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const ORIGIN: &str = "https://origin.invalid";

/// Paths that would start a sign-in or sign-out again.
const NOT_BACK: [&str; 4] = ["/auth/login", "/auth/callback", "/auth/logout", "/auth/backchannel-logout"];

/// Returns true for a path of printable ASCII without characters that browsers treat as a slash.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>')) && is_local(text)
}

/// Returns true if the text starts with exactly one slash.
fn is_local(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("//") && !text.starts_with("/\\")
}

#[cfg(test)]
mod tests;
