//! The `Authorization` header, read strictly: one meaning or none.
//!
//! What starts like an access token is a token wherever it stands, and is never tried as a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::Reason;
use crate::crypto::AccessToken;

/// What somebody shows to be recognised.
#[derive(Debug)]
pub(super) enum Credential {
    Password {
        name: String,
        password: SecretString,
    },
    Token {
        /// Whose it is said to be; a bearer says nothing.
        owner: Option<String>,
        token: AccessToken,
    },
}

impl Credential {
    /// The longest value that is read, in bytes.
    const MAX_BYTES: usize = 4096;

    pub(super) fn read(value: &[u8]) -> Result<Self, Reason> {
        if value.is_empty() || value.len() > Self::MAX_BYTES {
            return Err(Reason::Unreadable);
        }
        let end_of_scheme = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
        let (scheme, rest) = value.split_at_checked(end_of_scheme).ok_or(Reason::Unreadable)?;
        let spaces = rest.iter().take_while(|byte| **byte == b' ').count();
        let credentials = rest.get(spaces..).unwrap_or_default();
        if scheme.eq_ignore_ascii_case(b"basic") {
            Self::basic(credentials)
        } else if scheme.eq_ignore_ascii_case(b"bearer") {
            Self::bearer(credentials)
        } else {
            Err(Reason::UnknownScheme)
        }
    }

    /// RFC 7617, as UTF-8: the name ends at the first colon, and there are no control characters.
    fn basic(credentials: &[u8]) -> Result<Self, Reason> {
        let decoded = Zeroizing::new(STANDARD.decode(credentials).map_err(|_| Reason::Unreadable)?);
        let text = str::from_utf8(&decoded).map_err(|_| Reason::Unreadable)?;
        if text.contains(char::is_control) {
            return Err(Reason::Unreadable);
        }
        let (name, secret) = text.split_once(':').ok_or(Reason::Unreadable)?;
        if AccessToken::looks_like(secret) {
            let token = AccessToken::parse(secret).ok_or(Reason::MalformedToken)?;
            return Ok(Self::Token { owner: Some(name.to_owned()), token });
        }
        Ok(Self::Password { name: name.to_owned(), password: secret.into() })
    }

    fn bearer(credentials: &[u8]) -> Result<Self, Reason> {
        let text = str::from_utf8(credentials).map_err(|_| Reason::UnknownScheme)?;
        if !AccessToken::looks_like(text) {
            return Err(Reason::UnknownScheme);
        }
        let token = AccessToken::parse(text).ok_or(Reason::MalformedToken)?;
        Ok(Self::Token { owner: None, token })
    }
}
