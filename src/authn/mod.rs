//! Who is asking?
//!
//! Each scheme gives one of three answers: not requested (no such credential), an identity, or failed, which stops: a
//! rejected credential never falls through to another scheme. The warm path is one keyed hash and one cache look-up.

mod basic;
mod guesses;
mod passwords;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use crate::authz::{Identity, Limits, Scheme, Subject, TokenId, UserId};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::crypto::{AccessToken, CacheKeys, PasswordHash};
use crate::store::{self, Store, Token, User};

use basic::{Credential, credential};
use guesses::Guesses;
use passwords::Passwords;

#[cfg(test)]
mod tests;

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
    #[must_use]
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
pub struct Authn {
    store: Arc<Store>,
    clock: Clock,
    keys: CacheKeys,
    identities: moka::sync::Cache<[u8; 32], Known>,
    passwords: Passwords,
    guesses: Guesses,
    /// Raised by every change that any cached identity may depend on; an identity loaded before is not kept.
    generation: AtomicU64,
    /// The store's revision when we last looked.
    revision: AtomicI64,
    last_used: Mutex<HashMap<TokenId, Timestamp>>,
}

/// A recently recognised credential.
#[derive(Clone, Debug)]
struct Known {
    identity: Arc<Identity>,
    expires: Option<Timestamp>,
}

/// Tokens whose last use waits to be written; beyond that it is not noted.
const MAX_LAST_USED: usize = 10_000;

impl Authn {
    /// Recognises the users and tokens of `store`.
    #[must_use]
    pub fn new(config: &config::Authn, store: Arc<Store>, clock: Clock) -> Self {
        let identities =
            moka::sync::Cache::builder().max_capacity(config.cache_entries).time_to_live(config.cache_ttl).build();
        Self {
            passwords: Passwords::new(config),
            guesses: Guesses::new(config, clock.clone()),
            store,
            clock,
            keys: CacheKeys::new(),
            identities,
            generation: AtomicU64::new(0),
            revision: AtomicI64::new(-1),
            last_used: Mutex::default(),
        }
    }

    /// The identity behind a recently seen `Authorization` value: no I/O, no password hash.
    #[must_use]
    pub fn recent(&self, authorization: &[u8]) -> Option<Arc<Identity>> {
        let known = self.identities.get(&self.keys.key("identity", authorization))?;
        match known.expires {
            Some(expires) if expires <= self.clock.now() => None,
            Some(_) | None => Some(known.identity),
        }
    }

    /// Recognises one request by its `Authorization` value. `address` is the client's, after trusted proxies.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn authenticate(&self, authorization: Option<&[u8]>, address: IpAddr) -> Result<Arc<Identity>, Error> {
        let authorization = authorization.ok_or(Error::Missing)?;
        if let Some(identity) = self.recent(authorization) {
            return Ok(identity);
        }
        // Read before the store is: whatever changes while we load makes the generation differ.
        let generation = self.generation.load(Ordering::SeqCst);
        let recognised = match credential(authorization) {
            Ok(Credential::Token { text, user }) => self.by_token(&text, user.as_deref()).await,
            Ok(Credential::Password { user, password }) => self.by_password(&user, password, address).await,
            Err(reason) => Err(Error::Failed(reason)),
        };
        let known = match recognised {
            Ok(known) => known,
            Err(error @ Error::Failed(_)) => {
                // A token cannot be guessed, so a right one is never held up; wrong ones are counted all the same.
                self.guesses.begin(address)?.failed();
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.keep(authorization, &known, generation);
        Ok(known.identity)
    }

    /// Hashes a new password on the bounded pool.
    ///
    /// # Errors
    /// [`Error::Busy`]
    pub async fn hash_password(&self, password: SecretString) -> Result<PasswordHash, Error> {
        self.passwords.hash(password).await
    }

    /// Whether this is the user's password; counted against the guessing limits.
    ///
    /// # Errors
    /// [`Error::TooManyAttempts`], [`Error::Busy`]
    pub async fn verify_password(&self, user: &User, password: SecretString, address: IpAddr) -> Result<bool, Error> {
        let matches = self.password_matches(&user.name, Some(user), password, address).await?;
        if !matches {
            self.guesses.begin(address)?.failed();
        }
        Ok(matches)
    }

    /// Drops what is cached of one user: their grants, password, tokens or admin bit changed.
    ///
    /// Drops everybody's, which costs each of them one read of the store: the next look at the revision does so anyway.
    pub fn forget(&self, _user: UserId) {
        self.forget_all();
    }

    /// Drops all cached identities (not the verified passwords, which are keyed by the stored hash).
    pub fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        self.identities.invalidate_all();
    }

    /// Compares the store's revision with the last seen one and forgets all when anything changed, here or in another
    /// process; hands over the tokens' last-used times. Called twice a second by `app`.
    pub async fn refresh(&self) {
        match self.store.revision().await {
            Ok(revision) => {
                if self.revision.swap(revision, Ordering::SeqCst) != revision {
                    self.forget_all();
                }
            }
            // When we cannot look, nothing cached may be relied on.
            Err(error) => {
                tracing::warn!(%error, "the store's revision could not be read");
                self.forget_all();
            }
        }
        let used = std::mem::take(&mut *self.last_used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let used: Vec<_> = used.into_iter().collect();
        if let Err(error) = self.store.touch_tokens(&used).await {
            tracing::warn!(%error, tokens = used.len(), "last uses of tokens could not be noted");
        }
    }

    async fn by_token(&self, text: &SecretString, user: Option<&str>) -> Result<Known, Error> {
        let failed = |reason| Err(Error::Failed(reason));
        let Some(token) = AccessToken::parse(text.expose_secret()) else { return failed(Reason::MalformedToken) };
        let Some((token, owner)) = self.store.token_by_hash(&token.hash()).await? else {
            return failed(Reason::UnknownToken);
        };
        if user.is_some_and(|user| user != owner.name) {
            return failed(Reason::TokenOfAnother);
        }
        let now = self.clock.now();
        if token.revoked.is_some() {
            return failed(Reason::RevokedToken);
        }
        if token.expires <= now {
            return failed(Reason::ExpiredToken);
        }
        self.note_use(&token, now);
        let scheme = Scheme::Token(token.id);
        Ok(Known { identity: self.identity(&owner, scheme, token.limits).await?, expires: Some(token.expires) })
    }

    async fn by_password(&self, name: &str, password: SecretString, address: IpAddr) -> Result<Known, Error> {
        let user = self.store.user_by_name(name).await?;
        if !self.password_matches(name, user.as_ref(), password, address).await? {
            return Err(Error::Failed(if user.is_some() { Reason::WrongPassword } else { Reason::UnknownUser }));
        }
        let Some(user) = user else { return Err(Error::Failed(Reason::UnknownUser)) };
        Ok(Known { identity: self.identity(&user, Scheme::Password, Limits::default()).await?, expires: None })
    }

    /// The same steps for known and unknown names, so that neither time nor shape tells them apart.
    async fn password_matches(
        &self,
        name: &str,
        user: Option<&User>,
        password: SecretString,
        address: IpAddr,
    ) -> Result<bool, Error> {
        let stored = user.and_then(|user| user.password.as_ref());
        let text = stored.map_or("", |hash| &hash.0);
        let mut credential = Vec::with_capacity(text.len() + 64);
        for part in [name, text, password.expose_secret()] {
            credential.extend_from_slice(&(part.len() as u64).to_be_bytes());
            credential.extend_from_slice(part.as_bytes());
        }
        let key = self.keys.key("password", &credential);
        if stored.is_some() && self.passwords.is_verified(&key) {
            return Ok(true);
        }
        // A password that is known to be right is never held up by somebody else's guesses.
        let _place = self.guesses.begin(address)?;
        let attempt = self.guesses.begin_account(name)?;
        let matches = self.passwords.verify(key, stored.cloned(), password).await?;
        if matches {
            attempt.succeeded()
        } else {
            attempt.failed()
        }
        Ok(matches)
    }

    async fn identity(&self, user: &User, scheme: Scheme, limits: Limits) -> Result<Arc<Identity>, Error> {
        let grants = self.store.grants_of(&Subject::User(user.id)).await?;
        Ok(Arc::new(Identity {
            user: user.id,
            name: user.name.as_str().into(),
            admin: user.admin,
            scheme,
            limits,
            grants: Arc::new(grants.into_iter().collect()),
        }))
    }

    fn keep(&self, authorization: &[u8], known: &Known, generation: u64) {
        let key = self.keys.key("identity", authorization);
        self.identities.insert(key, known.clone());
        // Somebody changed something while we were loading: what was loaded may be old.
        if self.generation.load(Ordering::SeqCst) != generation {
            self.identities.invalidate(&key);
        }
    }

    fn note_use(&self, token: &Token, now: Timestamp) {
        const WORTH_NOTING: Duration = Duration::from_secs(60);
        if token.last_used.is_some_and(|last| now.since(last) < WORTH_NOTING) {
            return;
        }
        let mut last_used = self.last_used.lock().unwrap_or_else(PoisonError::into_inner);
        if last_used.len() < MAX_LAST_USED {
            last_used.insert(token.id, now);
        }
    }
}
