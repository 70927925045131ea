//! Where somebody goes after signing in: a path of ours, whatever the link said.
//!
//! Read twice and in two ways: letter by letter, where anything that some reader takes for another host is refused, and by
//! the parser that browsers have (WHATWG URL), whose result must be of the same origin.

use url::Url;

use super::decode_until_stable;

/// A path with query and fragment that leads to this very origin, in every reading. Printable ASCII.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReturnPath(String);

impl ReturnPath {
    /// The longest that is kept, in bytes; the state that carries it must fit into a query.
    const MAX_BYTES: usize = 1500;

    /// `text` when it is such a path and does not lead back into signing in or out; otherwise `home`.
    #[must_use]
    pub fn parse_or(home: &str, text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|| Self(home.to_owned()))
    }

    /// `None` when it could lead anywhere else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > Self::MAX_BYTES || !is_plain(text) {
            return None;
        }
        // Any origin does: it must come out as it went in.
        let base = Url::parse(ORIGIN).ok()?;
        let url = base.join(text).ok()?;
        let same = url.origin() == base.origin() && url.username().is_empty() && url.password().is_none();
        let path = url.path();
        // `/.//evil` becomes `//evil`, and servers behind us may decode once more.
        let decoded = decode_until_stable(path).ok()?;
        let dots = decoded.split('/').any(|segment| matches!(segment, "." | ".."));
        if !same || dots || decoded.contains("//") || decoded.contains('\\') || decoded.contains(char::is_control) {
            return None;
        }
        // Below any prefix: a page of MLflow that is called so is not worth the loop.
        if NOT_BACK.iter().any(|own| decoded.ends_with(own) || decoded.contains(&format!("{own}/"))) {
            return None;
        }
        let written = url.as_str().strip_prefix(ORIGIN)?;
        // Some letters are written as three, and what is kept must be taken when it comes back.
        (written.len() <= Self::MAX_BYTES && is_plain(written)).then(|| Self(written.to_owned()))
    }

    /// As it is written in `Location`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const ORIGIN: &str = "https://origin.invalid";

/// Going back there would sign in or out again.
const NOT_BACK: [&str; 4] = ["/auth/login", "/auth/callback", "/auth/logout", "/auth/backchannel-logout"];

/// Printable ASCII without what browsers take for a slash, and a path.
fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'"' | b'<' | b'>')) && is_local(text)
}

/// One slash, and not another behind it.
fn is_local(text: &str) -> bool {
    text.starts_with('/') && !text.starts_with("//") && !text.starts_with("/\\")
}

#[cfg(test)]
mod tests;
