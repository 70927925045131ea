//! Why nobody was recognised, in bounded words.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::oidc::token::Refusal;
use crate::store;

/// Why nobody was recognised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No credential at all.
    #[error("no credentials were sent")]
    Missing,
    /// A credential that is wrong, expired, revoked or unreadable. Callers who did not prove a secret get one answer for all,
    /// so that nothing can be learnt from it; see [`Reason::is_told`].
    #[error("the credentials were refused: {0}")]
    Failed(Reason),
    #[error("too many failed attempts")]
    TooManyAttempts { retry_after: Duration },
    /// The password queue is full.
    #[error("too many passwords are being checked")]
    Busy,
    /// A JWT of an issuer whose keys could never be fetched.
    #[error("the identity provider's keys could not be fetched yet")]
    NoKeys,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Why a credential failed: for our log and metrics, never for the client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    Unreadable,
    UnknownScheme,
    UnknownUser,
    WrongPassword,
    MalformedToken,
    UnknownToken,
    /// Since when.
    ExpiredToken(Timestamp),
    /// Since when.
    RevokedToken(Timestamp),
    TokenOfAnother,
    /// A token whose owner the identity provider let go: out of all allowed groups, logged out, or not heard of for long.
    OwnerNotAllowed,
    OwnerSuspended,
    OwnerOutOfTouch,
    /// A session that is over, or never was.
    UnknownSession,
    /// A JWT of no issuer of ours, or one that does not hold what it must.
    RefusedJwt(Refusal),
    /// The name that a token or provider says is somebody else's here.
    NameTaken,
}

impl Reason {
    /// Whether it counts as a guess. Somebody who holds a token that was once valid is not guessing, and what cannot
    /// possibly succeed costs nothing: a job with an expired token must not block the passwords of its whole address.
    #[must_use]
    pub const fn is_guess(self) -> bool {
        match self {
            Self::UnknownUser | Self::WrongPassword | Self::UnknownToken => true,
            Self::Unreadable
            | Self::UnknownScheme
            | Self::MalformedToken
            | Self::ExpiredToken(_)
            | Self::RevokedToken(_)
            | Self::TokenOfAnother
            | Self::OwnerNotAllowed
            | Self::OwnerSuspended
            | Self::OwnerOutOfTouch
            | Self::UnknownSession
            | Self::RefusedJwt(_)
            | Self::NameTaken => false,
        }
    }

    /// Whether the caller proved a secret that was valid once, and may therefore be told why it is refused now.
    #[must_use]
    pub const fn is_told(self) -> bool {
        match self {
            Self::ExpiredToken(_)
            | Self::RevokedToken(_)
            | Self::OwnerNotAllowed
            | Self::OwnerSuspended
            | Self::OwnerOutOfTouch => true,
            Self::Unreadable
            | Self::UnknownScheme
            | Self::UnknownUser
            | Self::WrongPassword
            | Self::MalformedToken
            | Self::UnknownToken
            | Self::TokenOfAnother
            | Self::UnknownSession
            | Self::RefusedJwt(_)
            | Self::NameTaken => false,
        }
    }

    /// A bounded word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UnknownScheme => "unknown_scheme",
            Self::UnknownUser => "unknown_user",
            Self::WrongPassword => "wrong_password",
            Self::MalformedToken => "malformed_token",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken(_) => "expired_token",
            Self::RevokedToken(_) => "revoked_token",
            Self::TokenOfAnother => "token_of_another",
            Self::OwnerNotAllowed => "owner_not_allowed",
            Self::OwnerSuspended => "owner_suspended",
            Self::OwnerOutOfTouch => "owner_out_of_touch",
            Self::UnknownSession => "unknown_session",
            Self::RefusedJwt(refusal) => refusal.as_str(),
            Self::NameTaken => "name_taken",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
