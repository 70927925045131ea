//! Canonical paths: decoded once, and refused if two parsers could interpret them differently.
//!
//! [`CanonicalPath::decoded`] is matched and authorised; the path that is sent is re-encoded from that text.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

/// The reason why a path is refused. MLflow's clients recognise the words `Invalid path`.
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

/// A path in canonical form.
///
/// INVARIANT: starts with `/`; no empty, `.` or `..` segment; valid UTF-8. Except in an artifact path
/// ([`CanonicalPath::parse_artifact`]), no backslash and no control character. A `%` can remain (a name that was encoded
/// twice); only artifact paths accept that, see `mlflow::artifact`.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    text: Text,
}

#[derive(Clone, Debug)]
enum Text {
    /// Received in canonical form, so no copy is needed.
    AsSent(PathAndQuery),
    Decoded(String),
}

impl CanonicalPath {
    /// Parses the path of a request target.
    ///
    /// # Errors
    ///
    /// Another parser could read another path; see [`PathError`].
    pub fn parse(target: &PathAndQuery) -> Result<Self, PathError> {
        Self::read(target, Dialect::Strict)
    }

    /// Parses a path in which clients encode a name that contains slashes: `%2F` is read and sent as `/`.
    ///
    /// # Errors
    ///
    /// See [`CanonicalPath::parse`].
    pub fn parse_names(target: &PathAndQuery) -> Result<Self, PathError> {
        Self::read(target, Dialect::Names)
    }

    /// Parses a path that ends with the name of an artifact. The name can contain `;` and, encoded, any character but a slash
    /// and a line feed, which MLflow's routes do not match. `mlflow::ArtifactPath` determines which names are accepted.
    ///
    /// # Errors
    ///
    /// See [`CanonicalPath::parse`].
    pub fn parse_artifact(target: &PathAndQuery) -> Result<Self, PathError> {
        Self::read(target, Dialect::Artifact)
    }

    fn read(target: &PathAndQuery, dialect: Dialect) -> Result<Self, PathError> {
        let raw = target.path();
        if raw.bytes().all(is_plain) {
            check_segments(raw)?;
            return Ok(Self { text: Text::AsSent(target.clone()) });
        }
        // Browsers treat a backslash as a slash and drop control characters. If they are encoded, they are literal.
        let odd = |byte: u8| byte == b'\\' || !byte.is_ascii() || byte.is_ascii_control();
        let artifact = dialect == Dialect::Artifact;
        if raw.bytes().any(|byte| odd(byte) || byte == b';' && !artifact) {
            return Err(PathError::ForbiddenCharacter);
        }
        // Before decoding, because an encoded separator must not become a segment border unnoticed.
        check_segments(raw)?;
        let decoded = match percent_decode_str(raw) {
            // A client that does not encode a `%` before hex digits sends bytes that are not UTF-8; MLflow replaces them.
            bytes if artifact => bytes.decode_utf8_lossy(),
            bytes => bytes.decode_utf8().map_err(|_| PathError::NotText)?,
        };
        let separators = |text: &str| text.bytes().filter(|&byte| byte == b'/').count();
        let moved = dialect != Dialect::Names && separators(&decoded) != separators(raw);
        let forbidden = |c: char| if artifact { c == '\n' } else { c == '\\' || c.is_control() };
        if moved || decoded.contains(forbidden) {
            return Err(PathError::EncodedSeparator);
        }
        check_segments(&decoded)?;
        Ok(Self { text: Text::Decoded(decoded.into_owned()) })
    }

    /// Wraps a part of a path that was already parsed, or an artifact path that was decoded until it was stable.
    ///
    /// # Errors
    ///
    /// The path contains an empty, `.` or `..` segment.
    pub fn from_decoded(decoded: String) -> Result<Self, PathError> {
        check_segments(&decoded)?;
        Ok(Self { text: Text::Decoded(decoded) })
    }

    /// Returns the path as text, against which routes are matched.
    #[must_use]
    pub fn decoded(&self) -> &str {
        match &self.text {
            Text::AsSent(target) => target.path(),
            Text::Decoded(decoded) => decoded,
        }
    }

    /// Returns the path as it is sent: [`CanonicalPath::decoded`], percent-encoded.
    #[must_use]
    pub fn encoded(&self) -> Cow<'_, str> {
        match &self.text {
            Text::AsSent(target) => Cow::Borrowed(target.path()),
            Text::Decoded(decoded) => utf8_percent_encode(decoded, NOT_IN_PATH).into(),
        }
    }
}

/// The characters that a path can contain in addition to the plain ones.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Dialect {
    Strict,
    /// `%2F` counts as a slash.
    Names,
    Artifact,
}

/// All characters except the unreserved ones, `/` and the sub-delimiters that MLflow's clients send unencoded.
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
    let mut segments = inner.as_bytes().split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            // The last one is empty when the path ends with a slash.
            b"" if segments.peek().is_some() => return Err(PathError::EmptySegment),
            b"." | b".." => return Err(PathError::DotSegment),
            _ => {}
        }
    }
    Ok(())
}

/// Decodes a text until it no longer changes, as MLflow's `validate_path_is_safe` does for artifact paths.
///
/// # Errors
///
/// A step yields invalid UTF-8, or the text still changes after eight steps.
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
