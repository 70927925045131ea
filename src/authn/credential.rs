//! The `Authorization` header, read strictly: one meaning or none.
//!
//! What starts like an access token is a token wherever it stands, and is never tried as a password.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use secrecy::zeroize::Zeroizing;

use super::{Reason, Shown};
use crate::crypto::AccessToken;

/// What somebody shows to be recognised. Has no `Debug`, so nothing can print it.
pub(super) enum Credential<'h> {
    Password {
        name: String,
        password: SecretString,
    },
    Token {
        /// Whose it is said to be; a bearer says nothing.
        owner: Option<String>,
        token: AccessToken,
    },
    /// A bearer that looks like a JWT: three parts between dots.
    Jwt(&'h str),
    /// The secret in a session's cookie.
    Session(&'h str),
}

impl<'h> Credential<'h> {
    /// The longest value that is read, in bytes. A JWT that lists hundreds of groups is as large.
    const MAX_BYTES: usize = 16 * 1024;
    /// The longest of a password.
    const MAX_BASIC_BYTES: usize = 4096;

    pub(super) fn read(shown: Shown<'h>) -> Result<Self, Reason> {
        match shown {
            Shown { authorization: Some(value), .. } => Self::authorization(value),
            Shown { session: Some(secret), .. } => Ok(Self::Session(secret)),
            Shown { authorization: None, session: None } => Err(Reason::Unreadable),
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

    /// RFC 7617, as UTF-8: the name ends at the first colon, and there are no control characters.
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
