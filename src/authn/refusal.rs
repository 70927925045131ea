//! Reasons for which authentication fails, as a bounded set of words.

use std::fmt;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::oidc::token::Refusal;
use crate::store;

/// Reason for which a request was not authenticated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request has no credential.
    #[error("no credentials were sent")]
    Missing,
    /// A credential that is wrong, expired, revoked or unreadable. Callers who did not prove a secret receive the same
    /// answer for all reasons, so that it reveals nothing; see [`Reason::is_told`].
    #[error("the credentials were refused: {0}")]
    Failed(Reason),
    #[error("too many failed attempts")]
    TooManyAttempts { retry_after: Duration },
    /// The password queue is full.
    #[error("too many passwords are being checked")]
    Busy,
    /// A JWT of an issuer whose keys have never been fetched.
    #[error("the identity provider's keys could not be fetched yet")]
    NoKeys,
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// Reason for which a credential failed. Written to logs and metrics; shown to the client only if [`Reason::is_told`]
/// allows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Reason {
    Unreadable,
    UnknownScheme,
    UnknownUser,
    WrongPassword,
    MalformedToken,
    UnknownToken,
    /// Time of expiry.
    ExpiredToken(Timestamp),
    /// Time of revocation.
    RevokedToken(Timestamp),
    TokenOfAnother,
    /// A credential whose owner is no longer in a group that is allowed in, or is disabled or deleted at the identity
    /// provider.
    OwnerNotAllowed,
    /// A credential whose owner was logged out by the identity provider and has not signed in since.
    OwnerSuspended,
    /// A credential whose owner the identity provider has not confirmed for longer than `person_max_age`.
    OwnerOutOfTouch,
    /// A session that has ended or never existed.
    UnknownSession,
    /// A JWT of an unknown issuer, or one that fails verification.
    RefusedJwt(Refusal),
    /// The name in a token belongs to another account.
    NameTaken,
}

impl Reason {
    /// Returns true if the failure counts as a guess.
    ///
    /// A caller with a token that was once valid is not guessing, and an attempt that cannot succeed is free: a job
    /// with an expired token must not block password logins from its whole address.
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

    /// Returns true if the caller proved a secret that was once valid, and may therefore learn the reason of the
    /// refusal.
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

    /// Returns a word from a bounded set, for logs and metrics.
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
