//! One spelling per path: decoded once, refused when two parsers could read it differently.
//!
//! What is matched and authorised is [`CanonicalPath::decoded`]; what is sent is re-encoded from that very text.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// Why a path is refused. MLflow's clients know the words `Invalid path`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    #[error("Invalid path: it must start with `/`.")]
    NotAbsolute,
    #[error("Invalid path: it has an empty segment (`//`).")]
    EmptySegment,
    #[error("Invalid path: `.` and `..` segments are not allowed.")]
    DotSegment,
    #[error("Invalid path: an encoded slash, backslash or control character is not allowed.")]
    EncodedSeparator,
    #[error("Invalid path: a backslash, `;` or control character is not allowed.")]
    ForbiddenCharacter,
    #[error("Invalid path: its percent-encoding is not UTF-8 text.")]
    NotText,
    #[error("Invalid path: it is percent-encoded more than once.")]
    EncodedTwice,
}

/// A path in its one accepted spelling.
///
/// INVARIANT: starts with `/`; no empty, `.` or `..` segment; no backslash, no control character; valid UTF-8. A `%` may
/// be left (a name that was encoded twice); only artifact paths accept that, see `mlflow::artifact`.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    text: Text,
}

#[derive(Clone, Debug)]
enum Text {
    /// Came in its canonical spelling: nothing is copied.
    AsSent(PathAndQuery),
    Decoded(String),
}

impl CanonicalPath {
    /// Reads the path of a request target.
    ///
    /// # Errors
    /// Whenever another parser could see another path; see [`PathError`].
    pub fn parse(target: &PathAndQuery) -> Result<Self, PathError> {
        Self::read(target, EncodedSlash::Refused)
    }

    /// The same where clients encode a name whose own slashes count as slashes: `%2F` is read and sent as `/`.
    ///
    /// # Errors
    /// As [`CanonicalPath::parse`].
    pub fn parse_names(target: &PathAndQuery) -> Result<Self, PathError> {
        Self::read(target, EncodedSlash::Separates)
    }

    fn read(target: &PathAndQuery, slash: EncodedSlash) -> Result<Self, PathError> {
        let raw = target.path();
        if raw.bytes().all(is_plain) {
            check_segments(raw)?;
            return Ok(Self { text: Text::AsSent(target.clone()) });
        }
        if raw.bytes().any(|byte| byte == b';' || byte == b'\\' || !byte.is_ascii() || byte.is_ascii_control()) {
            return Err(PathError::ForbiddenCharacter);
        }
        // Before decoding: an encoded separator must not become a segment border unawares.
        check_segments(raw)?;
        let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| PathError::NotText)?;
        let separators = |text: &str| text.bytes().filter(|&byte| byte == b'/').count();
        let moved = slash == EncodedSlash::Refused && separators(&decoded) != separators(raw);
        if moved || decoded.contains('\\') || decoded.contains(char::is_control) {
            return Err(PathError::EncodedSeparator);
        }
        check_segments(&decoded)?;
        Ok(Self { text: Text::Decoded(decoded.into_owned()) })
    }

    /// Wraps a text that is already decoded, e.g. an artifact path that was decoded until it was stable.
    ///
    /// # Errors
    /// As [`CanonicalPath::parse`].
    pub fn from_decoded(decoded: String) -> Result<Self, PathError> {
        if decoded.contains('\\') || decoded.contains(char::is_control) {
            return Err(PathError::ForbiddenCharacter);
        }
        check_segments(&decoded)?;
        Ok(Self { text: Text::Decoded(decoded) })
    }

    /// The path as text: what routes are matched against.
    #[must_use]
    pub fn decoded(&self) -> &str {
        match &self.text {
            Text::AsSent(target) => target.path(),
            Text::Decoded(decoded) => decoded,
        }
    }

    /// The path as it is sent: percent-encoded from [`CanonicalPath::decoded`], nothing else.
    #[must_use]
    pub fn encoded(&self) -> Cow<'_, str> {
        match &self.text {
            Text::AsSent(target) => Cow::Borrowed(target.path()),
            Text::Decoded(decoded) => utf8_percent_encode(decoded, NOT_IN_PATH).into(),
        }
    }
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum EncodedSlash {
    Refused,
    Separates,
}

/// Everything but unreserved characters, `/` and the sub-delimiters that MLflow's clients send as they are.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}')
    .add(b';')
    .add(b'&')
    .add(b'+')
    .add(b'$')
    .add(b',')
    .add(b'=')
    .add(b'!')
    .add(b'\'')
    .add(b'(')
    .add(b')')
    .add(b'*')
    .add(b'@')
    .add(b':');

const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'.' | b'_' | b'~')
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let inner = path.strip_prefix('/').ok_or(PathError::NotAbsolute)?;
    if inner.starts_with('/') || inner.contains("//") {
        return Err(PathError::EmptySegment);
    }
    let dots = |segment: &str| segment == "." || segment == "..";
    if inner.contains('.') && inner.split('/').any(dots) {
        return Err(PathError::DotSegment);
    }
    Ok(())
}

/// Decodes a text until nothing changes: how MLflow's `validate_path_is_safe` reads artifact paths.
///
/// # Errors
/// Not UTF-8 at some step, or still changing after eight.
pub fn decode_until_stable(text: &str) -> Result<String, PathError> {
    let mut current = text.to_owned();
    for _ in 0..8 {
        if !current.contains('%') {
            return Ok(current);
        }
        let next = percent_decode_str(&current).decode_utf8().map_err(|_| PathError::NotText)?.into_owned();
        if next == current {
            return Ok(current);
        }
        current = next;
    }
    Err(PathError::EncodedTwice)
}
