//! Reading the `Authorization` header: Basic (RFC 7617) and Bearer (RFC 6750).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;

use super::Reason;
use crate::crypto::AccessToken;

/// What somebody shows.
#[derive(Debug)]
pub(super) enum Credential {
    /// An access token; with Basic also the name it must belong to.
    Token {
        text: SecretString,
        user: Option<String>,
    },
    Password {
        user: String,
        password: SecretString,
    },
}

/// The longest header that is looked at.
const MAX_BYTES: usize = 4096;

/// Reads the header's value.
///
/// # Errors
/// Neither Basic nor Bearer, or not readable without guessing.
pub(super) fn credential(authorization: &[u8]) -> Result<Credential, Reason> {
    if authorization.len() > MAX_BYTES {
        return Err(Reason::Unreadable);
    }
    let text = std::str::from_utf8(authorization).map_err(|_| Reason::Unreadable)?;
    let (scheme, rest) = text.trim().split_once(' ').ok_or(Reason::Unreadable)?;
    let rest = rest.trim_start_matches(' ');
    if scheme.eq_ignore_ascii_case("basic") {
        return basic(rest);
    }
    if scheme.eq_ignore_ascii_case("bearer") && AccessToken::looks_like(rest) {
        return Ok(Credential::Token { text: rest.into(), user: None });
    }
    Err(Reason::UnknownScheme)
}

fn basic(encoded: &str) -> Result<Credential, Reason> {
    let bytes = STANDARD.decode(encoded).map_err(|_| Reason::Unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| Reason::Unreadable)?;
    if text.contains(char::is_control) {
        return Err(Reason::Unreadable);
    }
    let (user, password) = text.split_once(':').ok_or(Reason::Unreadable)?;
    if user.is_empty() || password.is_empty() {
        return Err(Reason::Unreadable);
    }
    // What looks like a token is never tried as a password.
    if AccessToken::looks_like(password) {
        return Ok(Credential::Token { text: password.into(), user: Some(user.to_owned()) });
    }
    Ok(Credential::Password { user: user.to_owned(), password: password.into() })
}
