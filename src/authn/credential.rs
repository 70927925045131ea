//! Strict parser for the `Authorization` header. Ambiguous values are refused.
//!
//! A value that starts like an access token is treated as a token in every position and never tried as a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::{RawCredentials, Reason};
use crate::crypto::AccessToken;

/// Credentials extracted from a request. Has no `Debug`, so it cannot be printed.
pub(super) enum Credential<'h> {
    Password {
        name: String,
        password: SecretString,
    },
    Token {
        /// The claimed owner of the token. A bearer token names none.
        owner: Option<String>,
        token: AccessToken,
    },
    /// A bearer token in the form of a JWT: three parts separated by dots.
    Jwt(&'h str),
    /// The secret in the session cookie.
    Session(&'h str),
}

impl<'h> Credential<'h> {
    /// Maximum length of the header value in bytes. A JWT that lists hundreds of groups can be this long.
    const MAX_BYTES: usize = 16 * 1024;
    /// Maximum length of Basic credentials in bytes, encoded.
    const MAX_BASIC_BYTES: usize = 4096;

    pub(super) fn read(shown: RawCredentials<'h>) -> Result<Self, Reason> {
        match shown {
            RawCredentials { authorization: Some(value), .. } => Self::authorization(value),
            RawCredentials { session: Some(secret), .. } => Ok(Self::Session(secret)),
            RawCredentials { authorization: None, session: None } => Err(Reason::Unreadable),
        }
    }

    fn authorization(value: &'h [u8]) -> Result<Self, Reason> {
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

    /// Parses Basic credentials (RFC 7617) as UTF-8. The name ends at the first colon; control characters are refused.
    fn basic(credentials: &[u8]) -> Result<Self, Reason> {
        if credentials.len() > Self::MAX_BASIC_BYTES {
            return Err(Reason::Unreadable);
        }
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

    fn bearer(credentials: &'h [u8]) -> Result<Self, Reason> {
        let text = str::from_utf8(credentials).map_err(|_| Reason::UnknownScheme)?;
        if !AccessToken::looks_like(text) {
            let is_jwt = text.bytes().filter(|byte| *byte == b'.').count() == 2;
            return if is_jwt { Ok(Self::Jwt(text)) } else { Err(Reason::UnknownScheme) };
        }
        let token = AccessToken::parse(text).ok_or(Reason::MalformedToken)?;
        Ok(Self::Token { owner: None, token })
    }
}
