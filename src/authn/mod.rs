//! Who is asking?
//!
//! Each scheme gives one of three answers: not requested (no such credential), an identity, or failed, which stops: a
//! rejected credential never falls through to another scheme. The warm path is one keyed hash and one cache look-up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;

use crate::authz::{Identity, UserId};
use crate::clock::Clock;
use crate::config;
use crate::crypto::PasswordHash;
use crate::store::{self, Store, User};

/// Why nobody was recognised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No credential at all.
    #[error("no credentials were sent")]
    Missing,
    /// A credential that is wrong, expired, revoked or unreadable. One answer for all, so nothing can be learnt from it.
    #[error("the credentials were refused: {0}")]
    Failed(Reason),
    #[error("too many failed attempts")]
    TooManyAttempts { retry_after: Duration },
    /// The password queue is full.
    #[error("too many passwords are being checked")]
    Busy,
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
    ExpiredToken,
    RevokedToken,
    TokenOfAnother,
}

impl Reason {
    /// A bounded word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::UnknownScheme => "unknown_scheme",
            Self::UnknownUser => "unknown_user",
            Self::WrongPassword => "wrong_password",
            Self::MalformedToken => "malformed_token",
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken => "expired_token",
            Self::RevokedToken => "revoked_token",
            Self::TokenOfAnother => "token_of_another",
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Recognises people and programs.
#[derive(Debug)]
pub struct Authn {}

#[expect(unused_variables, clippy::todo, clippy::unused_async, reason = "signatures first")]
impl Authn {
    pub fn new(config: &config::Authn, store: Arc<Store>, clock: Clock) -> Self {
        todo!()
    }

    /// The identity behind a recently seen `Authorization` value: no I/O, no password hash.
    pub fn recent(&self, authorization: &[u8]) -> Option<Arc<Identity>> {
        todo!()
    }

    /// Recognises one request by its `Authorization` value. `address` is the client's, after trusted proxies.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn authenticate(&self, authorization: Option<&[u8]>, address: IpAddr) -> Result<Arc<Identity>, Error> {
        todo!()
    }

    /// Hashes a new password on the bounded pool.
    pub async fn hash_password(&self, password: SecretString) -> Result<PasswordHash, Error> {
        todo!()
    }

    /// Whether this is the user's password; counted against the guessing limits.
    pub async fn verify_password(&self, user: &User, password: SecretString, address: IpAddr) -> Result<bool, Error> {
        todo!()
    }

    /// Drops what is cached of one user: their grants, password, tokens or admin bit changed.
    pub fn forget(&self, user: UserId) {
        todo!()
    }

    /// Drops all cached identities (not the verified passwords, which are keyed by the stored hash).
    pub fn forget_all(&self) {
        todo!()
    }

    /// Compares the store's revision with the last seen one and forgets all when another process changed something.
    /// Called twice a second by `app`, which also hands over the tokens' last-used times.
    pub async fn refresh(&self) {
        todo!()
    }
}
